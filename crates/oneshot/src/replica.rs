//! The life of a replica, from its announcement to its exit.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use boot::{Exit, Secret};
use contract::{Code, Ending, JobId, JobRequest, RequestError};
use http::{HeaderMap, HeaderValue};
use tokio::sync::{Mutex, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tower::{Layer, util::option_layer};
use web::Server;
use workspace::{
    Challenge, ClaimedJob, HeldTurn, Job, JobRecord, NewJob, Registration, RequestDigest,
    StackSecret, Statement, Turn, TurnUse, Workspace, blocking,
};

use crate::{
    Deadline, JobContext, JobService, Order, Orders, ReplicaConfig, Stop, StopReason,
    http::busy,
    run::{Driven, Left, drive, end_of_grace, watch},
};

/// How long readers may take to read the rest of their stream after the job's end. Slower ones resume from the journal.
const FLUSH_TIME: Duration = Duration::from_secs(10);
/// The pause before the exit after a failed start, so that a supervisor does not restart the replica in a tight loop.
const FAILED_START: Duration = Duration::from_secs(1);

/// Whether a replica can accept its one job. `Free` is never entered again.
enum JobSlot {
    Free(Registration),
    /// Marks the replica as busy.
    Taken {
        _registration: Registration,
    },
    Closed,
}

/// A job that is claimed but not started.
struct Accepted<R> {
    claimed: ClaimedJob,
    request: R,
    parent: Option<JobId>,
    capability: Option<Secret>,
    /// Held until the job ends. A workflow lends them to its children.
    turns: Vec<HeldTurn>,
}

pub(crate) struct Replica<S: JobService> {
    pub(crate) service: S,
    pub(crate) config: ReplicaConfig,
    pub(crate) workspace: Workspace,
    /// The stack's secret, if it has been given one.
    secret: Option<StackSecret>,
    slot: Mutex<JobSlot>,
    accepted: mpsc::UnboundedSender<Accepted<S::Request>>,
}

/// Runs one job of `service`, or exits when told to.
pub async fn serve<S: JobService>(service: S, config: ReplicaConfig, mut orders: Orders) -> Exit {
    let name = S::SERVICE;
    // Resolving may take long, and must not delay an order to exit.
    let host = tokio::select! {
        host = config.advertise.find(config.bind.ip()) => host,
        Some(_) = orders.recv() => return Exit::Ok,
    };
    // The same holds for what a service tries before its start.
    let started = tokio::select! {
        started = start(service, config, host) => started,
        Some(_) = orders.recv() => return Exit::Ok,
    };
    match started {
        Ok((replica, server, accepted)) => {
            tracing::info!(service = %name, replica = %replica.config.id, address = %server.address(), "ready");
            run_replica(replica, server, accepted, orders).await
        }
        Err(error) => {
            tracing::error!("{name} cannot start: {error}");
            tokio::time::sleep(FAILED_START).await;
            Exit::Unavailable
        }
    }
}

type Started<S> =
    (Arc<Replica<S>>, Server, mpsc::UnboundedReceiver<Accepted<<S as JobService>::Request>>);

async fn start<S: JobService>(
    mut service: S,
    config: ReplicaConfig,
    host: IpAddr,
) -> Result<Started<S>, String> {
    let workspace = Workspace::open(&config.workspace).map_err(|error| describe(&error))?;
    service.prepare(&workspace).await?;
    for missing in service.preflight() {
        tracing::warn!("{missing}");
    }
    let listener = web::bind(config.bind).map_err(|error| {
        format!("failed to listen on {}: {error}; set PORT or BIND_ADDRESS", config.bind)
    })?;
    let advertised = SocketAddr::new(host, listener.address().port());
    let (sender, accepted) = mpsc::unbounded_channel();
    let (id, volume, file) = (config.id, workspace.clone(), config.secret_file.clone());
    let announced = blocking(move || {
        let secret = volume.sign_with(file.as_deref())?;
        let registration =
            Registration::announce(&volume, S::SERVICE, id, advertised, secret.as_ref())?;
        Ok((registration, secret))
    });
    let (registration, secret) =
        announced.await.map_err(|error: workspace::Error| describe(&error))?;
    if secret.is_none() {
        tracing::info!(
            "this replica takes a job from anyone who can reach it; with STACK_SECRET_FILE, only from its gateway"
        );
    }
    let slot = Mutex::new(JobSlot::Free(registration));
    let replica = Arc::new(Replica { service, config, workspace, secret, slot, accepted: sender });
    let answering = Arc::clone(&replica);
    let routes = web::handler(move |request| Arc::clone(&answering).answer(request));
    let routes = option_layer(replica.config.cors.layer()).layer(routes);
    let server =
        Server::start_limited(listener, routes, Arc::new(web::ConnectionLimits::new(256, 256)));
    Ok((replica, server, accepted))
}

/// Formats an error with all its causes, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(format!("failed to {error}"), |text, cause| format!("{text}: {cause}"))
}

