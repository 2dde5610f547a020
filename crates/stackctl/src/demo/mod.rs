//! `stackctl demo`: everything at work, on this machine, without a key and without a network.
//!
//! A sample repository is made and served over HTTP by this process; `stackctl up` runs as a child in a temporary
//! directory; one workflow goes through it, shown as `stackctl run` shows it. Only the model is played, by the
//! rehearsal agent. Whatever happens, no process and no file is left.

mod diff;
mod git_server;
mod interrupts;
mod sample;
mod stage;
mod upload_pack;

use std::{env, ffi::OsString, io::Write as _, process::ExitCode};

use anstyle::Style;
use anyhow::Context as _;
use boot::{ProcessEnv, Settings};
use web::BaseUrl;

use crate::{
    cli::DemoOptions,
    client::{self, AgentOptions, End, RetryOptions, RunOptions, StackOptions},
    up,
};
use git_server::GitServer;
use interrupts::Interrupts;
use stage::{Haste, Stage};

/// What the rehearsal agent is asked, and what the real one.
const PROMPT: &str = "Write down what is in this repository";
const REAL_PROMPT: &str = "Add a one-line docstring to each function of tea.py";
/// What the real one may cost, in US dollars.
const REAL_BUDGET: f64 = 1.0;

const FAILED: u8 = 1;
const INTERRUPTED: u8 = 130;

