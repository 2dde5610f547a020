//! The attacks of `attacks.py`.

use std::{fs, path::Path};

use child_process::Enforcement;
use nix::unistd::geteuid;
use testkit::skip;

use crate::scene::{Kernel, PYTHON, Results, Scene, User};

/// Attacks that fail without confinement too, for another reason: only root may.
const ROOT_ONLY: [&str; 4] =
    ["mount", "make_the_device_of_a_disk", "capture_packets", "send_raw_packets"];
/// The stack's own processes hide from other processes of their user, even without confinement. Not from root.
const HIDDEN: [&str; 2] = ["environment_of_the_gateway", "environment_of_a_replica"];
/// What needs the scopes of Landlock (Linux 6.12).
const SCOPED: [&str; 5] = [
    "connect_to_an_abstract_socket",
    "kill_a_replica",
    "signal_another_agent",
    "stop_the_gateway",
    "stop_the_gateway_by_descriptor",
];
/// What Landlock does not decide about: it works for an agent of the stack's user.
const SAME_USER: [&str; 5] = [
    "change_the_mode_of_the_stacks_files",
    "change_the_times_of_the_stacks_files",
    "set_an_attribute_of_the_stacks_files",
    "change_the_priority_of_another_process",
    "use_the_memory_of_the_user",
];
/// What a user of its own does not keep an agent from, without Landlock: agents have the same user.
const BETWEEN_AGENTS: [&str; 7] = [
    "environment_of_another_agent",
    "signal_another_agent",
    "list_the_private_files_of_another_agent",
    "empty_a_file_of_another_agent",
    "read_the_session_of_another_job",
    "read_the_checkout_of_another_job",
    "link_to_the_checkout_of_another_job",
];
/// What everybody may do.
const PUBLIC: [&str; 3] = [
    "list_the_directory_of_temporary_files",
    "write_to_the_directory_of_temporary_files",
    "connect_to_an_abstract_socket",
];
/// What a machine may refuse to everybody: user namespaces and persistent keyrings are optional, and Yama may keep
/// users from tracing.
const OPTIONAL: [&str; 6] = [
    "set_an_attribute_of_the_stacks_files",
    "make_a_namespace",
    "use_the_keys_of_the_user",
    "trace_another_process",
    "memory_of_another_process",
    "memory_of_another_process_by_call",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_works_for_a_confined_agent_of_the_same_user() {
    if can_run("nothing_works_for_a_confined_agent_of_the_same_user", User::Own) {
        nothing_works(User::Own).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_works_for_a_confined_agent_of_an_ordinary_user() {
    if can_run("nothing_works_for_a_confined_agent_of_an_ordinary_user", User::Nobody) {
        nothing_works(User::Nobody).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_works_for_a_confined_agent_with_a_user_of_its_own() {
    if can_run("nothing_works_for_a_confined_agent_with_a_user_of_its_own", User::Separate) {
        nothing_works(User::Separate).await;
    }
}

/// What else protects the stack is not needed for that.
#[tokio::test(flavor = "multi_thread")]
async fn without_landlock_a_user_of_its_own_keeps_an_agent_from_the_stack() {
    const TEST: &str = "without_landlock_a_user_of_its_own_keeps_an_agent_from_the_stack";
    if !can_run(TEST, User::Separate) {
        return;
    }
    let mut scene = Scene::start_on(Kernel::Old, User::Separate, "best-effort").await;
    assert!(scene.stack.log().contains("NOT fully confined") && scene.has_own_user);
    let results = scene.attack().await;
    let worked = names(&results, |result| result == "worked");
    let is_expected = |worked: &String| {
        let name = worked.split(':').next().unwrap();
        BETWEEN_AGENTS.contains(&name) || PUBLIC.contains(&name)
    };
    let (expected, others): (Vec<_>, Vec<_>) = worked.into_iter().partition(is_expected);
    assert!(others.is_empty(), "these attacks worked: {others:#?}");
    // The control: Landlock is really missing.
    assert!(expected.len() > 5, "{results:#?}");
    assert_eq!(scene.end_of_victim().await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_without_confinement() {
    if can_run("everything_works_without_confinement", User::Own) {
        everything_works(User::Own).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_without_confinement_for_an_ordinary_user() {
    if can_run("everything_works_without_confinement_for_an_ordinary_user", User::Nobody) {
        everything_works(User::Nobody).await;
    }
}

async fn nothing_works(user: User) {
    let mut scene = Scene::start(user, "best-effort").await;
    let job =
        scene.stack.workspace().join(".stack/jobs").join(scene.text("queued")).join("job.json");
    let before = fs::read(&job).unwrap();
    let mut results = scene.attack().await;
    assert_eq!(scene.has_own_user, user == User::Separate);
    if user != User::Separate {
        let failed: Vec<_> = SAME_USER
            .into_iter()
            // Root needs a capability for it that agents do not have.
            .filter(|name| !scene.is_root() || *name != "change_the_priority_of_another_process")
            .filter(|name| !OPTIONAL.contains(name) && results[*name] != "worked")
            .collect();
        assert!(failed.is_empty(), "SECURITY.md says that these work: {failed:?}");
        results.retain(|name, _| !SAME_USER.contains(&&**name));
    }
    if !Enforcement::of_this_kernel().scopes && user != User::Separate {
        results.retain(|name, _| !SCOPED.contains(&&**name));
    }
    let worked = names(&results, |result| result == "worked");
    assert!(worked.is_empty(), "these attacks worked: {worked:?}");
    assert!(results.len() > 35, "{results:#?}");
    // They failed because they were refused, and not because the script is wrong. Landlock refuses a link into another
    // hierarchy as if it were on another device (18).
    let refused = |result: &str| {
        ["PermissionError", "[Errno 1]", "[Errno 13]", "[Errno 18]", "unshare"]
            .iter()
            .any(|it| result.contains(it))
    };
    let otherwise = names(&results, |result| !refused(result));
    assert!(otherwise.is_empty(), "{otherwise:?}: {results:#?}");
    // The stack is as it was.
    assert_eq!(fs::read(&job).unwrap(), before);
    let victim = scene.end_of_victim().await;
    assert_eq!(victim["state"], "succeeded", "{victim}");
}

async fn everything_works(user: User) {
    let mut scene = Scene::start(user, "none").await;
    assert!(scene.stack.log().contains("NOT confined"), "the log says so");
    let results = scene.attack().await;
    let failed = names(&results, |result| result != "worked");
    let (expected, failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|failed| {
        let name = failed.split(':').next().unwrap();
        OPTIONAL.contains(&name)
            || !scene.is_root() && (ROOT_ONLY.contains(&name) || HIDDEN.contains(&name))
    });
    assert!(failed.is_empty(), "these attacks fail without confinement too: {failed:#?}");
    eprintln!("these attacks fail here without confinement, for another reason: {expected:#?}");
}

fn names(results: &Results, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let wanted = results.iter().filter(|(_, result)| is_wanted(result));
    wanted.map(|(name, result)| format!("{name}: {result}")).collect()
}

fn can_run(test: &str, user: User) -> bool {
    let why = if !Path::new(PYTHON).exists() {
        "python3 is not here"
    } else if Enforcement::of_this_kernel().landlock < 3 {
        "the kernel does not have enough of Landlock (Linux 6.2)"
    } else if user == User::Separate && !geteuid().is_root() {
        "only root can give agents a user of their own"
    } else if user == User::Nobody && !geteuid().is_root() {
        "only root can run a stack as another user, and the other test is one of an ordinary user already"
    } else if user == User::Nobody && !Path::new("/usr/bin/setpriv").exists() {
        "setpriv is not here"
    } else {
        return true;
    };
    skip(test, why);
    false
}
