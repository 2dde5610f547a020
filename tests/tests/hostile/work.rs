//! Ordinary work does not suffer from the confinement.

use std::{env, fs, path::PathBuf};

use tempfile::TempDir;
use testkit::{AgentScript, PATIENCE, Stack, http_json, scratch, skip, wait_for};

use crate::scene::{PYTHON, User, post, separate};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_can_work_as_usual() {
    work_as_usual("an_agent_can_work_as_usual", User::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_user_of_its_own_can_work_as_usual() {
    const TEST: &str = "an_agent_with_a_user_of_its_own_can_work_as_usual";
    if !nix::unistd::geteuid().is_root() {
        return skip(TEST, "only root can give agents a user of their own");
    }
    work_as_usual(TEST, User::Separate).await;
}

async fn work_as_usual(test: &str, user: User) {
    if !std::path::Path::new(PYTHON).exists() {
        return skip(test, "python3 is not here");
    }
    let (marks, place) = (scratch(), TempDir::new().unwrap());
    let (said, ended) = (marks.path().join("said"), marks.path().join("ended"));
    let home = PathBuf::from(env::var_os("HOME").unwrap());
    let of_home = |variable: &str, name: &str| {
        env::var_os(variable).map_or_else(|| home.join(name), PathBuf::from)
    };
    let (cargo, rustup) = (of_home("CARGO_HOME", ".cargo"), of_home("RUSTUP_HOME", ".rustup"));
    // Python, cargo and the rest are those of the system; the toolchain is in a home.
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", cargo.join("bin").display());
    let mut builder = Stack::builder();
    if user == User::Separate {
        // This user cannot reach a toolchain in root's home.
        builder =
            separate(builder.workspace(place.path().join("workspace")), place.path(), marks.path());
    } else {
        let toolchain = format!("{}:{}", cargo.display(), rustup.display());
        builder = builder.env("AGENT_READ_PATHS", toolchain).env("AGENT_USER", "none");
    }
    let stack = builder
        .env("PATH", path)
        .env("AGENT_ISOLATION", "require")
        .env("AGENT_ENVIRONMENT", "RUSTUP_HOME")
        .env("RUSTUP_HOME", &rustup)
        // Whatever sockets this user may connect to.
        .env("AGENT_UNIX_SOCKETS", "allow")
        .start()
        .await;
    let url = format!("{}/health", stack.claude_url());
    assert_eq!(http_json("GET", &url, None, &[]).await.0, 200);
    let work = format!(
        "bash work.sh > {0} 2>&1; echo $? > {1}.part; mv {1}.part {1}",
        said.display(),
        ended.display()
    );
    let script = AgentScript::new()
        .write("work.sh", include_str!("work.sh"))
        .spawn_in_new_session(&["bash", "-c", &work])
        .wait_file(&ended);
    let mut response = post(&stack, &script).send().await;
    let connected = response.next_of_kind("connected").await.json;
    let kernel = child_process::Enforcement::of_this_kernel();
    assert_eq!(connected["isolation"]["landlock"], kernel.landlock);
    assert_eq!(connected["isolation"]["seccomp"], kernel.seccomp);
    assert_eq!(connected["isolation"]["uid"], user == User::Separate);
    let status = wait_for("the work", PATIENCE, || async { fs::read_to_string(&ended).ok() }).await;
    let said = fs::read_to_string(&said).unwrap();
    assert_eq!(status.trim(), "0", "{said}");
    let wanted = ["modes", "git", "venv", "server", "terminal", "shared memory", "sockets"];
    for work in wanted.into_iter().chain(["names", "processes", "files"]) {
        assert!(said.contains(&format!("done: {work}\n")), "{work}: {said}");
    }
    for (work, is_here) in [
        ("cargo", user == User::Own && cargo.join("bin/cargo").exists() && rustup.exists()),
        ("npm", std::path::Path::new("/usr/bin/npm").exists()),
    ] {
        if !is_here && user == User::Own {
            skip(test, &format!("{work} is not here"));
        } else if is_here {
            assert!(said.contains(&format!("done: {work}\n")), "{work}: {said}");
        }
    }
    assert_eq!(response.collect_all().await.last().unwrap().json["type"], "completed");
}
