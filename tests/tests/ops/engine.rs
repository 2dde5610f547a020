//! A Docker Engine with its own Swarm, data root and network namespace, so that it does not
//! interfere with anything else. If `DOCKER_HOST` is set, the tests use the engine there as it is.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use testkit::wait_for;

const START_TIME: Duration = Duration::from_secs(60);
/// The programs in the image of the test stacks.
const PROGRAMS: [&str; 2] = ["bash", "sleep"];

/// An engine whose node is a manager.
pub(crate) struct Engine {
    pub(crate) host: String,
    /// The ID of an image with a shell.
    pub(crate) image: String,
    /// The engine process, which the test must stop, and its directory.
    own: Option<(Child, TempDir)>,
}

impl Engine {
    /// Starts or finds an engine, or says why that is not possible.
    pub(crate) async fn start() -> Result<Self, String> {
        find("docker").ok_or("there is no docker command line")?;
        let (host, own) = match env::var("DOCKER_HOST") {
            Ok(host) => (host, None),
            Err(_) => {
                let (child, directory) = spawn()?;
                let host = format!("unix://{}", directory.path().join("docker.sock").display());
                (host, Some((child, directory)))
            }
        };
        let mut engine = Self { host, image: String::new(), own };
        if engine.own.is_some() {
            let socket = &engine.host;
            wait_for("the engine to answer", START_TIME, || async {
                docker(socket, &["version"]).status.success().then_some(())
            })
            .await;
            engine.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
        } else if !docker(&engine.host, &["node", "ls"]).status.success() {
            return Err(format!("the engine at {} is no manager of a Swarm", engine.host));
        }
        engine.image = engine.import();
        Ok(engine)
    }

    /// Whether the engine was started for this test.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Runs `docker` and returns what it prints. Panics if it fails.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = docker(&self.host, arguments);
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "docker {arguments:?}: {stdout}{stderr}");
        stdout.trim().to_owned()
    }

    /// Makes an image from a few of this machine's programs, without asking a registry.
    fn import(&self) -> String {
        let root = tempfile::tempdir().unwrap();
        for program in PROGRAMS {
            let program = find(program).expect("the program is installed on every machine");
            copy(root.path(), &program);
            let needs = Command::new("ldd").arg(&program).output().unwrap();
            let needs = String::from_utf8(needs.stdout).unwrap();
            for library in needs.split_whitespace().filter(|word| word.starts_with('/')) {
                copy(root.path(), Path::new(library));
            }
        }
        let archive = root.path().with_extension("tar");
        let made = Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(root.path())
            .arg(".")
            .status();
        assert!(made.unwrap().success());
        let image = self.docker(&["import", archive.to_str().unwrap()]);
        fs::remove_file(archive).unwrap();
        image
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some((mut child, directory)) = self.own.take() else { return };
        let _left = docker(&self.host, &["swarm", "leave", "--force"]);
        // When it is told to stop, it stops its containers too.
        let _gone = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        let _ended = child.wait();
        // The unmount releases everything that the engine has mounted there.
        let _unmounted =
            Command::new("umount").arg("-R").arg(directory.path()).stderr(Stdio::null()).status();
    }
}

fn spawn() -> Result<(Child, TempDir), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("an engine of its own needs root; DOCKER_HOST may name one that runs".into());
    }
    for needed in ["dockerd", "unshare", "ip"] {
        find(needed).ok_or_else(|| format!("there is no {needed}"))?;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let log = fs::File::create(directory.path().join("log")).unwrap();
    // Without a bridge and without firewall rules: its containers use the loopback of the
    // namespace.
    let script = "ip link set lo up && exec dockerd \"$@\"";
    let child = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script, "dockerd"])
        .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
        .args(["--host", &format!("unix://{}", at("docker.sock"))])
        .args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .map_err(|error| format!("unshare cannot be started: {error}"))?;
    Ok((child, directory))
}

fn docker(host: &str, arguments: &[&str]) -> Output {
    Command::new("docker")
        .args(arguments)
        .env("DOCKER_HOST", host)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

fn copy(root: &Path, file: &Path) {
    let name = file.strip_prefix("/").unwrap();
    let to = root.join(name);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(file, &to).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
