//! `stackctl run` and `stackctl attach`.

use std::{
    io::{self, Read as _},
    time::Duration,
};

use contract::Service;
use serde_json::{Map, Value, json};

use super::{
    api::Api,
    error::ClientError,
    follow::Start,
    ids,
    interrupt::Interrupts,
    options::{AttachOptions, RunOptions},
    watch::{Outcome, Watch, watch},
};

/// Posts a workflow and shows it to its end, as `stackctl run` does.
///
/// # Errors
/// If the stack refuses the workflow or cannot be reached; a failed workflow is an [`Outcome`].
pub(crate) async fn run_workflow(
    options: &RunOptions,
    interrupts: Interrupts,
) -> anyhow::Result<Outcome> {
    let body = body(options, prompt(&options.prompt)?);
    let watched = watch(Watch {
        api: Api::new(options.stack.url.clone()),
        service: Service::Workflow,
        start: Start::Post(body.to_string().into()),
        patience: Duration::from_secs(options.retry.retry_seconds),
        json: options.stack.json,
        interrupts,
    });
    Ok(watched.await?)
}

/// Shows a job of any service from its beginning to its end.
pub(crate) async fn attach(options: &AttachOptions) -> anyhow::Result<Outcome> {
    let api = Api::new(options.stack.url.clone());
    let job = ids::resolve(&api, &options.job.id).await?;
    let watched = watch(Watch {
        api,
        service: job.service,
        start: Start::Known(job.job_id),
        patience: Duration::from_secs(options.retry.retry_seconds),
        json: options.stack.json,
        interrupts: Interrupts::listen()?,
    });
    Ok(watched.await?)
}

fn prompt(given: &str) -> Result<String, ClientError> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut prompt = String::new();
    io::stdin().read_to_string(&mut prompt).map_err(ClientError::Prompt)?;
    Ok(prompt)
}

/// The request. What is wrong with it, the stack says: it knows its own bounds.
fn body(options: &RunOptions, prompt: String) -> Value {
    let agent = &options.agent;
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("prompt", Some(prompt.into()));
    put("repoUrl", Some(options.repo.clone().into()));
    put("branch", options.branch.clone().map(Value::from));
    put("directory", options.directory.clone().map(Value::from));
    put("model", agent.model.clone().map(Value::from));
    put("maxTurns", agent.max_turns.map(Value::from));
    put("maxBudgetUsd", agent.max_budget_usd.map(Value::from));
    put("timeoutSeconds", agent.timeout_seconds.map(Value::from));
    put("appendSystemPrompt", agent.append_system_prompt.clone().map(Value::from));
    let tools = &agent.allowed_tools;
    put("allowedTools", (!tools.is_empty()).then(|| json!(tools)));
    body.into()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<RunOptions, clap::Error> {
        let program = ["stackctl", "run"].iter().chain(arguments);
        match Cli::try_parse_from(program)?.command {
            Command::Run(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_fields() {
        let options = parse(&["--repo", "u", "--prompt", "- do"]).unwrap();
        assert_eq!(body(&options, "do".into()), json!({"prompt": "do", "repoUrl": "u"}));
        let options = parse(&[
            "--repo=u",
            "--prompt=-",
            "--branch=b",
            "--directory=d",
            "--model=m",
            "--max-turns=3",
            "--max-budget-usd=0.5",
            "--timeout-seconds=60",
            "--allowed-tools=Bash,Read",
            "--append-system-prompt=- be brief",
        ])
        .unwrap();
        assert_eq!(
            body(&options, "p".into()),
            json!({"prompt": "p", "repoUrl": "u", "branch": "b", "directory": "d", "model": "m",
                "maxTurns": 3, "maxBudgetUsd": 0.5, "timeoutSeconds": 60,
                "allowedTools": ["Bash", "Read"], "appendSystemPrompt": "- be brief"})
        );
    }

    #[test]
    fn a_typo_is_answered_with_the_nearest_word() {
        let error = parse(&["--rep", "u", "--prompt", "p"]).unwrap_err();
        assert!(error.to_string().contains("--repo"), "{error}");
        let error = parse(&["--repo", "u", "--prompt", "p", "--url", "ftp://x"]).unwrap_err();
        assert!(error.to_string().contains("http://"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