async fn run_replica<S: JobService>(
    replica: Arc<Replica<S>>,
    server: Server,
    mut accepted: mpsc::UnboundedReceiver<Accepted<S::Request>>,
    mut orders: Orders,
) -> Exit {
    let (job, order) = tokio::select! {
        biased;
        Some(job) = accepted.recv() => (job, None),
        Some(order) = orders.recv() => {
            replica.leave().await;
            // A job may have been accepted between the order and the lock. The order then applies to it.
            match accepted.try_recv() {
                Ok(job) => (job, Some(order)),
                Err(_) => {
                    server.finish(FLUSH_TIME).await;
                    return Exit::Ok;
                }
            }
        }
    };
    run(&replica, server, job, order, orders).await
}

async fn run<S: JobService>(
    replica: &Replica<S>,
    mut server: Server,
    accepted: Accepted<S::Request>,
    mut first: Option<Order>,
    mut orders: Orders,
) -> Exit {
    let name = S::SERVICE;
    let Accepted { mut claimed, request, parent, capability, turns } = accepted;
    let id = claimed.job().id();
    let limit =
        request.timeout_seconds().unwrap_or(replica.service.policy().limits.job_timeout_seconds);
    let context = JobContext {
        id,
        parent,
        capability,
        workspace: replica.workspace.clone(),
        stop: Stop::default(),
        stop_budget: replica.config.stop_budget,
        deadline: Deadline::new(Duration::from_secs(limit)),
    };
    let _watching =
        AbortOnDropHandle::new(tokio::spawn(watch(claimed.job().clone(), context.clone())));
    tracing::info!(service = %name, job = %id, "job started");
    let steps = replica.service.run(context.clone(), request);
    let mut grace = None;
    let mut killed = false;
    let Driven { ending, left } = {
        let limit = replica.config.journal_limit;
        let mut job = std::pin::pin!(drive(name, &mut claimed, &context, limit, steps));
        loop {
            tokio::select! {
                biased;
                driven = &mut job => break driven,
                Some(order) = next_order(&mut first, &mut orders) => match (order, &grace) {
                    (Order::HangUp, _) => context.stop.request(StopReason::Terminated),
                    (Order::Leave, None) => {
                        tracing::info!(job = %id, "told to exit; will exit after this job");
                        let stop = context.stop.clone();
                        grace = Some(AbortOnDropHandle::new(tokio::spawn(end_of_grace(replica.config.grace, stop))));
                    }
                    (Order::Leave, Some(_)) => {
                        replica.service.kill_now();
                        killed = true;
                        let reason = StopReason::Terminated;
                        let ending = Ending::failure(name, id, reason.code(), reason.sentence());
                        break Driven { ending, left: Left::Work };
                    }
                },
            }
        }
    };
    match ending.code {
        None => tracing::info!(service = %name, job = %id, "job succeeded"),
        Some(code) => {
            tracing::info!(service = %name, job = %id, %code, error = ending.error.as_deref(), "job failed");
        }
    }
    // In this order: when a caller reads the terminal event, the replica has stopped listening and the directory is
    // free. If something is still running there, the directory stays locked until this process exits.
    server.close_listener().await;
    replica.close().await;
    let _turns = match left {
        Left::Nothing => {
            drop(turns);
            Vec::new()
        }
        Left::Work => turns,
    };
    let written = blocking(move || claimed.finish(ending)).await;
    if killed {
        return Exit::Killed;
    }
    server.finish(FLUSH_TIME).await;
    match written {
        Ok(_) => Exit::Ok,
        Err(error) => {
            tracing::error!(job = %id, "{}", describe(&error));
            Exit::Failed
        }
    }
}

/// The order from before the job, if any, and then later ones.
async fn next_order(first: &mut Option<Order>, orders: &mut Orders) -> Option<Order> {
    match first.take() {
        Some(order) => Some(order),
        None => orders.recv().await,
    }
}

impl<S: JobService> Replica<S> {
    /// Whether a request comes from a gateway that knows the stack's secret. Without a secret, every request passes.
    pub(crate) fn is_from_the_gateway(&self, headers: &HeaderMap) -> bool {
        let Some(secret) = &self.secret else { return true };
        let proof = headers.get(web::header::DISPATCH_PROOF).and_then(|proof| proof.to_str().ok());
        let (Ok(Some(job)), Some(proof)) = (web::job_id(headers, web::header::JOB_ID), proof)
        else {
            return false;
        };
        secret.is_proof(proof, Statement::Dispatch { replica: self.config.id, job })
    }

    /// What proves to a gateway which replica this is, if it asks and this one knows the stack's secret. It says so to anyone: the proof
    /// is good for this one challenge.
    pub(crate) fn meet_challenge(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let challenge = headers.get(web::header::CHALLENGE)?.to_str().ok()?;
        let challenge = Challenge::parse(challenge)?;
        let statement = Statement::Challenged { replica: self.config.id, challenge };
        HeaderValue::from_str(&self.secret.as_ref()?.prove(statement)).ok()
    }

    pub(crate) async fn is_idle(&self) -> bool {
        matches!(*self.slot.lock().await, JobSlot::Free(_))
    }

