//! `stackctl deliver`, and the same options of `run`.

use std::time::Duration;

use contract::{DeliverMode, Service};
use serde_json::{Map, Value};
use stack_client::JobSource;

use super::{
    error::ClientError,
    ids,
    interrupt::Interrupts,
    options::{DeliverOptions, DeliveryOptions, ResultOptions},
    run::prompt,
    watch::{Watch, watch},
};

/// `stackctl deliver`.
pub(crate) async fn deliver(options: DeliverOptions) -> anyhow::Result<u8> {
    let body = Value::from(fields(&options.delivery, options.branch.as_deref())?);
    let api = options.stack.api()?;
    let job = ids::resolve(&api, &options.job.id).await?.job_id;
    let path = format!("/api/jobs/{job}/deliver");
    let outcome = watch(Watch {
        api,
        service: Service::Pull,
        start: JobSource::PostTo(path, body.to_string().into()),
        patience: Duration::from_secs(options.retry.retry_seconds),
        json: options.stack.json,
        interrupts: &mut Interrupts::listen()?,
    })
    .await?;
    Ok(outcome.exit_code())
}

/// The field `deliver` of a workflow, if its result is to go anywhere.
///
/// # Errors
/// If there are options of a delivery, and none is asked for.
pub(super) fn field(options: &ResultOptions) -> Result<Option<Value>, ClientError> {
    let ResultOptions { deliver, delivery } = options;
    if deliver.is_none() && !delivery.pull_request {
        let DeliveryOptions { base, title, body, allow_protected, keep_commits, .. } = delivery;
        let is_some = [base, title, body].into_iter().any(Option::is_some);
        if is_some || *allow_protected || *keep_commits {
            let why = "--base, --title, --body, --allow-protected and --keep-commits say how the result is delivered: add --deliver or \
                       --pull-request";
            return Err(ClientError::Usage(why.to_owned()));
        }
        return Ok(None);
    }
    let branch = deliver.as_deref().filter(|branch| !branch.is_empty());
    Ok(Some(fields(delivery, branch)?.into()))
}

/// The fields of a delivery. The stack checks them.
fn fields(
    options: &DeliveryOptions,
    branch: Option<&str>,
) -> Result<Map<String, Value>, ClientError> {
    let mode = if options.pull_request { DeliverMode::PullRequest } else { DeliverMode::Branch };
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    add("mode", serde_json::to_value(mode).unwrap_or_default());
    let body = options.body.as_deref().map(prompt).transpose()?;
    let texts = [
        ("branch", branch),
        ("base", options.base.as_deref()),
        ("title", options.title.as_deref()),
        ("body", body.as_deref()),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            add(name, text.into());
        }
    }
    if options.ready {
        add("draft", false.into());
    }
    if options.allow_protected {
        add("allowProtected", true.into());
    }
    if options.keep_commits {
        add("commits", "keep".into());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    fn of_run(arguments: &[&str]) -> Result<Option<Value>, ClientError> {
        let program = ["stackctl", "run", "--repo=u", "--prompt=p"].iter().chain(arguments);
        match Cli::try_parse_from(program).unwrap().command {
            Command::Run(options) => field(&options.result),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_become_fields() {
        assert_eq!(of_run(&[]).unwrap(), None);
        assert_eq!(of_run(&["--deliver"]).unwrap(), Some(json!({"mode": "branch"})));
        let branch = of_run(&["--deliver=fix/it", "--branch=main"]).unwrap();
        assert_eq!(branch, Some(json!({"mode": "branch", "branch": "fix/it"})));
        let all = [
            "--pull-request",
            "--base=dev",
            "--title=- fix",
            "--body=why",
            "--ready",
            "--allow-protected",
            "--keep-commits",
        ];
        assert_eq!(
            of_run(&all).unwrap(),
            Some(
                json!({"mode": "pull_request", "base": "dev", "title": "- fix", "body": "why", "draft": false,
                "allowProtected": true, "commits": "keep"})
            )
        );
        let error = of_run(&["--title=x"]).unwrap_err();
        assert!(error.to_string().contains("--pull-request"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
