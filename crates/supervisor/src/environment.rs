//! The environment of each part: only the settings that it reads.
//!
//! So a secret reaches only the part that uses it, and a new setting reaches its part without being listed here.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{OsStr, OsString},
};

use boot::{Env, InvalidSettings, SentSettings, Settings};
use contract::{ReplicaId, Service};

use crate::{Part, Plan, ReadSettings};

/// Variables that libraries read themselves, so no settings name them: backtraces, the language of messages, the
/// directory for temporary files, and OpenSSL's certificates.
const OF_LIBRARIES: [&str; 5] =
    ["RUST_BACKTRACE", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Variables that `up` sets itself, whatever the environment contains, in addition to ports and service URLs.
const DECIDED: [&str; 7] = [
    "WORKSPACE_DIR",
    "BIND_ADDRESS",
    "PORT",
    "REPLICA_ID",
    "ADVERTISE_ADDRESS",
    "ADVERTISE_TOWARDS",
    "DRAIN",
];

/// Settings that are no secrets and stay in the environment: where programs are searched for, and the volume, which shows
/// an operator to which stack a process belongs. All others are sent.
const IN_ENVIRONMENT: [&str; 2] = ["PATH", "WORKSPACE_DIR"];

/// An environment that records which names are read.
struct Recorder<'a> {
    of: &'a dyn Env,
    asked: RefCell<BTreeSet<String>>,
}

impl Env for Recorder<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        self.asked.borrow_mut().insert(name.to_owned());
        self.of.get(name)
    }
}

/// The names that a part reads if its environment is `env`.
fn read(read_settings: ReadSettings, part: Part, env: &dyn Env) -> BTreeSet<String> {
    let recorder = Recorder { of: env, asked: RefCell::default() };
    let mut settings = Settings::new(&recorder);
    read_settings(part, &mut settings);
    recorder.asked.into_inner()
}

fn is_decided(name: &str) -> bool {
    let of_service = |service: Service| {
        [service.spec().port_variable, service.spec().url_variable].contains(&name)
    };
    DECIDED.contains(&name) || Service::ALL.into_iter().any(of_service)
}

/// The variables in `env` that a part gets.
///
/// The names are determined twice, with nothing set and with everything set, because some are read only if another is
/// set, or is not.
fn passed(read_settings: ReadSettings, part: Part, env: &dyn Env) -> BTreeMap<String, OsString> {
    let nothing: HashMap<String, OsString> = HashMap::new();
    let names =
        read(read_settings, part, &nothing).into_iter().chain(read(read_settings, part, env));
    names
        .chain(OF_LIBRARIES.map(str::to_owned))
        .filter(|name| !is_decided(name))
        .filter_map(|name| Some((env.get(&name)?, name)))
        .map(|(value, name)| (name, value))
        .collect()
}

/// The variables that any part of a stack gets, with their values in `env`.
#[must_use]
pub fn settings_of_parts(read_settings: ReadSettings, env: &dyn Env) -> BTreeMap<String, OsString> {
    Part::all().flat_map(|part| passed(read_settings, part, env)).collect()
}

/// Reads the settings of all parts as the parts will, and reports each problem once.
///
/// Ignores variables that `up` sets itself, such as `WORKSPACE_DIR`.
///
/// # Errors
/// If any setting is invalid. The error names all of them.
pub fn check_settings(read_settings: ReadSettings, env: &dyn Env) -> Result<(), InvalidSettings> {
    let mut problems = BTreeSet::new();
    for part in Part::all() {
        let passed: HashMap<String, OsString> =
            passed(read_settings, part, env).into_iter().collect();
        let mut settings = Settings::new(&passed);
        read_settings(part, &mut settings);
        problems.extend(settings.finish().err().into_iter().flat_map(|error| error.problems));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(InvalidSettings { problems: problems.into_iter().collect() })
    }
}

/// The environments of all parts.
#[derive(Debug)]
pub(crate) struct Environment {
    parts: BTreeMap<Part, BTreeMap<String, OsString>>,
}

impl Environment {
    /// Reads `env` for a stack with this plan and workspace. The parts share the secret in `secret_file`, unless `env` names
    /// another.
    pub(crate) fn new(plan: &Plan, workspace: &str, secret_file: &str, env: &dyn Env) -> Self {
        let of_part = |part: Part| {
            let mut variables = passed(plan.read_settings, part, env);
            let mut set =
                |name: &str, value: String| variables.insert(name.to_owned(), value.into());
            set("WORKSPACE_DIR", workspace.to_owned());
            if env.get("STACK_SECRET_FILE").is_none_or(|file| file.is_empty()) {
                set("STACK_SECRET_FILE", secret_file.to_owned());
            }
            match part {
                Part::Gateway => {
                    set("BIND_ADDRESS", plan.bind.to_string());
                    for (service, port) in plan.ports.iter() {
                        set(service.spec().port_variable, port.to_string());
                    }
                }
                Part::Replica(service) => {
                    // On loopback, wherever the gateway listens: only the gateway needs to reach them.
                    set("BIND_ADDRESS", "127.0.0.1".to_owned());
                    set("PORT", "0".to_owned());
                    for asked in service.spec().asks {
                        set(asked.spec().url_variable, plan.url(*asked));
                    }
                }
            }
            (part, variables)
        };
        Self { parts: Part::all().map(of_part).collect() }
    }