    /// Accepts no job from now on. Does nothing if it has one.
    async fn leave(&self) {
        let mut slot = self.slot.lock().await;
        if let JobSlot::Free(_) = *slot {
            // Dropping the registration withdraws it.
            *slot = JobSlot::Closed;
        }
    }

    /// Withdraws the registration after the job.
    async fn close(&self) {
        *self.slot.lock().await = JobSlot::Closed;
    }

    /// Claims the job and takes the slot, or refuses the job and changes nothing.
    pub(crate) async fn accept(
        &self,
        headers: &HeaderMap,
        request: S::Request,
        digest: RequestDigest,
    ) -> Result<Job, RequestError> {
        // Held until the slot is taken, so that a second request waits and then finds it taken.
        let mut slot = self.slot.lock().await;
        if !matches!(*slot, JobSlot::Free(_)) {
            return Err(busy());
        }
        let parent = web::job_id(headers, web::header::PARENT_JOB_ID)?;
        let id = web::job_id(headers, web::header::JOB_ID)?;
        let capability = headers.get(web::header::CAPABILITY);
        let capability =
            capability.and_then(|text| Some(Secret::new(text.to_str().ok()?.to_owned())));
        let by = self.config.id.to_string();
        let workspace = self.workspace.clone();
        // `block_in_place` and not the blocking pool, because the check borrows the service.
        tokio::task::block_in_place(|| self.service.check(&workspace, &request))?;
        let id = id.unwrap_or_else(JobId::new);
        let describe = request.clone();
        let (claimed, turns) = blocking(move || {
            // Checked before taking its turns: the replica that runs the job holds them, and the error would be
            // misleading.
            let known = Job::open(&workspace, id).map_err(|error| error.refusal())?;
            let claim = known.map(|job| job.claimed()).transpose();
            if claim.map_err(|error| error.refusal())?.flatten().is_some() {
                return Err(claimed_already());
            }
            let (record, mut turns) = take_turns(&workspace, &describe, &digest, id, parent)?;
            let (NewJob::Created(job) | NewJob::Exists(job)) =
                Job::create_for(&workspace, &record).map_err(|error| error.refusal())?;
            if record.own == Some(id.into()) {
                // Only now is there a place for its lock. Nobody works there before it, so it needs no second one.
                let own = Turn::Own(id.into());
                turns.push(hold(workspace.take_turn(&own, TurnUse::Lend), &own)?);
            }
            match job.claim(&by) {
                Ok(Some(claimed)) => Ok((claimed, turns)),
                Ok(None) => Err(claimed_already()),
                Err(error) => Err(error.refusal()),
            }
        })
        .await?;
        let job = claimed.job().clone();
        if let JobSlot::Free(mut registration) = std::mem::replace(&mut *slot, JobSlot::Closed) {
            let begun = blocking(move || {
                registration.mark_busy();
                registration
            });
            *slot = JobSlot::Taken { _registration: begun.await };
        }
        // Cannot fail: the receiver lives as long as the replica.
        let _ = self.accepted.send(Accepted { claimed, request, parent, capability, turns });
        Ok(job)
    }
}

/// Creates the record of a job and takes its turns.
fn take_turns(
    workspace: &Workspace,
    request: &dyn JobRequest,
    digest: &RequestDigest,
    id: JobId,
    parent: Option<JobId>,
) -> Result<(JobRecord, Vec<HeldTurn>), RequestError> {
    let lends = request.service().asks_for_jobs();
    let turn_use = if lends { TurnUse::Lend } else { TurnUse::Work };
    let describe = || {
        let record = JobRecord::of(workspace, request, digest.clone(), id, parent);
        let turns = record.and_then(|record| Ok((record.turns(workspace)?, record)));
        turns.map_err(|error| error.refusal())
    };
    let (mut turns, mut record) = describe()?;
    let mut held = Vec::new();
    // The session first: the job that has its turn may move it, so its directory is only known afterwards.
    if record.session.is_some() {
        for turn in &turns.own {
            if matches!(turn, Turn::Session(_)) {
                held.push(hold(workspace.take_turn(turn, turn_use), turn)?);
            }
        }
        (turns, record) = describe()?;
    }
    for turn in &turns.own {
        let is_later = matches!(turn, Turn::Session(_)) || *turn == Turn::Own(id.into());
        if !is_later {
            held.push(hold(workspace.take_turn(turn, turn_use), turn)?);
        }
    }
    for turn in &turns.parents {
        held.push(hold(workspace.join_turn(turn), turn)?);
    }
    Ok((record, held))
}

fn claimed_already() -> RequestError {
    RequestError::new(
        Code::Claimed,
        "a replica has already claimed this job: read GET /api/jobs/<id>/events",
    )
}

fn hold(taken: workspace::Result<Option<HeldTurn>>, turn: &Turn) -> Result<HeldTurn, RequestError> {
    taken.map_err(|error| error.refusal())?.ok_or_else(|| RequestError {
        code: Code::Busy,
        message: format!("another job uses {turn}: send the request again when that job has ended"),
        field: Some(turn.field().into()),
    })
}

#[cfg(test)]
mod tests;
