//! `stackctl doctor`: what this machine has for a stack, and what is missing.
//!
//! Looking and judging are separate: what is found becomes a value (`Cli`, `Volume`, `Port`, the text of a file), and a
//! function without side effects turns it into a finding.
//!
//! *Architecture invariant:* nothing here changes the machine, and no secret is printed.

mod agent;
mod files;
mod finding;
mod isolation;
mod limits;
mod net;
mod optional;
mod processes;
mod tls;
mod volume;

use std::{collections::HashMap, ffi::OsString, io, time::SystemTime};

use boot::{ProcessEnv, Settings};
use child_process::{
    Enforcement,
    machine::{self, Capacity},
};
use clap::Args;
use contract::Service;
use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::{Uid, geteuid},
};
use procfs::process::{FDTarget, Process};
use serde::Serialize;

use crate::{
    client::print,
    command::exit,
    program, serve,
    up::{UpOptions, port_flag},
};
use agent::{CREDENTIALS, Cli};
use files::RealFiles;
use finding::{Finding, State};
use limits::Counts;
use net::{Host, Port};
use volume::Volume;

/// Check whether this machine has what `stackctl up` needs
///
/// Takes the options of `up`, and checks what a stack with these options needs. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl doctor
  stackctl doctor --claude 20 --workspace /srv/workspace --net

Exit codes: 0 this machine has everything that `up` needs, 1 something is missing.")]
pub(crate) struct DoctorOptions {
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Also try to connect to the git hosts and to the Messages API
    #[arg(long)]
    pub(crate) net: bool,
    #[command(flatten)]
    pub(crate) up: UpOptions,
}

pub(crate) async fn doctor(options: DoctorOptions) -> anyhow::Result<u8> {
    let report = Report::new(look(&options).await);
    print(&if options.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.text()
    })?;
    Ok(if report.ok { exit::COMPLETE } else { exit::FAILED })
}

/// All findings, the most important first.
async fn look(options: &DoctorOptions) -> Vec<Finding> {
    let up = &options.up;
    let passed: HashMap<String, OsString> =
        supervisor::settings_of_parts(serve::read_settings, &ProcessEnv).into_iter().collect();
    let mut settings = Settings::new(&passed);
    let mut config = claude_code_api::Config::read(&mut settings);
    let pull = github_pull_api::Config::read(&mut settings);
    let problems = supervisor::check_settings(serve::read_settings, &ProcessEnv)
        .map_or_else(|error| error.problems, |()| Vec::new());
    let is_about_credential =
        |problem: &&String| CREDENTIALS.iter().any(|name| problem.starts_with(name));
    let (credential_problems, problems): (Vec<_>, Vec<_>) =
        problems.iter().partition(is_about_credential);
    let source =
        CREDENTIALS.into_iter().find(|name| Settings::new(&ProcessEnv).text(name).is_some());
    let counts = Counts(up.services.replicas);
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    let tried = match config.isolation.user.user() {
        Some(user) => config.try_user(user, &up.workspace).await.map(Some),
        None => Ok(None),
    };
    let tried = tried.map(|trial| trial.into_iter().for_each(|trial| config.settle(trial)));
    let is_root = geteuid().is_root();
    let stack = if is_root { isolation::Stack::Root } else { isolation::Stack::Ordinary };
    let without = match config.isolation.refusal_of_user() {
        Some(_) => isolation::Without::Refused,
        None => isolation::Without::OfStack,
    };
    let agent = config.isolation.user.user().map_or_else(geteuid, |user| Uid::from_raw(user.uid));
    let control_sockets = config.isolation.control_sockets();
    let volume = Volume::look(&up.workspace);
    let docker_host = Settings::new(&ProcessEnv).text("DOCKER_HOST");
    let problems: Vec<_> = problems.into_iter().cloned().collect();
    let room = |resource, setting, room: &io::Result<Capacity>| {
        processes::room(resource, setting, room, counts, config.processes)
    };
    let mut findings = vec![
        agent::cli(&Cli::look(&config).await),
        agent::credential(
            config.credential.as_ref(),
            source,
            credential_problems.first().map(|problem| problem.as_str()),
            SystemTime::now(),
        ),
        agent::user(geteuid().as_raw(), config.isolation.is_sandbox, config.runs_agents_as_root()),
        isolation::user(
            &config.isolation.user,
            tried.as_ref().copied().map_err(String::as_str),
            stack,
            without,
        ),
        agent::settings(&problems),
        net::ports(&Port::look(up.bind, &ports(up))),
        volume::callers(
            &up.workspace,
            Settings::new(&ProcessEnv).text("ADMIN_TOKEN_SECRET").is_some(),
            Settings::new(&ProcessEnv).flag("ALLOW_ANONYMOUS"),
            up.bind,
        ),
        tls::certificate(
            gateway::read_tls(&mut Settings::new(&ProcessEnv)).as_ref(),
            up.bind,
            SystemTime::now(),
        ),
        volume::workspace(&volume),
        volume::disk(&volume),
        volume::temporary(&config.temporary, &volume::try_temporary(&config.temporary)),
        limits::memory(&RealFiles, counts),
        limits::open_files(files, counts),
        limits::inotify(&RealFiles, inotify_instances(), counts),
        processes::end_of_jobs(&machine::cgroup_delegation(), &machine::pid_namespace().await),
        processes::process_limit(machine::process_limit_of(agent), config.processes),
        room("process ids", "kernel.pid_max", &machine::pids()),
        room("threads", "kernel.threads-max", &machine::threads()),
        isolation::isolation(config.isolation.mode, Enforcement::of_this_kernel()),
        isolation::sockets(&config.isolation, &control_sockets),
        optional::docker(&swarm::version(docker_host).await),
        optional::ipvs(&RealFiles),
    ];
    if let Some(closed) = isolation::closed(&config.isolation) {
        findings.push(closed);
    }
    if options.net {
        let hosts = pull.credential_hosts.iter().map(|host| Host::git(host));
        let api = config.base_url.clone().unwrap_or_default();
        for host in hosts.chain([Host::messages_api(&api)]) {
            findings.push(net::reachability(&host, &host.reach().await));
        }
    }
    findings
}

