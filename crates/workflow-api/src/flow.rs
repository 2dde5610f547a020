//! The steps: pull, execute, and deliver if the request asks for it.

use std::{sync::Arc, time::Duration};

use contract::{
    Code, CommonOptions, Deliver, DeliverRequest, DeliveryStatus, DeliveryView, Ending, EventLine,
    ExecuteRequest, JobId, JobRequest, PullRequest, RepoUrl, Secrets, Service, Timestamp,
    WorkflowEvent, WorkflowRequest, WorkspacePath,
};
use futures_util::{Stream, StreamExt};
use oneshot::{JobContext, Step};
use workspace::blocking;

use crate::{
    Config,
    cancel::cancel,
    child::{Child, ChildEvent, ChildFailure, Head, internal},
    resume::{self, SessionCheckout},
};

const PULL: (u8, &str) = (1, "pull_repository");
const EXECUTE: (u8, &str) = (2, "execute_claude_code");
const DELIVER: (u8, &str) = (3, "deliver_result");
/// The part of the stop budget that the workflow keeps for its own end, after that of the job it cancels.
const MARGIN: Duration = Duration::from_secs(1);

/// The workflow.
pub(crate) fn run(
    config: Arc<Config>,
    context: JobContext,
    request: WorkflowRequest,
) -> impl Stream<Item = Step> + Send + 'static {
    async_stream::stream! {
        let id = context.id;
        let (step, step_name) = PULL;
        yield event(&WorkflowEvent::PullStarted {
            workflow_id: id,
            step,
            step_name,
            prompt: &request.prompt,
            repo_url: &request.pull.repo_url,
            timestamp: Timestamp::now(),
        });
        let found = {
            let (workspace, request) = (context.workspace.clone(), request.clone());
            blocking(move || resume::checkout(&workspace, &request)).await
        };
        let earlier = match found {
            Ok(earlier) => earlier,
            Err(error) => {
                let failure = ChildFailure { code: error.code, sentence: error.message };
                yield failed(&context, step, failure);
                return;
            }
        };
        // The agent continues exactly where it worked, which may be a directory of the checkout.
        let known = earlier.as_ref().map(|SessionCheckout { place, .. }| {
            (format!("{}/{place}", context.workspace.root_text()), place.clone())
        });
        if let (Some(earlier), Some((path, _))) = (&earlier, &known) {
            yield message(&format!("Continuing in {path}, where session {} worked", earlier.session));
        }
        let mut target = known.clone().ok_or_else(|| internal("the pull ended without an event that says where the checkout is"));
        if earlier.is_none() || request.update {
            yield message(&format!("Pulling {}", request.pull.repo_url));
            let workspace = earlier.as_ref().map(|earlier| earlier.root.clone());
            let pull = PullRequest { workspace, ..request.pull.clone() };
            let pull = Asked::new(&pull);
            // A pull can be repeated, so the workflow survives the death of one replica, but not of a second.
            for attempt in 0..2 {
                let mut pulled = Err(internal("the pull ended without an event that says where the checkout is"));
                let mut events = Box::pin(child(&config, &context, pull.clone()));
                while let Some(next) = events.next().await {
                    let batch = match next {
                        Ok(batch) => batch,
                        Err(failure) => {
                            pulled = Err(failure);
                            break;
                        }
                    };
                    for told in batch {
                        if let Ok(data) = told.line.to_raw() {
                            yield event(&WorkflowEvent::PullProgress { data, timestamp: Timestamp::now() });
                        }
                        if Service::Pull.is_terminal(&told.head.kind) {
                            pulled = target_of(&told, &context);
                        }
                    }
                }
                let is_lost = matches!(&pulled, Err(ChildFailure { code: Code::ReplicaLost, .. }));
                target = pulled.map(|pulled| known.clone().unwrap_or(pulled));
                if !is_lost || attempt > 0 || context.stop.reason().is_some() {
                    break;
                }
                yield message("The replica that was pulling died: pulling again");
            }
        }
        // A pull may still succeed after the workflow was asked to stop.
        if context.stop.reason().is_some() {
            target = Err(internal("the workflow was stopped"));
        }
        let (target_path, workspace) = match target {
            Ok(target) => target,
            Err(failure) => {
                yield failed(&context, step, failure);
                return;
            }
        };
        yield event(&WorkflowEvent::WorkflowStepComplete {
            step,
            step_name,
            target_path: &target_path,
            timestamp: Timestamp::now(),
        });
        let (step, step_name) = EXECUTE;
        yield event(&WorkflowEvent::ExecuteStarted {
            workflow_id: id,
            step,
            step_name,
            prompt: &request.prompt,
            workspace: &target_path,
            timestamp: Timestamp::now(),
        });
        yield message("Running Claude Code");
        let execute = ExecuteRequest { prompt: request.prompt.clone(), workspace: Some(workspace), options: request.execute_options, retain: contract::Retain::Default, common: CommonOptions::default() };
        let mut result = Err(internal("the agent ended without a terminal event"));
        let mut verification = (None, None);
        let mut events =
            Box::pin(child(&config, &context, Asked::new(&execute)));
        while let Some(next) = events.next().await {
            let batch = match next {
                Ok(batch) => batch,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            for told in batch {
                if Service::Claude.is_terminal(&told.head.kind) {
                    result = ended_well(&told);
                    verification = (told.head.verified, told.head.verify_output);
                }
                yield Step::Event(told.line);
            }
        }
        if let Err(failure) = result {
            yield failed(&context, step, failure);
            return;
        }
        let mut delivery = None;
        if let Some(deliver) = request.deliver {
            let (step, step_name) = DELIVER;
            yield event(&WorkflowEvent::DeliverStarted {
                workflow_id: id,
                step,
                step_name,
                prompt: &request.prompt,
                mode: deliver.mode,
                timestamp: Timestamp::now(),
            });
            yield message("Delivering the result");
            let mode = deliver.mode;
            let asked = delivery_of(id, deliver, &request.pull.repo_url);
            let mut delivered = Err(internal("the delivery ended without a terminal event"));
            // A delivery that is repeated finds what the first one has pushed.
            for attempt in 0..2 {
                let mut events = Box::pin(child(&config, &context, asked.clone()));
                while let Some(next) = events.next().await {
                    let batch = match next {
                        Ok(batch) => batch,
                        Err(failure) => {
                            delivered = Err(failure);
                            break;
                        }
                    };
                    for told in batch {
                        if let Ok(data) = told.line.to_raw() {
                            yield event(&WorkflowEvent::DeliveryProgress { data, timestamp: Timestamp::now() });
                        }
                        if Service::Pull.is_terminal(&told.head.kind) {
                            delivered = ended_well(&told).map(|()| told.head);
                        }
                    }
                }
                let is_lost = matches!(&delivered, Err(ChildFailure { code: Code::ReplicaLost, .. }));
                if !is_lost || attempt > 0 || context.stop.reason().is_some() {
                    break;
                }
                yield message("The replica that was delivering died: delivering again");
            }
            let view = DeliveryView { mode, status: DeliveryStatus::Empty, branch: None, commit: None, url: None };
            delivery = Some(match delivered {
                Ok(Head { branch: Some(branch), commit: Some(commit), url, .. }) => {
                    yield event(&WorkflowEvent::DeliverComplete {
                        step,
                        step_name,
                        branch: &branch,
                        commit: &commit,
                        url: url.as_deref(),
                        timestamp: Timestamp::now(),
                    });
                    let (branch, commit) = (Some(branch), Some(commit));
                    DeliveryView { status: DeliveryStatus::Delivered, branch, commit, url, ..view }
                }
                // What the agent did is worth its answer even if it changed no file.
                Err(ChildFailure { code: Code::NothingToDeliver, sentence }) => {
                    yield message(&sentence);
                    view
                }
                Ok(_) => {
                    yield failed(&context, step, internal("the delivery did not say what it has pushed"));
                    return;
                }
                Err(failure) => {
                    yield failed(&context, step, undelivered(id, failure));
                    return;
                }
            });
        }
        let complete = WorkflowEvent::WorkflowComplete {
            workflow_id: id,
            timestamp: Timestamp::now(),
            delivery: delivery.as_ref(),
            verified: verification.0,
            verify_output: verification.1.as_deref(),
        };
        yield Step::End(Ending::success(&complete));
    }
}

