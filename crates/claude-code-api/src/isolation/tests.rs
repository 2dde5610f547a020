use std::{
    collections::HashMap,
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
};

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
        let mut found = without(&root.join(name), std::slice::from_ref(&workspace));
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

#[test]
fn a_directory_that_cannot_be_listed_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for name in ["opt/stack/workspace", "opt/other"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("opt/stack"), fs::Permissions::from_mode(0o311)).unwrap();
    let (opt, workspace) = (root.join("opt"), root.join("opt/stack/workspace"));
    // Root may list everything. Of this thread only, the rights on files are those of another user.
    let found = std::thread::spawn(move || {
        if nix::unistd::geteuid().is_root() {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        }
        assert!(fs::read_dir(opt.join("stack")).is_err(), "the control");
        without(&opt, &[workspace])
    });
    assert_eq!(found.join().unwrap(), [root.join("opt/other")]);
    fs::set_permissions(root.join("opt/stack"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_home_below_a_directory_of_the_system_stays_closed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for name in ["opt/stack", "usr/bin", "home/me"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    symlink("usr/bin", root.join("bin")).unwrap();
    let system = ["opt", "usr", "bin"].map(|name| root.join(name));
    for (home, expected) in [("opt/stack", true), ("usr/bin", false), ("opt", false)] {
        let home = root.join(home);
        let below = homes_below(std::slice::from_ref(&home), &system);
        assert_eq!(below.contains(&home), expected, "{}", home.display());
    }
    assert!(homes_below(&[root.join("home/me"), PathBuf::from("/")], &system).is_empty());
}

/// What `Debug` shows of a confinement are the paths in it.
#[test]
fn secrets_and_a_linked_workspace_stay_closed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for name in ["srv/tools", "srv/workspace/app", "srv/tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["srv/key", "srv/app.pem", "srv/tls.key", "srv/public"] {
        fs::write(root.join(name), "s3cret").unwrap();
    }
    symlink("srv", root.join("linked")).unwrap();
    let text = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let (isolation, problems) = read(&[
        ("AGENT_READ_PATHS", &text("srv")),
        ("GITHUB_TOKEN_SECRET", &text("linked/key")),
        ("GITHUB_APP_PRIVATE_KEY_SECRET", &text("srv/app.pem")),
        ("SSH_KEY_FILE", "/nonexistent/key"),
        ("TLS_KEY", &text("srv/tls.key")),
    ]);
    assert_eq!(problems, Vec::<String>::new());
    let checkout = root.join("srv/workspace/app");
    let (workspace, temporary) = (root.join("linked/workspace"), root.join("linked/tmp"));
    let confinement = isolation
        .confinement(&Places {
            workspace: &workspace,
            temporary: &temporary,
            programs: &[],
            checkout: &checkout,
            private: &[],
            session: &checkout,
        })
        .unwrap();
    let shown = format!("{confinement:?}");
    let has = |name: &str| shown.contains(&format!("{:?}", root.join(name)));
    assert!(has("srv/tools") && has("srv/public") && has("srv/workspace/app"), "{shown}");
    for closed in ["srv", "srv/key", "srv/app.pem", "srv/tls.key", "srv/workspace"] {
        assert!(!has(closed), "{closed}: {shown}");
    }
    let said = isolation.preflight();
    let about_key: Vec<_> = said.iter().filter(|it| it.contains("GITHUB_TOKEN_SECRET")).collect();
    assert_eq!(about_key.len(), 1, "{said:?}");
    assert!(about_key[0].contains("/run/secrets") && !said.concat().contains("SSH_KEY_FILE"));
}

#[test]
fn sockets_in_a_home_and_that_of_the_engine_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    fs::create_dir_all(root.join(".docker/run")).unwrap();
    let (of_home, named) = (root.join(".docker/run/docker.sock"), root.join("engine.sock"));
    let host = format!("unix://{}", named.display());
    let found = || {
        let (isolation, _) = read(&[("HOME", root.to_str().unwrap()), ("DOCKER_HOST", &host)]);
        isolation.control_sockets()
    };
    assert!(!found().contains(&of_home) && !found().contains(&named));
    let _sockets = [&of_home, &named].map(|path| UnixListener::bind(path).unwrap());
    assert!(found().contains(&of_home) && found().contains(&named), "{:?}", found());
}