    /// The environment of one process of a part, and the settings that are sent to it. The environment has only what
    /// libraries read.
    pub(crate) fn of(&self, part: Part, replica: ReplicaId) -> (Vec<(&str, &OsStr)>, SentSettings) {
        let (mut environment, mut sent) = (Vec::new(), SentSettings::default());
        for (name, value) in self.parts.get(&part).into_iter().flatten() {
            if OF_LIBRARIES.contains(&name.as_str()) || IN_ENVIRONMENT.contains(&name.as_str()) {
                environment.push((name.as_str(), value.as_os_str()));
            } else {
                sent.add(name, value);
            }
        }
        if part.service().is_some() {
            sent.add("REPLICA_ID", replica.to_string());
        }
        (environment, sent)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use contract::PerService;

    use super::*;

    /// A pull has a token, the agent has a key in one of two variables, and all parts have a level.
    fn read_settings(part: Part, settings: &mut Settings<'_>) {
        settings.or("LEVEL", 1_u16, "a level");
        let _ = settings.text("WORKSPACE_DIR");
        match part {
            Part::Replica(Service::Pull) => drop(settings.secret("TOKEN_FILE", "TOKEN")),
            Part::Replica(Service::Claude) if settings.text("KEY").is_none() => {
                settings.or("OTHER_KEY", 0_u16, "a key");
            }
            _ => {}
        }
    }

    fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn plan(bind: IpAddr) -> Plan {
        Plan {
            program: "/bin/true".into(),
            workspace: "/w".into(),
            bind,
            ports: PerService::from_fn(Service::default_port),
            replicas: PerService::from_fn(|_| 1),
            read_settings,
            tls: None,
        }
    }

    #[test]
    fn a_part_gets_what_it_reads_and_nothing_else() {
        let env = env(&[
            ("LEVEL", "2"),
            ("TOKEN", "s3cret"),
            ("KEY", "k"),
            ("OTHER_KEY", "3"),
            ("LANG", "C"),
            ("HOME", "/root"),
            ("WORKSPACE_DIR", "/elsewhere"),
        ]);
        let plan = plan(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let environment = Environment::new(&plan, "/w", "/w/secret", &env);
        for part in Part::all() {
            let (shown, sent) = environment.of(part, ReplicaId::new());
            // Every other process of the user may see these.
            assert_eq!(shown, [("LANG", "C".as_ref()), ("WORKSPACE_DIR", "/w".as_ref())], "{part}");
            assert_eq!(sent.get("LEVEL").unwrap(), "2", "{part}");
            assert_eq!(sent.get("STACK_SECRET_FILE").unwrap(), "/w/secret", "{part}");
            let has = |name| sent.get(name).is_some();
            assert!(!has("HOME"), "{part}");
            let is = |service| part == Part::Replica(service);
            assert_eq!(has("TOKEN"), is(Service::Pull), "{part}");
            // The other key is not read, but would be if the first were not set.
            assert_eq!(has("KEY"), is(Service::Claude), "{part}");
            assert_eq!(has("OTHER_KEY"), is(Service::Claude), "{part}");
            assert_eq!(has("REPLICA_ID"), part != Part::Gateway, "{part}");
            assert_eq!(has("GITHUB_PULL_API"), is(Service::Workflow), "{part}");
        }
        let text = |part, name| {
            let (_, sent) = environment.of(part, ReplicaId::new());
            sent.get(name).unwrap().into_string().unwrap()
        };
        assert_eq!(text(Part::Gateway, "BIND_ADDRESS"), "::");
        assert_eq!(text(Part::Gateway, "PORT_PULL"), "4000");
        let workflow = Part::Replica(Service::Workflow);
        assert_eq!(text(workflow, "CLAUDE_CODE_API"), "http://[::1]:3000");
        assert_eq!(text(workflow, "BIND_ADDRESS"), "127.0.0.1");
        assert_eq!(text(workflow, "PORT"), "0");
    }

    #[test]
    fn all_problems_are_reported_once_without_secrets() {
        let check = |pairs: &[(&str, &str)]| check_settings(read_settings, &env(pairs));
        assert_eq!(check(&[("LEVEL", "2")]), Ok(()));
        let error =
            check(&[("LEVEL", "high"), ("OTHER_KEY", "s3cret"), ("TOKEN_FILE", "/nowhere")])
                .unwrap_err();
        let names: Vec<_> = error.problems.iter().map(|it| it.split(':').next().unwrap()).collect();
        assert_eq!(names, ["LEVEL", "OTHER_KEY", "TOKEN_FILE"]);
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