/// What another service is asked for.
#[derive(Clone)]
struct Asked {
    service: Service,
    path: &'static str,
    body: Vec<u8>,
}

impl Asked {
    fn new(request: &impl JobRequest) -> Self {
        let body = request.to_body(Secrets::Exposed);
        Self { service: request.service(), path: request.path(), body }
    }
}

/// The request for the delivery of this workflow's own result. The URL has the credentials.
fn delivery_of(id: JobId, deliver: Deliver, repo_url: &RepoUrl) -> Asked {
    Asked::new(&DeliverRequest {
        job: id,
        repo_url: Some(repo_url.clone()),
        deliver,
        common: CommonOptions::default(),
    })
}

/// A failed delivery loses nothing, and can be repeated.
fn undelivered(id: JobId, failure: ChildFailure) -> ChildFailure {
    let ChildFailure { code, sentence } = failure;
    let sentence =
        format!("{sentence}; the result is kept: POST /api/jobs/{id}/deliver tries again");
    ChildFailure { code, sentence }
}

/// The events of a child. If the workflow is to stop, this cancels the child and waits for its end.
fn child(
    config: &Config,
    context: &JobContext,
    Asked { service, path, body }: Asked,
) -> impl Stream<Item = Result<Vec<ChildEvent>, ChildFailure>> + Send + 'static {
    let base =
        if service == Service::Pull { &config.github_pull_api } else { &config.claude_code_api };
    let child = Child {
        id: JobId::new(),
        parent: context.id,
        capability: context.capability.clone(),
        service,
        path,
        base: base.clone(),
        body: body.into(),
        workspace: context.workspace.clone(),
        deadline: context.deadline.clone(),
        queue_wait: config.queue_wait,
        began: Arc::default(),
    };
    let (id, workspace, began) = (child.id, context.workspace.clone(), Arc::clone(&child.began));
    let (stop, patience) = (context.stop.clone(), context.stop_budget.saturating_sub(MARGIN));
    async_stream::stream! {
        let mut events = Box::pin(child.events());
        loop {
            let next = tokio::select! {
                // A workflow that is to stop asks for no more jobs.
                biased;
                _ = stop.requested() => break,
                next = events.next() => next,
            };
            match next {
                Some(batch) => yield batch,
                None => return,
            }
        }
        let until = tokio::time::Instant::now() + patience;
        let mut cancelling = std::pin::pin!(cancel(workspace, id, service, began));
        loop {
            let next = tokio::select! {
                biased;
                () = &mut cancelling => return,
                next = tokio::time::timeout_at(until, events.next()) => next,
            };
            match next {
                Ok(Some(batch)) => yield batch,
                Ok(None) | Err(_) => return,
            }
        }
    }
}

