//! Callers that do not give up.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use contract::Service;
use serde_json::json;
use testkit::{AgentScript, SseClient};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::bench::{Bench, PATIENCE, url_of};

/// How long a caller keeps trying to reach a gateway.
const AWAY: Duration = Duration::from_secs(60);

/// How one caller's workflow ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) job: String,
    /// The type of the terminal event, and its code if it has one.
    pub(crate) kind: String,
    pub(crate) code: Option<String>,
    /// How often the stream was cut.
    pub(crate) cuts: usize,
}

/// Callers that are still running.
#[derive(Debug)]
pub(crate) struct Load {
    callers: JoinSet<End>,
    started: Instant,
    expected: usize,
}

/// How all of the workflows ended.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) all: Vec<End>,
    pub(crate) took: Duration,
}

impl Load {
    /// Starts one caller for each time, all at once. The agent of each works for this many
    /// milliseconds.
    pub(crate) fn start(bench: &Arc<Bench>, times: impl IntoIterator<Item = u64>) -> Self {
        let mut callers = JoinSet::new();
        for time in times {
            callers.spawn(call(Arc::clone(bench), time));
        }
        let expected = callers.len();
        Self { callers, started: Instant::now(), expected }
    }

    /// Waits until all of them have ended.
    pub(crate) async fn ends(self) -> Ends {
        let all = self.callers.join_all().await;
        assert_eq!(all.len(), self.expected, "a caller for each job");
        Ends { all, took: self.started.elapsed() }
    }
}

impl Ends {
    /// How many ended in which way.
    pub(crate) fn kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for end in &self.all {
            let kind = match &end.code {
                None => end.kind.clone(),
                Some(code) => format!("{} {code}", end.kind),
            };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// Checks that every workflow completed.
    pub(crate) fn all_complete(&self) {
        let expected = BTreeMap::from([("workflow_complete".to_owned(), self.all.len())]);
        assert_eq!(self.kinds(), expected);
    }
}

/// Durations as uneven as those of real jobs: half of them are short, some are long, and the
/// longest is 6 s.
pub(crate) fn unequal(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|n| [0, 100, 200, 400, 800, 1500, 3000, 6000][usize::try_from(n % 8).unwrap()])
}

/// Requests one workflow under an ID of its own, so that it can safely repeat the request, until it
/// has seen the end.
async fn call(bench: Arc<Bench>, work: u64) -> End {
    let job = Uuid::now_v7().to_string();
    let url = format!("{}/api/workflow", url_of(Service::Workflow));
    let prompt = AgentScript::new().sleep_ms(work).prompt();
    let body = json!({"repoUrl": bench.repository(), "prompt": prompt});
    let mut heard = Instant::now();
    let mut cuts = 0;
    loop {
        let request = SseClient::post(&url, &body).header("x-job-id", &job).allow_cut();
        match request.patience(PATIENCE).try_send().await {
            Ok(mut response) if response.status == 200 => {
                let mut last = None;
                while let Some(event) = response.next_event().await {
                    last = Some(event);
                }
                heard = Instant::now();
                if !response.ended_without_terminal() {
                    let last = last.expect("a stream has a terminal event").json;
                    let text = |name: &str| last[name].as_str().map(str::to_owned);
                    let (kind, code) = (text("type").unwrap(), text("code"));
                    return End { job, kind, code, cuts };
                }
                cuts += 1;
            }
            Ok(response) => {
                let status = response.status;
                let why = response.json().await;
                assert_eq!(status, 503, "{job} was refused: {why}");
            }
            Err(_) => {}
        }
        assert!(heard.elapsed() < AWAY, "{job}: no gateway for {AWAY:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
