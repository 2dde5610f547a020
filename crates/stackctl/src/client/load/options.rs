//! The options of `load`.

use std::path::PathBuf;

use clap::{
    Args,
    builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser as _},
};
use contract::Service;
use serde_json::{Map, Value};
use stack_client::Api;

use crate::client::{ClientError, GivenUrl, RetryOptions, TokenOptions};

/// Send many jobs at once, and measure how they end
///
/// Each caller is a client of its own: it posts a job, reads the stream to its terminal event, resumes it when it
/// breaks, and checks that nothing follows the end. A job counts as lost only if it has no outcome in the end,
/// whatever happened to its connections.
///
/// Ctrl-C stops the load and reports what was measured so far.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl load --repo https://github.com/user/repo.git --prompt 'Create test{i}.txt'
  stackctl load -n 100 -c 20 --repo https://github.com/user/repo.git --prompt 'Say hello' --svg load.svg
  stackctl load -n 50 -c 10 --service pull --repo https://github.com/user/repo.git --json - | jq .milliseconds

Each job is real work: with a real agent in the stack, it costs money.

Exit codes: 0 every job has its one terminal event, 1 a job was lost or refused, or a stream broke the rules
(or, with --all-complete, a job failed), 2 wrong usage, 3 the stack cannot be reached, 130 stopped with Ctrl-C.")]
pub(crate) struct LoadOptions {
    /// How many jobs in total
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    pub(crate) jobs: u32,
    /// How many jobs at once
    #[arg(short, long, value_name = "C", default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    pub(crate) concurrency: u32,
    /// The service that the jobs are for
    #[arg(long, value_name = "SERVICE", default_value = Service::Workflow.spec().short_name, value_parser = service())]
    pub(crate) service: Service,
    /// The repository; jobs for `workflow` and `pull` need one
    #[arg(long, value_name = "URL")]
    pub(crate) repo: Option<String>,
    /// What the agent is to do; `{i}` becomes the job's number. If given more than once, the jobs use them in turn
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Vec<String>,
    /// The branch [default: the repository's default branch]
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// Work in the shared checkout of that name; `{i}` becomes the job's number [default: a fresh one for each]
    #[arg(long, value_name = "NAME")]
    pub(crate) directory: Option<String>,
    /// More fields of the request, such as '{"model": "haiku", "maxTurns": 3}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub(crate) body: Option<Map<String, Value>>,
    /// The longest random pause of a caller before each job
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = RangedU64ValueParser::<u64>::new().range(0..=3_600_000))]
    pub(crate) jitter_ms: u64,
    /// The service's URL [default: STACK_URL for workflows, else the service's port on this machine]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<GivenUrl>,
    #[command(flatten)]
    pub(crate) token: TokenOptions,
    #[command(flatten)]
    pub(crate) retry: RetryOptions,
    /// Also exit with 1 if a job failed
    #[arg(long)]
    pub(crate) all_complete: bool,
    /// Write the numbers and every job to this file, as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a chart to this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

impl LoadOptions {
    /// The service that the jobs are posted to.
    ///
    /// # Errors
    /// If the URL is wrong, the token cannot be read or sent, or https cannot be used.
    pub(super) fn api(&self) -> Result<Api, ClientError> {
        let given =
            || std::env::var("STACK_URL").ok().filter(|_| self.service == Service::Workflow);
        let local = || format!("http://127.0.0.1:{}", self.service.default_port());
        let url = self.url.clone().unwrap_or_else(|| GivenUrl::from(given().unwrap_or_else(local)));
        self.token.api(url.parse()?)
    }

    /// Checks what can be checked without the stack.
    ///
    /// # Errors
    /// If there is no repository and the service needs one.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        if self.service == Service::Claude || self.request(1).get("repoUrl").is_some() {
            return Ok(());
        }
        Err(ClientError::Usage("name a repository with --repo".to_owned()))
    }

    /// The request of job `number`, from 1. The stack checks it.
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

/// A service by its short name.
fn service() -> impl clap::builder::TypedValueParser<Value = Service> {
    PossibleValuesParser::new(Service::ALL.map(|service| service.spec().short_name)).try_map(
        |name| {
            let mut services = Service::ALL.into_iter();
            services.find(|it| it.spec().short_name == name).ok_or("there is no such service")
        },
    )
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