pub(crate) fn main(options: DemoOptions) -> ExitCode {
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                anstream::eprintln!("error: cannot start threads: {error}");
                return ExitCode::from(FAILED);
            }
        };
    match runtime.block_on(demo(&options)) {
        Ok(Shown::Whole) => ExitCode::SUCCESS,
        Ok(Shown::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            let _ = writeln!(anstream::stderr(), "error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// How far the demo went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Whole,
    Interrupted,
}

async fn demo(options: &DemoOptions) -> anyhow::Result<Shown> {
    let mut interrupts = Interrupts::listen().context("cannot listen to signals")?;
    let program = env::current_exe().context("cannot find my own program")?;
    child_process::become_subreaper().context("cannot adopt what the stack leaves behind")?;
    // With a credential in it, and the agent is a process of the same user.
    child_process::hide_environment().context("cannot hide my environment from the agent")?;
    let cast = Cast::choose(options)?;
    let mut stage = Stage::new(program)?;
    let played = tokio::select! {
        biased;
        () = interrupts.next() => Ok(None),
        played = play(&mut stage, cast) => played,
    };
    let played = match played {
        Ok(None) => Ok(Shown::Interrupted),
        Ok(Some(served)) if options.keep => keep(&mut stage, &served, &mut interrupts).await,
        Ok(Some(_)) => Ok(Shown::Whole),
        Err(error) => Err(error),
    };
    let haste = match &played {
        Ok(Shown::Whole) => Haste::Drain,
        Ok(Shown::Interrupted) => {
            say("\nEnding everything …");
            Haste::AtOnce
        }
        Err(_) => {
            let tail = stage.log_tail();
            if !tail.is_empty() {
                heading("The end of the stack's log");
                tail.iter().for_each(|line| say(line));
            }
            Haste::AtOnce
        }
    };
    let struck = stage.strike(haste, &mut interrupts).await;
    let shown = played?;
    struck?;
    say(match shown {
        Shown::Whole => "Everything has been taken away again.",
        Shown::Interrupted => "Interrupted; nothing is left behind.",
    });
    Ok(shown)
}

/// Who plays the agent, and what it is asked.
struct Cast {
    agent: Agent,
    prompt: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    Rehearsal,
    Real,
}

impl Cast {
    /// # Errors
    /// If the real agent is asked for, and lacks something.
    fn choose(options: &DemoOptions) -> anyhow::Result<Self> {
        let (agent, prompt) =
            if options.real { (Agent::Real, REAL_PROMPT) } else { (Agent::Rehearsal, PROMPT) };
        if agent == Agent::Real {
            let mut settings = Settings::new(&ProcessEnv);
            let config = claude_code_api::Config::read(&mut settings);
            settings.finish()?;
            let lacks = config.preflight();
            anyhow::ensure!(
                lacks.is_empty(),
                "--real lacks something:\n  {}\n`stackctl doctor` has all of it; without --real nothing is needed",
                lacks.join("\n  ")
            );
        }
        Ok(Self { agent, prompt: options.prompt.clone().unwrap_or_else(|| prompt.to_owned()) })
    }

    /// The environment of the stack.
    fn environment(&self, stage: &Stage) -> anyhow::Result<Vec<(&'static str, OsString)>> {
        let mut environment: Vec<(&'static str, OsString)> = Vec::new();
        let own = match self.agent {
            Agent::Real => up::passed(),
            Agent::Rehearsal => vec!["PATH"],
        };
        environment.extend(own.into_iter().filter_map(|name| Some((name, env::var_os(name)?))));
        if self.agent == Agent::Rehearsal {
            let agent = stage.agent().context("cannot make the rehearsal agent")?;
            environment.push(("CLAUDE_BIN", agent.into()));
            // It asks nobody, and writes to its own checkout alone.
            environment.push(("IS_SANDBOX", "1".into()));
        }
        environment.push(("TMPDIR", stage.temporary().into()));
        // The sample repository is served by this process.
        environment.retain(|(name, _)| *name != "GIT_ALLOWED_NETWORKS");
        environment.push(("GIT_ALLOWED_NETWORKS", "127.0.0.1".into()));
        Ok(environment)
    }

    fn run(&self, url: &BaseUrl, repo: &str) -> RunOptions {
        let mut agent = AgentOptions::default();
        if self.agent == Agent::Real {
            agent.max_budget_usd = Some(REAL_BUDGET);
        }
        RunOptions {
            repo: repo.to_owned(),
            prompt: self.prompt.clone(),
            branch: None,
            directory: None,
            agent,
            retry: RetryOptions::default(),
            stack: StackOptions { url: url.clone(), json: false },
        }
    }
}

/// What goes on after the play, as long as it is not dropped.
struct Served {
    git: GitServer,
    workflow: BaseUrl,
}

/// Nothing, if nobody watches any more.
async fn play(stage: &mut Stage, cast: Cast) -> anyhow::Result<Option<Served>> {
    heading("1. A sample repository, served over HTTP by this process");
    let path = stage.sample();
    // In place, and not as a task that would go on writing after an interrupt. It takes milliseconds.
    tokio::task::block_in_place(|| sample::create(&path))
        .context("cannot make the sample repository")?;
    let git = GitServer::start(&path).await?;
    say(&git.url());

    heading("2. A stack: a gateway, and one replica of each service behind it");
    say(&format!("$ stackctl up --workspace {} …", stage.workspace().display()));
    let ports = stage.start_stack(cast.environment(stage)?).await?;
    let [workflow, pull, claude] = ports.urls();
    say(&format!("workflows at {workflow}, pulls at {pull}, agents at {claude}"));

    heading(
        "3. One workflow: a replica pulls, another runs the agent; each serves one job and exits",
    );
    let run = cast.run(&workflow, &git.url());
    let budget = run.agent.max_budget_usd.map(|usd| format!(" --max-budget-usd {usd}"));
    say(&format!(
        "$ stackctl run --url {workflow} --repo {} --prompt {}{}",
        run.repo,
        quoted(&run.prompt),
        budget.unwrap_or_default()
    ));
    let outcome = tokio::select! {
        outcome = client::run_workflow(&run, client::Interrupts::heard_elsewhere()) => outcome?,
        () = stage.stack_ended() => anyhow::bail!("the stack ended under the workflow"),
    };
    match outcome.end {
        End::Complete => {}
        End::Left => return Ok(None),
        End::Failed | End::Cancelled => anyhow::bail!("the workflow did not complete"),
    }

    heading("4. What the agent changed");
    let checkout = outcome.target.context("the workflow did not say where its checkout is")?;
    say(&format!("In {checkout}, against what was cloned:"));
    let lines = tokio::task::spawn_blocking(move || diff::diff(&path, checkout.as_ref())).await?;
    lines.context("cannot read the checkout")?.iter().for_each(|line| say(line));

    heading("5. The same with a repository of your own and the real agent");
    // By the name under which this demo was started: from a checkout, it need not be installed.
    let me = if env::var_os("CARGO").is_some() { "cargo stack" } else { "stackctl" };
    say("npm install -g @anthropic-ai/claude-code        # the agent");
    say("export ANTHROPIC_API_KEY=sk-ant-…               # its credential");
    say(&format!("{:<47} # what else is missing, and how to mend it", format!("{me} doctor")));
    say(&format!("{:<47} # the stack, until Ctrl-C", format!("{me} up")));
    say(&format!("{me} run --repo https://github.com/user/repo.git --prompt 'Add a README'\n"));
    Ok(Some(Served { git, workflow }))
}

/// Leaves everything running until a signal, which is then how it was meant to end.
async fn keep(
    stage: &mut Stage,
    served: &Served,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Shown> {
    heading("It goes on running. Ctrl-C ends it and takes everything away");
    say(&format!(
        "workflows at {}, the sample at {}\nworkspace {}\nlog {}",
        served.workflow,
        served.git.url(),
        stage.workspace().display(),
        stage.log().display(),
    ));
    tokio::select! {
        () = interrupts.next() => Ok(Shown::Whole),
        () = stage.stack_ended() => anyhow::bail!("the stack ended by itself"),
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn heading(text: &str) {
    let style = Style::new().bold();
    say(&format!("\n{style}{text}{style:#}"));
}

/// A line on standard output. If nobody reads it, the demo still goes to its end, and takes all away.
fn say(text: &str) {
    let mut out = anstream::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_one_word_for_a_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_rehearsal_sees_nothing_of_the_environment_but_the_path() {
        let stage = Stage::new("/bin/true".into()).unwrap();
        let cast = Cast::choose(&DemoOptions::default()).unwrap();
        let names: Vec<_> =
            cast.environment(&stage).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["PATH", "CLAUDE_BIN", "IS_SANDBOX", "TMPDIR", "GIT_ALLOWED_NETWORKS"]);
    }
}
