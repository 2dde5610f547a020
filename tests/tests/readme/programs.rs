//! The programs on the page: clients in other languages.

use testkit::{RunningCommand, skip};

use crate::{
    commands::has,
    page::{README, parts},
    scene::Scene,
};

/// Runs each block in a language, and expects it to print every event of a workflow.
async fn runs(test: &str, language: &str, interpreter: &str, arguments: &[&str]) {
    if !has(interpreter) {
        return skip(test, &format!("{interpreter} is not installed"));
    }
    let (blocks, _) = parts(README);
    let programs: Vec<_> = blocks.iter().filter(|block| block.language == language).collect();
    assert!(!programs.is_empty(), "the page has no program in {language}");
    let scene = Scene::new().await;
    for program in programs {
        let text = scene.localized(&program.text, "");
        let arguments = [arguments, &[&*text]].concat();
        let output = RunningCommand::start(scene.program(interpreter, &arguments)).finish().await;
        assert_eq!((output.code, &*output.stderr), (0, ""), "{output:?}");
        for kind in ["workflow_started", "pull_progress", "connected", "workflow_complete"] {
            assert!(output.stdout.contains(&format!("'{kind}'")), "{kind}: {output:?}");
        }
    }
}

#[tokio::test]
async fn javascript() {
    runs("javascript", "js", "node", &["--input-type=module", "-e"]).await;
}

#[tokio::test]
async fn python() {
    runs("python", "python", "python3", &["-c"]).await;
}
