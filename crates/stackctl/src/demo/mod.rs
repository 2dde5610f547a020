//! `stackctl demo`: everything at work, on this machine, without a key and without a network.
//!
//! The demo creates a sample repository, runs `stackctl up` as a child in a temporary directory, and sends one workflow
//! through it, which it shows as `stackctl run` does. Everything is real except the model: the rehearsal agent stands
//! in for it. However the demo ends, it leaves no process and no file behind.

mod diff;
mod sample;
mod sandbox;

use std::{env, ffi::OsString, io::Write as _, time::Duration};

use anstyle::Style;
use anyhow::Context as _;
use boot::{ProcessEnv, Settings};
use contract::Service;
use stack_client::{Api, StackUrl};

use crate::{
    cli::DemoOptions,
    client::{AgentOptions, End, Interrupts, RetryOptions, Work, run_workflow},
    command::exit,
    program::{self, quoted},
};
use sandbox::{Pace, Sandbox};

/// The prompt for the rehearsal agent.
const PROMPT: &str = "Write down what is in this repository";
/// The prompt for the real agent.
const REAL_PROMPT: &str = "Add a one-line docstring to each function of tea.py";
/// What the real agent may spend, in US dollars.
const REAL_BUDGET: f64 = 1.0;

/// The setting that lets the stack clone the sample from this machine's disk.
const ALLOW_FILES: &str = "ALLOW_FILE_REPOSITORIES";

/// How far the demo got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    All,
    Interrupted,
}

pub(crate) async fn demo(options: DemoOptions) -> anyhow::Result<u8> {
    let mut interrupts = Interrupts::listen()?;
    let program = env::current_exe().context("cannot find the path of this program")?;
    child_process::become_subreaper().context("cannot adopt the processes of the stack")?;
    // The agent runs as the same user and could read a credential from it.
    child_process::hide_environment()
        .context("cannot hide this process's environment from the agent")?;
    let setup = Setup::choose(&options)?;
    let mut sandbox = Sandbox::new(program)?;
    let shown = tokio::select! {
        biased;
        _ = interrupts.next() => Ok(None),
        shown = show(&mut sandbox, setup) => shown,
    };
    let shown = match shown {
        Ok(None) => Ok(Shown::Interrupted),
        Ok(Some(workflow)) if options.keep => keep(&mut sandbox, &workflow, &mut interrupts).await,
        Ok(Some(_)) => Ok(Shown::All),
        Err(error) => Err(error),
    };
    let pace = match &shown {
        Ok(Shown::All) => Pace::Drain,
        Ok(Shown::Interrupted) => {
            say("\nStopping everything …");
            Pace::Now
        }
        Err(_) => {
            let tail = sandbox.log_tail();
            if !tail.is_empty() {
                heading("The last lines of the stack's log");
                tail.iter().for_each(|line| say(line));
            }
            Pace::Now
        }
    };
    let removed = sandbox.remove(pace, &mut interrupts).await;
    let shown = shown?;
    removed?;
    let (text, code) = match shown {
        Shown::All => ("The demo has removed everything it created.", exit::COMPLETE),
        Shown::Interrupted => ("Interrupted; nothing is left behind.", exit::CANCELLED),
    };
    say(text);
    Ok(code)
}

/// Which agent runs, and its prompt.
struct Setup {
    agent: AgentKind,
    prompt: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentKind {
    Rehearsal,
    Real,
}

impl Setup {
    /// # Errors
    /// If the real agent cannot run on this machine.
    fn choose(options: &DemoOptions) -> anyhow::Result<Self> {
        let (agent, prompt) = if options.real {
            (AgentKind::Real, REAL_PROMPT)
        } else {
            (AgentKind::Rehearsal, PROMPT)
        };
        if agent == AgentKind::Real {
            let mut settings = Settings::new(&ProcessEnv);
            let config = claude_code_api::Config::read(&mut settings);
            settings.finish()?;
            let problems = config.preflight();
            anyhow::ensure!(
                problems.is_empty(),
                "--real cannot run yet:\n  {}\n`{} doctor` checks everything; without --real the demo needs nothing",
                problems.join("\n  "),
                program::name()
            );
        }
        Ok(Self { agent, prompt: options.prompt.clone().unwrap_or_else(|| prompt.to_owned()) })
    }

    /// The environment of the stack.
    fn environment(&self, sandbox: &Sandbox) -> anyhow::Result<Vec<(OsString, OsString)>> {
        if self.agent == AgentKind::Real && nix::unistd::geteuid().is_root() {
            sandbox.let_through().context("cannot open the temporary directory to agents")?;
        }
        let mut environment: Vec<(OsString, OsString)> = match self.agent {
            // Its parts get what they read of it.
            AgentKind::Real => env::vars_os().collect(),
            AgentKind::Rehearsal => env::vars_os().filter(|(name, _)| name == "PATH").collect(),
        };
        if self.agent == AgentKind::Rehearsal {
            let agent = sandbox.agent().context("cannot make the rehearsal agent")?;
            environment.push(("CLAUDE_BIN".into(), agent.into()));
            // It writes to its own checkout only, so it may run as root.
            environment.push(("IS_SANDBOX".into(), "1".into()));
            environment.push(("AGENT_USER".into(), "none".into()));
        }
        environment.push((ALLOW_FILES.into(), "1".into()));
        environment.push(("TMPDIR".into(), sandbox.temporary().into()));
        Ok(environment)
    }

