//! A caller that does not give up and checks everything it receives.

use std::{path::Path, time::Duration};

use contract::Service;
use serde_json::{Value, json};

use crate::{AgentScript, SseClient, SseEvent, Stack};

/// How long a caller waits for the next event. It matters only if a guarantee is broken.
const PATIENCE: Duration = Duration::from_secs(180);

/// Time between two attempts if there is no answer.
const RETRY: Duration = Duration::from_millis(50);

/// The URLs of a stack's services.
#[derive(Clone, Debug)]
pub(crate) struct Urls {
    workflow: String,
    pull: String,
    claude: String,
}

impl Urls {
    pub(crate) fn of(stack: &Stack) -> Self {
        Self { workflow: stack.workflow_url(), pull: stack.pull_url(), claude: stack.claude_url() }
    }
}

/// One job and its caller. The caller reconnects until it has read the end: with the job's ID while
/// it has read nothing, and then with the ID of the last event.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    urls: Urls,
    service: Service,
    /// Where the request goes.
    url: String,
    body: Value,
    /// The job's ID, which the caller has chosen.
    pub(crate) id: String,
}

/// Everything that a caller has read.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// `complete`, or the code of the failure.
    pub(crate) end: String,
    /// How often the stream was cut.
    pub(crate) cuts: usize,
    /// All events of the journal.
    pub(crate) events: Vec<SseEvent>,
}

impl Caller {
    pub(crate) fn workflow(stack: &Stack, repository: &str, script: &AgentScript) -> Self {
        let body = json!({"repoUrl": repository, "prompt": script.prompt()});
        Self::new(stack, Service::Workflow, body)
    }

    pub(crate) fn pull(stack: &Stack, repository: &str) -> Self {
        Self::new(stack, Service::Pull, json!({"repoUrl": repository}))
    }

    pub(crate) fn execute(stack: &Stack, script: &AgentScript) -> Self {
        Self::new(stack, Service::Claude, json!({"prompt": script.prompt()}))
    }

    /// A delivery of what the workflow `id` has left.
    pub(crate) fn deliver(stack: &Stack, id: &str, deliver: &Value) -> Self {
        let url = format!("{}/api/jobs/{id}/deliver", stack.workflow_url());
        Self { url, ..Self::new(stack, Service::Pull, deliver.clone()) }
    }

    fn new(stack: &Stack, service: Service, body: Value) -> Self {
        let urls = Urls::of(stack);
        let url = match service {
            Service::Workflow => format!("{}/api/workflow", urls.workflow),
            Service::Pull => format!("{}/api/pull", urls.pull),
            Service::Claude => format!("{}/api/execute", urls.claude),
        };
        Self { urls, service, url, body, id: uuid::Uuid::now_v7().to_string() }
    }

    /// The same with one more field.
    pub(crate) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.body[field] = value.into();
        self
    }

    /// With a mark that the agent leaves when it runs: one line per run.
    pub(crate) fn logging_runs(mut self, script: &AgentScript, runs: &Path) -> Self {
        let script = AgentScript::new().log_run(runs.join(&self.id)).then(script);
        self.body["prompt"] = script.prompt().into();
        self
    }

    /// Reads the job to its end, then again from the beginning, and compares the two.
    ///
    /// # Panics
    /// If the job is refused, if a rule of the contract is violated, or if the two differ.
    pub(crate) async fn read(&self) -> Read {
        let (seen, cuts) = self.live().await;
        let whole = self.replay().await;
        let same = seen.iter().zip(&whole).take_while(|(seen, whole)| seen == whole).count();
        let differ = (seen.get(same), whole.get(same));
        assert_eq!(
            differ,
            (None, None),
            "{}: events are lost or repeated from event {same} on",
            self.id
        );
        let end = &whole.last().expect("a stream has a terminal event").json;
        let failed = ["workflow_error", "error"].contains(&end["type"].as_str().unwrap_or(""));
        let end = match (failed, end["code"].as_str()) {
            (false, None) => "complete".to_owned(),
            (true, Some(code)) => code.to_owned(),
            _ => panic!("{}: neither a success nor a failure: {end}", self.id),
        };
        Read { end, cuts, events: whole }
    }

    async fn live(&self) -> (Vec<SseEvent>, usize) {
        let (mut seen, mut cuts) = (Vec::<SseEvent>::new(), 0);
        loop {
            let request = match seen.last().and_then(|event| event.id.as_deref()) {
                None => SseClient::post(&self.url, &self.body)
                    .service(self.service)
                    .header("x-job-id", &self.id)
                    .accept_event_stream(),
                Some(last) => self.events().last_event_id(last),
            };
            let Ok(mut response) = request.allow_cut().patience(PATIENCE).try_send().await else {
                // Like any caller, it gives the gateway a moment.
                tokio::time::sleep(RETRY).await;
                continue;
            };
            if response.status != 200 {
                let (id, status) = (&self.id, response.status);
                panic!("{id} was refused with {status}: {}", response.json().await);
            }
            // An event without an id is in no journal: it reports this job's own wait, not that of
            // a job it started.
            let mut events = response.collect_all().await;
            events.retain(|event| event.id.is_some());
            seen.extend(events);
            if !response.ended_without_terminal() {
                return (seen, cuts);
            }
            cuts += 1;
        }
    }

    /// Reads the whole journal in one go.
    async fn replay(&self) -> Vec<SseEvent> {
        loop {
            let request = self.events().allow_cut().patience(PATIENCE);
            if let Ok(mut response) = request.try_send().await {
                assert_eq!(response.status, 200, "{}: its events were refused", self.id);
                let events = response.collect_all().await;
                if !response.ended_without_terminal() {
                    return events;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    pub(crate) fn events(&self) -> crate::SseRequest {
        let url = format!("{}/api/jobs/{}/events", self.urls.workflow, self.id);
        SseClient::get(&url).service(self.service)
    }
}