fn event(event: &WorkflowEvent<'_>) -> Step {
    Step::Event(EventLine::encode(event))
}

fn message(text: &str) -> Step {
    event(&WorkflowEvent::Message { message: text, timestamp: Timestamp::now() })
}

/// A workflow that was asked to stop ends for that reason, however its child ended.
fn failed(context: &JobContext, step: u8, failure: ChildFailure) -> Step {
    let (code, sentence) = match context.stop.reason() {
        Some(reason) => (reason.code(), reason.sentence().to_owned()),
        None => (failure.code, failure.sentence),
    };
    Step::End(Ending::workflow_failure(context.id, Some(step), code, &sentence))
}

fn ended_well(event: &ChildEvent) -> Result<(), ChildFailure> {
    if event.head.kind == "completed" {
        return Ok(());
    }
    let code = event.head.code.as_deref().and_then(Code::from_name).unwrap_or(Code::Internal);
    let sentence = event
        .head
        .error
        .clone()
        .unwrap_or_else(|| "the job failed and gave no reason: see the service's log".into());
    Err(ChildFailure { code, sentence })
}

/// Where the checkout is: the path that the pull gave, and the same as the agent's workspace.
fn target_of(
    event: &ChildEvent,
    context: &JobContext,
) -> Result<(String, WorkspacePath), ChildFailure> {
    ended_well(event)?;
    let path = event
        .head
        .target_path
        .clone()
        .ok_or_else(|| internal("the pull did not say where the checkout is"))?;
    let workspace = WorkspacePath::parse(&path, context.workspace.root_text()).map_err(|_| {
        internal("the pull's checkout is not in this workspace: all services must share one volume")
    })?;
    Ok((path, workspace))
}
