//! Pulls beside `git clone` and `git pull`, from the same server in the same run: times and memory as ratios.
//!
//! `cargo test --release -p github-pull-api --test speed -- --ignored --nocapture` prints the table. With
//! `SPEED_REPOSITORY`, the path of a bare repository, the first rows are about that one.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail loudly and run real git"
)]

#[path = "kinds/replica.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod replica;
#[path = "kinds/upstream.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod upstream;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::GitServer;

use crate::{
    replica::{Memory, Watch},
    upstream::{Upstream, isolated, run},
};

/// How often each thing is timed; the median counts. It is done once more for its memory, which takes time to look at.
const RUNS: usize = 5;

/// A repository on a server, and a directory to work in.
struct Bench {
    server: GitServer,
    root: tempfile::TempDir,
    up: Upstream,
}

/// What was measured.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    /// The most memory of the process and its descendants together, and of the process alone, in KiB.
    memory: [u64; 2],
}

impl Bench {
    async fn new() -> Self {
        let server = GitServer::start().await;
        server.create_empty_repo("app");
        let root = tempfile::tempdir().unwrap();
        let up = Upstream::new(server.path("app"), root.path().join("tree"));
        Self { server, root, up }
    }

    /// A repository of so many commits and files.
    async fn of(commits: usize, files: usize) -> Self {
        let bench = Self::new().await;
        let mut stream = String::new();
        for commit in 0..commits {
            let message = format!("commit {commit}\n");
            let (time, length) = (1_700_000_000 + commit, message.len());
            write!(stream, "commit refs/heads/main\ncommitter T <t@example.com> {time} +0000\n")
                .unwrap();
            write!(stream, "data {length}\n{message}").unwrap();
            let changed = if commit == 0 { 0..files } else { commit % files..commit % files + 1 };
            for file in changed {
                let lines = (0..40).map(|line| {
                    let number = if line == commit % 40 { commit } else { file * 40 + line };
                    format!("line {line} of {}\n", number.wrapping_mul(2_654_435_761))
                });
                let text: String = lines.collect();
                let directory = file % 100;
                write!(stream, "M 644 inline d{directory}/f{file}\ndata {}\n{text}", text.len())
                    .unwrap();
            }
        }
        bench.up.git_with_input(&["fast-import", "--quiet"], stream.as_bytes());
        bench.up.git(&["repack", "-a", "-d", "-q"]);
        bench.up.on("main");
        bench
    }

    fn url(&self) -> String {
        self.server.url("app")
    }

    async fn git(&self, arguments: &[&str], directory: &Path, memory: Memory) -> Cost {
        let mut command = isolated("git", 0);
        command.args(arguments).current_dir(directory);
        tokio::task::spawn_blocking(move || measure(command, memory)).await.unwrap()
    }

    async fn git_clone(&self, name: &str, memory: Memory) -> (Cost, PathBuf) {
        let path = self.root.path().join(name);
        let url = self.url();
        let arguments = ["clone", "--quiet", &url, path.to_str().unwrap()];
        (self.git(&arguments, self.root.path(), memory).await, path)
    }

    /// A pull by a running replica: from its request to the terminal event.
    async fn ours(&self, workspace: &Path, directory: &str, memory: Memory) -> Cost {
        let body = json!({"repoUrl": self.url(), "directory": directory});
        let environment = [("GIT_ALLOWED_HOSTS", "127.0.0.1".into()), ("LOG_LEVEL", "warn".into())];
        let run = replica::run_with(workspace, &environment, &body, None, memory).await;
        assert_eq!(run.terminal()["type"], "completed", "{}", run.terminal());
        Cost { time: run.took, memory: [run.tree_kib, run.peak_kib] }
    }

    /// Clones, second clones, updates of nothing and of one commit, as rows of the table.
    async fn rows(&self, what: &str) {
        let mut rows: [Vec<[Cost; 2]>; 4] = Default::default();
        for number in 0..=RUNS {
            let memory = if number < RUNS { Memory::Ignored } else { Memory::Watched };
            let workspace = self.root.path().join(format!("workspace-{number}"));
            fs::create_dir(&workspace).unwrap();
            let (theirs, clone) = self.git_clone(&format!("clone-{number}"), memory).await;
            let ours = async |directory| self.ours(&workspace, directory, memory).await;
            let pull = ["pull", "--quiet", "--ff-only"];
            let pulled = async || self.git(&pull, &clone, memory).await;
            rows[0].push([ours("repo").await, theirs]);
            rows[1].push([ours("second").await, theirs]);
            rows[2].push([ours("repo").await, pulled().await]);
            self.up.commit_files(&[("new", &format!("{number}\n"))]);
            rows[3].push([ours("repo").await, pulled().await]);
            let head = |path: &Path| {
                run(isolated("git", 60).arg("-C").arg(path).args(["rev-parse", "HEAD"])).stdout
            };
            assert_eq!(head(&workspace.join("repo")), head(&clone));
            fs::remove_dir_all(&workspace).unwrap();
            fs::remove_dir_all(&clone).unwrap();
        }
        let names =
            ["first clone", "second clone, git's first", "update of nothing", "update of a commit"];
        for (name, costs) in names.into_iter().zip(rows) {
            let median = |which: usize| {
                let mut times: Vec<_> = costs[..RUNS].iter().map(|pair| pair[which].time).collect();
                times.sort();
                times[times.len() / 2].as_secs_f64() * 1000.0
            };
            let most = |which: usize, of: usize| {
                costs.iter().map(|pair| pair[which].memory[of]).max().unwrap() >> 10
            };
            let (ours, theirs) = (median(0), median(1));
            println!(
                "| {what}: {name} | {theirs:.0} ms | {ours:.0} ms | {:.2} | {} MiB | {} MiB | {} MiB |",
                ours / theirs,
                most(1, 0),
                most(0, 0),
                most(0, 1)
            );
        }
    }
}

/// Runs a command, and looks at its memory or at the clock alone.
fn measure(mut command: Command, memory: Memory) -> Cost {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let watch = Watch::start(child.id(), memory);
    let status = child.wait().unwrap();
    let time = start.elapsed();
    assert!(status.success(), "{command:?}");
    Cost { time, memory: [watch.stop().0, 0] }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes, and means nothing in a debug build"]
async fn beside_git() {
    println!("| what | git | ours | ratio | memory: git | ours, with git | replica alone |");
    println!("|---|---|---|---|---|---|---|");
    let bench = match std::env::var_os("SPEED_REPOSITORY") {
        None => Bench::of(5400, 800).await,
        Some(path) => {
            let bench = Bench::new().await;
            fs::remove_dir_all(&bench.up.directory).unwrap();
            let mut clone = isolated("git", 600);
            clone.args(["clone", "--quiet", "--mirror"]).arg(path).arg(&bench.up.directory);
            run(&mut clone);
            let branch = bench.up.git(&["symbolic-ref", "--short", "HEAD"]);
            bench.up.on(&branch);
            bench
        }
    };
    bench.rows("5,400 commits").await;
    Bench::of(1, 20_000).await.rows("20,000 files").await;
    let bench = Bench::of(10, 10).await;
    let commit = bench.up.git(&["rev-parse", "HEAD"]);
    let lines: String =
        (0..20_000).map(|number| format!("create refs/heads/b/{number:05} {commit}\n")).collect();
    bench.up.git_with_input(&["update-ref", "--stdin"], lines.as_bytes());
    bench.up.git(&["pack-refs", "--all"]);
    bench.rows("20,000 references").await;
}