    fn work(&self, repo: &str) -> Work {
        let mut agent = AgentOptions::default();
        if self.agent == AgentKind::Real {
            agent.max_budget_usd = Some(REAL_BUDGET);
        }
        let (repo, prompt) = (repo.to_owned(), self.prompt.clone());
        Work { agent, repo, prompt, ..Work::default() }
    }
}

/// Shows a workflow. Returns where workflows are posted, or `None` if standard output was closed.
async fn show(sandbox: &mut Sandbox, setup: Setup) -> anyhow::Result<Option<StackUrl>> {
    let me = program::name();
    heading("1. A sample repository");
    let path = sandbox.sample();
    // In place, and not in a task that would go on writing after an interrupt. It takes milliseconds.
    tokio::task::block_in_place(|| sample::create(&path))
        .context("cannot create the sample repository")?;
    let repository = path.display().to_string();
    say(&repository);

    heading("2. A stack: a gateway, and behind it one replica of each service");
    say(&format!("$ {ALLOW_FILES}=1 {me} up --workspace {} …", sandbox.workspace().display()));
    let urls = sandbox.start_stack(setup.environment(sandbox)?).await?;
    let workflow = &urls[Service::Workflow];
    let (pull, claude) = (&urls[Service::Pull], &urls[Service::Claude]);
    say(&format!("workflows at {workflow}, pulls at {pull}, agents at {claude}"));

    heading(
        "3. One workflow: a replica pulls, another runs the agent; each serves one job and exits",
    );
    let work = setup.work(&repository);
    let budget = work.agent.max_budget_usd.map(|usd| format!(" --max-budget-usd {usd}"));
    say(&format!(
        "$ {me} run --url {workflow} --repo {} --prompt {}{}",
        quoted(&work.repo),
        quoted(&work.prompt),
        budget.unwrap_or_default()
    ));
    let patience = Duration::from_secs(RetryOptions::default().retry_seconds);
    let api = Api::new(workflow.clone())?;
    let mut ignored = Interrupts::ignored();
    let outcome = tokio::select! {
        outcome = run_workflow(api, &work, patience, false, &mut ignored) => outcome?,
        () = sandbox.stack_ended() => anyhow::bail!("the stack ended during the workflow"),
    };
    match outcome.end {
        End::Complete => {}
        End::Left => return Ok(None),
        End::Failed | End::Cancelled => anyhow::bail!("the workflow did not complete"),
    }

    heading("4. What the agent changed");
    let checkout = outcome.target.context("the workflow did not say where its checkout is")?;
    say(&format!("In {checkout}, compared with the commit that was cloned:"));
    let lines = tokio::task::spawn_blocking(move || diff::diff(&path, checkout.as_ref())).await?;
    lines.context("cannot read the checkout")?.iter().for_each(|line| say(line));

    heading("5. The same with a repository of your own and the real agent");
    say("npm install -g @anthropic-ai/claude-code        # the agent");
    say("export ANTHROPIC_API_KEY=sk-ant-…               # its credential");
    say(&format!("{:<47} # what is still missing, and how to get it", format!("{me} doctor")));
    say(&format!("{:<47} # the stack, until Ctrl-C", format!("{me} up")));
    say(&format!("{me} run --repo https://github.com/user/repo.git --prompt 'Add a README'\n"));
    Ok(Some(workflow.clone()))
}

/// Leaves everything running until a signal, which is the expected end.
async fn keep(
    sandbox: &mut Sandbox,
    workflow: &StackUrl,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Shown> {
    heading("The stack keeps running. Ctrl-C stops it and removes everything");
    say(&format!(
        "workflows at {workflow}, the sample at {}\nworkspace {}\nlog {}",
        sandbox.sample().display(),
        sandbox.workspace().display(),
        sandbox.log().display(),
    ));
    tokio::select! {
        _ = interrupts.next() => Ok(Shown::All),
        () = sandbox.stack_ended() => anyhow::bail!("the stack ended by itself"),
    }
}

fn heading(text: &str) {
    let style = Style::new().bold();
    say(&format!("\n{style}{text}{style:#}"));
}

/// Prints a line. If nobody reads it, the demo still runs to its end and removes everything.
fn say(text: &str) {
    let mut out = anstream::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_of_a_rehearsal_inherits_the_path_only() {
        let sandbox = Sandbox::new("/bin/true".into()).unwrap();
        let setup = Setup::choose(&DemoOptions::default()).unwrap();
        let names: Vec<_> =
            setup.environment(&sandbox).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["PATH", "CLAUDE_BIN", "IS_SANDBOX", "AGENT_USER", ALLOW_FILES, "TMPDIR"]
        );
    }
}
