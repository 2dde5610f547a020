use std::{collections::HashMap, os::unix::fs::symlink};

use super::*;

fn read(pairs: &[(&str, &str)]) -> (Isolation, Vec<String>) {
    let env: HashMap<_, _> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut settings = Settings::new(&env);
    let isolation = Isolation::read(&mut settings);
    (isolation, settings.finish().err().map(|error| error.problems).unwrap_or_default())
}

#[test]
fn settings_are_read() {
    let (isolation, problems) = read(&[
        ("AGENT_ISOLATION", "require"),
        ("AGENT_READ_PATHS", "/a:/b/c::"),
        ("AGENT_WRITE_PATHS", "/d"),
        ("AGENT_ENVIRONMENT", "CARGO_HOME, UNSET"),
        ("AGENT_UNIX_SOCKETS", "refuse"),
        ("CARGO_HOME", "/home/me/.cargo"),
    ]);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(isolation.mode, IsolationMode::Require);
    assert_eq!(isolation.read, [Path::new("/a"), Path::new("/b/c")]);
    assert_eq!(isolation.write, [Path::new("/d")]);
    let environment: Vec<_> = isolation.environment().collect();
    assert_eq!(environment, [("CARGO_HOME", "/home/me/.cargo")]);
    assert_eq!(isolation.unix_sockets(), UnixSockets::Refused);
    assert_eq!(read(&[]).0.mode, IsolationMode::BestEffort);
}

#[test]
fn invalid_settings_and_secrets_are_refused_by_name() {
    let (_, problems) = read(&[
        ("AGENT_ISOLATION", "some"),
        ("AGENT_READ_PATHS", "/a:b"),
        ("AGENT_WRITE_PATHS", "/a/../b"),
        ("AGENT_ENVIRONMENT", "A-B,GITHUB_TOKEN,ANTHROPIC_API_KEY,HOME,STACK_TOKEN"),
        ("AGENT_UNIX_SOCKETS", "1"),
        ("GITHUB_TOKEN", "s3cret"),
    ]);
    let names: Vec<_> = problems.iter().map(|it| it.split(':').next().unwrap()).collect();
    let mut expected = vec!["AGENT_ISOLATION", "AGENT_UNIX_SOCKETS", "AGENT_READ_PATHS"];
    expected.push("AGENT_WRITE_PATHS");
    expected.extend(["AGENT_ENVIRONMENT"; 5]);
    assert_eq!(names, expected, "{problems:?}");
    assert!(!problems.concat().contains("s3cret"));
}

#[test]
fn a_job_is_refused_only_if_confinement_is_required_and_impossible() {
    let whole = Enforcement { landlock: 7, scopes: true, seccomp: true };
    let old = Enforcement { landlock: 1, scopes: false, ..whole };
    let without_landlock = Enforcement { landlock: 0, scopes: false, ..whole };
    let without_seccomp = Enforcement { seccomp: false, ..whole };
    for mode in [IsolationMode::Require, IsolationMode::BestEffort, IsolationMode::None] {
        let isolation = Isolation { mode, ..Isolation::default() };
        for kernel in [whole, old] {
            assert_eq!(isolation.check_on(kernel), Ok(()), "{mode:?} {kernel:?}");
        }
        for kernel in [without_landlock, without_seccomp] {
            let code = isolation.check_on(kernel).err().map(|refusal| refusal.code);
            let expected = (mode == IsolationMode::Require).then_some(Code::IsolationUnavailable);
            assert_eq!(code, expected, "{mode:?} {kernel:?}");
        }
    }
    let none = Isolation { mode: IsolationMode::None, ..Isolation::default() };
    assert_eq!(none.enforced(), contract::Isolation::default());
    assert!(none.preflight().concat().contains("NOT confined"));
}

#[test]
fn a_workspace_below_a_readable_directory_stays_closed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for name in ["opt/stack/workspace/.stack", "opt/stack/bin", "opt/other", "usr"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    symlink(root.join("opt/stack/workspace"), root.join("opt/link")).unwrap();
    symlink("opt", root.join("linked")).unwrap();
    let workspace = root.join("opt/stack/workspace");
    let of = |name: &str| {
        let mut found = without(&root.join(name), &[&workspace]).unwrap();
        found.sort();
        found
    };
    for path in ["opt", "linked"] {
        assert_eq!(of(path), [root.join("opt/other"), root.join("opt/stack/bin")]);
    }
    assert_eq!(of("usr"), [root.join("usr")]);
    assert_eq!(of("opt/stack/workspace"), Vec::<PathBuf>::new());
    // What an operator names inside the workspace stays.
    assert_eq!(of("opt/stack/workspace/.stack"), [root.join("opt/stack/workspace/.stack")]);
    assert_eq!(of("missing"), Vec::<PathBuf>::new());
}
