//! The command line of `load`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::RangedU64ValueParser};
use contract::Service;
use serde_json::{Map, Value};
use web::BaseUrl;

use crate::client::{error::ClientError, options::RetryOptions};

/// Send many jobs at once, and measure what becomes of them
///
/// Each caller is a client of its own: it posts a job, reads the stream to its terminal event, takes it up again
/// when it breaks, and checks that nothing follows the end. A job is lost only if it has no outcome at last,
/// whatever became of its connections.
///
/// Ctrl-C stops, and reports what has been measured so far.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl load --repo https://github.com/user/repo.git --prompt 'Create test{i}.txt'
  stackctl load -n 100 -c 20 --repo https://github.com/user/repo.git --prompt 'Say hello' --svg load.svg
  stackctl load -n 50 -c 10 --service pull --repo https://github.com/user/repo.git --json - | jq .milliseconds

Each job is real work: with a real agent behind the stack, it is paid work.

Exit codes: 0 every job has its one terminal event, 1 a job was lost or refused, or a stream broke the rules
(or, with --all-complete, a job failed), 2 wrong usage, 3 the stack cannot be reached, 130 stopped with Ctrl-C.")]
pub(crate) struct LoadOptions {
    /// How many jobs in all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    pub(crate) jobs: u32,
    /// How many at once
    #[arg(short, long, value_name = "C", default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    pub(crate) concurrency: u32,
    /// Which service gets them
    #[arg(long, value_enum, default_value_t = Target::Workflow)]
    pub(crate) service: Target,
    /// The repository; `workflow` and `pull` need one
    #[arg(long, value_name = "URL")]
    pub(crate) repo: Option<String>,
    /// What the agent is to do; `{i}` becomes the job's number. Given more than once, the jobs take turns
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Vec<String>,
    /// The branch [default: the repository's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// Work in the shared checkout of that name; `{i}` becomes the job's number [default: a fresh one for each]
    #[arg(long, value_name = "NAME")]
    pub(crate) directory: Option<String>,
    /// More fields of the request, such as '{"model": "haiku", "maxTurns": 3}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub(crate) body: Option<Map<String, Value>>,
    /// Each caller waits a random time, up to this, before each job
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = RangedU64ValueParser::<u64>::new().range(0..=3_600_000))]
    pub(crate) jitter_ms: u64,
    /// Where the service is [default: STACK_URL for workflows, else its port on this machine]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<BaseUrl>,
    #[command(flatten)]
    pub(crate) retry: RetryOptions,
    /// Exit with 1 also if a job has failed
    #[arg(long)]
    pub(crate) all_complete: bool,
    /// Write the numbers, and every job, as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a chart
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// The services by the names that `up` has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    Workflow,
    Pull,
    Claude,
}

impl From<Target> for Service {
    fn from(target: Target) -> Self {
        match target {
            Target::Workflow => Self::Workflow,
            Target::Pull => Self::Pull,
            Target::Claude => Self::Claude,
        }
    }
}

impl LoadOptions {
    pub(super) fn service(&self) -> Service {
        self.service.into()
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.retry.retry_seconds)
    }

    /// Where the jobs are posted.
    ///
    /// # Errors
    /// If `STACK_URL` is no URL of a stack.
    pub(super) fn address(&self) -> anyhow::Result<BaseUrl> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let service = self.service();
        let given = std::env::var("STACK_URL").ok().filter(|_| service == Service::Workflow);
        let local = || format!("http://127.0.0.1:{}", service.default_port());
        given.unwrap_or_else(local).parse().map_err(|why| anyhow::anyhow!("STACK_URL: {why}"))
    }

    /// Whether a job could be done at all, as far as that can be seen from here.
    ///
    /// # Errors
    /// If no repository is given to who needs one.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        if self.service == Target::Claude || self.request(1).get("repoUrl").is_some() {
            return Ok(());
        }
        Err(ClientError::Usage("say which repository with --repo".to_owned()))
    }

    /// The request of job `number`, from 1. What is wrong with it, the stack says.
    pub(super) fn request(&self, number: u32) -> Value {
        let numbered = |text: &String| Value::from(text.replace("{i}", &number.to_string()));
        let turn = usize::try_from(number.saturating_sub(1)).unwrap_or_default();
        let prompt = self.prompt.iter().cycle().nth(turn % self.prompt.len().max(1));
        let mut body = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            body.extend(value.map(|value| (name.to_owned(), value)));
        };
        put("prompt", prompt.map(numbered));
        put("repoUrl", self.repo.clone().map(Value::from));
        put("branch", self.branch.clone().map(Value::from));
        put("directory", self.directory.as_ref().map(numbered));
        body.extend(self.body.clone().unwrap_or_default());
        body.into()
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<LoadOptions, clap::Error> {
        let program = ["stackctl", "load"].iter().chain(arguments);
        match Cli::try_parse_from(program)?.command {
            Command::Load(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_request_of_each_job() {
        let options = parse(&[
            "--repo=u",
            "--prompt=first {i}",
            "--prompt=other",
            "--directory=d{i}",
            "--branch=b",
            "--body={\"maxTurns\": 3, \"branch\": \"c\"}",
        ])
        .unwrap();
        let request = |prompt: &str, directory: &str| {
            json!({"prompt": prompt, "repoUrl": "u", "branch": "c", "directory": directory,
                "maxTurns": 3})
        };
        assert_eq!(options.request(1), request("first 1", "d1"));
        assert_eq!(options.request(2), request("other", "d2"));
        assert_eq!(options.request(11), request("first 11", "d11"));
        let options = parse(&["--service=pull", "--repo=u"]).unwrap();
        assert_eq!(options.request(7), json!({"repoUrl": "u"}));
    }

    #[test]
    fn what_is_refused_before_anything_is_sent() {
        assert!(parse(&[]).unwrap().check().is_err());
        assert!(parse(&["--service=pull", "--body={}"]).unwrap().check().is_err());
        for arguments in [&["--service=claude"][..], &["--body={\"repoUrl\": \"u\"}"]] {
            assert!(parse(arguments).unwrap().check().is_ok(), "{arguments:?}");
        }
        for arguments in [
            &["--repo=u", "-n=0"][..],
            &["--repo=u", "-c=0"],
            &["--repo=u", "-c=10001"],
            &["--repo=u", "--body=[]"],
            &["--repo=u", "--jitter-ms=-1"],
            &["--service=postgres", "--repo=u"],
        ] {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
    }
}