fn ports(up: &UpOptions) -> Vec<(String, u16)> {
    let flag = |service: Service| format!("--{}", port_flag(service));
    up.services.ports.iter().map(|(service, port)| (flag(service), *port)).collect()
}

/// How many inotify instances the processes of this user have, as far as this process can see them.
fn inotify_instances() -> u64 {
    let is_instance =
        |target: &FDTarget| matches!(target, FDTarget::AnonInode(kind) if kind == "inotify");
    // Processes of others, and those that end meanwhile, cannot be looked into.
    let of_process = |process: Process| {
        let descriptors = process.fd().into_iter().flatten().flatten();
        descriptors.filter(|descriptor| is_instance(&descriptor.target)).count()
    };
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    processes.map(of_process).map(|count| u64::try_from(count).unwrap_or(0)).sum()
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether `up` and its jobs would work.
    ok: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn new(findings: Vec<Finding>) -> Self {
        Self { ok: !findings.iter().any(|finding| finding.state == State::Missing), findings }
    }

    fn text(&self) -> String {
        let findings: String = self.findings.iter().map(|finding| finding.text() + "\n").collect();
        format!("{findings}\n{}\n", self.verdict())
    }

    fn verdict(&self) -> String {
        let me = program::name();
        let missing = |finding: &&Finding| finding.state == State::Missing;
        let names: Vec<_> = self.findings.iter().filter(missing).map(|it| it.name).collect();
        match &*names {
            [] => format!("This machine has everything: `{me} up` will work."),
            names => {
                let demo = ["Claude Code CLI", "credential", "user"];
                let hint = if names.iter().all(|name| demo.contains(name)) {
                    format!(" `{me} demo` works without them.")
                } else {
                    String::new()
                };
                format!("`{me} up` will not work yet. Missing: {}.{hint}", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_fails() {
        let (ok, advice) = (Finding::ok("a", "x"), Finding::advice("b", "x", "y"));
        let (unknown, missing) =
            (Finding::unknown("c", "x"), Finding::missing("credential", "x", "y"));
        let fine = Report::new(vec![ok.clone(), advice, unknown]);
        assert!(fine.ok);
        assert_eq!(fine.verdict(), "This machine has everything: `stackctl up` will work.");
        let bad = Report::new(vec![ok, missing.clone()]);
        assert!(!bad.ok);
        assert_eq!(
            bad.verdict(),
            "`stackctl up` will not work yet. Missing: credential. `stackctl demo` works without them."
        );
        let worse = Report::new(vec![missing, Finding::missing("ports", "x", "y")]);
        assert!(worse.verdict().ends_with("credential, ports."));
    }

    #[test]
    fn settings_are_those_that_reach_a_part() {
        let env: HashMap<String, String> = [
            ("QUEUE_LIMIT", "many"),
            ("GIT_STALL_SECONDS", "soon"),
            ("JOB_TIMEOUT_SECONDS", "0"),
            ("LOG_FORMAT", "xml"),
            ("CLAUDE_CODE_CREDENTIALS_JSON", "s3cret"),
            // `up` sets these itself.
            ("PORT_WORKFLOW", "x"),
            ("WORKSPACE_DIR", "x"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let problems = supervisor::check_settings(serve::read_settings, &env).unwrap_err().problems;
        let names: Vec<_> = problems.iter().map(|it| it.split(':').next().unwrap()).collect();
        let expected = [
            "CLAUDE_CODE_CREDENTIALS_JSON",
            "GIT_STALL_SECONDS",
            "JOB_TIMEOUT_SECONDS",
            "LOG_FORMAT",
            "QUEUE_LIMIT",
        ];
        assert_eq!(names, expected);
        assert!(!problems.concat().contains("s3cret"));
    }

    #[tokio::test]
    async fn this_machine_is_looked_at() {
        use clap::Parser as _;
        let command = crate::cli::Cli::parse_from(["stackctl", "doctor", "--claude", "1"]).command;
        let crate::cli::Command::Doctor(options) = command else { panic!("{command:?}") };
        let findings = look(&options).await;
        assert_eq!(findings.len(), 22, "{findings:#?}");
    }

    #[test]
    fn inotify_instances_are_found_in_proc() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = workspace::Workspace::open(directory.path()).unwrap();
        let _watch = workspace::Registry::new(&workspace, Service::Pull).watch();
        assert!((1..1_000_000).contains(&inotify_instances()));
    }
}
