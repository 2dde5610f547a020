//! What a stack does about a `stackctl` that fails, and about processes that it leaves behind.

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use testkit::{Stack, processes_of_directory, write_program};

/// A shell script in place of `stackctl`.
fn stand_in(directory: &TempDir, script: &str) -> PathBuf {
    let path = directory.path().join("stackctl");
    write_program(&path, &format!("#!/bin/sh\n{script}\n"));
    path
}

#[tokio::test]
async fn a_stackctl_that_exits_fails_the_start_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let workspace = tempfile::tempdir().unwrap();
    // The orphan has a session of its own, and its parent is gone.
    let script = "cd \"$3\" && setsid sleep 300 & env > env; echo \"$@\" > argv; exit 64";
    let builder = Stack::builder()
        .replicas(5, 3, 2)
        .env("LOG_LEVEL", "debug")
        .arg("--extra")
        .workspace(workspace.path())
        .binary(stand_in(&directory, &format!("cd {}; {script}", directory.path().display())));
    let error = tokio::spawn(async move { builder.start().await }).await.unwrap_err();
    let panic = error.into_panic();
    assert_eq!(panic.downcast_ref(), Some(&"stackctl has exited"));
    let argv = fs::read_to_string(directory.path().join("argv")).unwrap();
    let expected = format!("up --workspace {} --workflow 5 ", workspace.path().display());
    assert!(argv.starts_with(&expected) && argv.ends_with("--extra\n"), "{argv}");
    assert!(argv.contains(" --pull 3 --port-pull ") && argv.contains(" --claude 2 "), "{argv}");
    let environment = fs::read_to_string(directory.path().join("env")).unwrap();
    assert!(environment.contains("LOG_LEVEL=debug\n"), "{environment}");
    assert!(environment.contains("scripted-agent"), "{environment}");
    assert!(!environment.contains("CARGO"), "{environment}");
    let left = processes_of_directory(workspace.path());
    assert_eq!(left, []);
}
