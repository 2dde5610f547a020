//! Whether a caller may work where its request asks for, and deliver what it asks for.

use contract::{
    CallerName, Code, Deliver, DirectoryName, JobId, JobRequest, Place, RequestError, Requester,
    Scope, Service, SessionId, WorkspacePath,
};
use workspace::{Job, JobRecord, ResolveError, Session, Workspace};

use crate::caller::{Access, Act, Caller, not_yours};

/// Checks the session, the checkout and the delivery of a request. Blocking.
///
/// # Errors
/// If the caller may not deliver, or if one of the others belongs to another caller. The error is the same as if it did not exist, unless the caller may see it.
pub(crate) fn check(
    workspace: &Workspace,
    caller: &Caller,
    request: &dyn JobRequest,
    record: &JobRecord,
) -> Result<(), RequestError> {
    if let Some(deliver) = request.delivery() {
        check_delivery(caller, deliver)?;
    }
    if let Some(id) = record.session {
        check_session(workspace, caller, id)?;
    }
    let requester = if record.parent.is_some() { Requester::Workflow } else { Requester::Caller };
    match request.place(requester) {
        Place::Own => {}
        Place::OfSession => {
            if let Some(id) = record.session {
                check_place_of_session(workspace, caller, id, record)?;
            }
        }
        Place::Checkout(name) => {
            let owner = workspace.owner_of_directory(&name).map_err(|error| error.refusal())?;
            // Its job claims it, when nothing else is in the way of the job.
            owner.map_or(Ok(()), |owner| grant_directory(caller, &owner))?;
        }
        Place::At(path) => check_path(workspace, caller, &path, Some(record))?,
        Place::OfJob(id) => check_job(workspace, caller, id, record)?,
    }
    Ok(())
}

/// A delivery uses the stack's credentials, so it needs more than the right to start a job.
fn check_delivery(caller: &Caller, deliver: &Deliver) -> Result<(), RequestError> {
    // The workflow itself was admitted with its delivery.
    if caller.workflow.is_some() {
        return Ok(());
    }
    caller.check(Scope::Deliver)?;
    if deliver.allow_protected { caller.check(Scope::DeliverProtected) } else { Ok(()) }
}

/// Makes the caller of a new job the owner of the shared checkout of the job, if it is new. Blocking.
///
/// # Errors
/// As [`check`], if another caller was first.
pub(crate) fn claim(
    workspace: &Workspace,
    caller: &Caller,
    name: &DirectoryName,
) -> Result<(), RequestError> {
    let owner = workspace.claim_directory(name, &caller.name);
    grant_directory(caller, &owner.map_err(|error| error.refusal())?)
}

fn grant_directory(caller: &Caller, owner: &CallerName) -> Result<(), RequestError> {
    grant(caller, Some(owner), "this directory", || {
        let why = "you have no such checkout, and the name is taken: choose another";
        RequestError::field_code(Code::NotFound, "directory", why)
    })
}

/// Checks a directory that a caller has named, for the job of `record`. Blocking.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_path(
    workspace: &Workspace,
    caller: &Caller,
    path: &WorkspacePath,
    record: Option<&JobRecord>,
) -> Result<(), RequestError> {
    if caller.may_all(Act::Change) {
        return Ok(());
    }
    // The real path: a link in a checkout of the caller may lead into that of another.
    let real = match workspace.resolve(path) {
        Ok(real) => real,
        // The service itself refuses it. Whether it is there is no secret of other callers'.
        Err(_) if caller.name.is_anonymous() => return Ok(()),
        Err(error) => return Err(error.refusal("workspace")),
    };
    let owner = workspace.owner_of_place(&real).map_err(|error| error.refusal())?;
    // The session is the caller's, which was checked before.
    if owner.is_none()
        && let Some(record) = record
        && workspace.continues_in(record, &real).map_err(|error| error.refusal())?
    {
        return Ok(());
    }
    grant(caller, owner.as_ref(), "this workspace", || {
        // As `Workspace::resolve` refuses one that does not exist.
        let why = format!("'{path}' does not exist in the workspace");
        RequestError::field_code(Code::NotFound, "workspace", why)
    })
}

/// Checks the workflow whose result is to be delivered, and its checkout. Blocking.
fn check_job(
    workspace: &Workspace,
    caller: &Caller,
    id: JobId,
    record: &JobRecord,
) -> Result<(), RequestError> {
    let refuse = |code, why: &str| Err(RequestError::new(code, why));
    let unknown = || RequestError::new(Code::NotFound, "no such job: GET /api/jobs lists them");
    if caller.workflow.is_some_and(|workflow| workflow != id) {
        return refuse(Code::Forbidden, "a workflow delivers only its own result");
    }
    let job = Job::open(workspace, id).map_err(|error| error.refusal())?.ok_or_else(unknown)?;
    let owner = job.owner().map_err(|error| error.refusal())?;
    grant(caller, owner.as_ref(), "this job", unknown)?;
    let view = job.view().map_err(|error| error.refusal())?;
    if view.service != Service::Workflow {
        let why = "only the result of a workflow can be delivered: this is another kind of job";
        return refuse(Code::InvalidField, why);
    }
    if caller.workflow.is_none() && !view.state.has_ended() {
        return refuse(Code::Running, "the job has not ended: wait for its end, or cancel it");
    }
    let work = job.work().map_err(|error| error.refusal())?;
    let Some(work) = work else {
        let why = "there is nothing to deliver: the agent of this job did not start";
        return refuse(Code::NothingToDeliver, why);
    };
    match workspace.resolve(&work.checkout) {
        Ok(real) => check_path(workspace, caller, &real, Some(record)),
        // The service itself says that it is gone, unless its result was delivered before.
        Err(ResolveError::Refused(_)) => Ok(()),
        Err(ResolveError::Volume(error)) => Err(error.refusal()),
    }
}

/// Checks where a session worked last: an agent may have put a link there since. Blocking.
fn check_place_of_session(
    workspace: &Workspace,
    caller: &Caller,
    id: SessionId,
    record: &JobRecord,
) -> Result<(), RequestError> {
    let place = Session::open(workspace, id)
        .and_then(|session| session.map_or(Ok(None), |session| session.place()));
    let place = match place {
        Ok(place) => place,
        // The service itself refuses the session.
        Err(error) if error.is_damage() => None,
        Err(error) => return Err(error.refusal()),
    };
    let Some(place) = place else { return Ok(()) };
    match workspace.resolve(&place) {
        Ok(_) => check_path(workspace, caller, &place, Some(record)),
        // The service itself says that it is gone.
        Err(ResolveError::Refused(_)) => Ok(()),
        Err(ResolveError::Volume(error)) => Err(error.refusal()),
    }
}

fn check_session(
    workspace: &Workspace,
    caller: &Caller,
    id: SessionId,
) -> Result<(), RequestError> {
    let unknown = || {
        let why = format!("there is no session {id}: leave it out to start a new one");
        RequestError::field_code(Code::SessionNotFound, "resumeSessionId", why)
    };
    match owner_of_session(workspace, id)? {
        Some(owner) => grant(caller, owner.as_ref(), "this session", unknown),
        // The service itself refuses it.
        None if caller.name.is_anonymous() => Ok(()),
        None => Err(unknown()),
    }
}

/// The owner of a session; `None` if there is none. One whose record is damaged, or has no proof, belongs to nobody. Blocking.
///
/// # Errors
/// If the volume cannot be read.
#[expect(clippy::option_option, reason = "no session, one of nobody, or one of somebody")]
pub(crate) fn owner_of_session(
    workspace: &Workspace,
    id: SessionId,
) -> Result<Option<Option<CallerName>>, RequestError> {
    let owner = Session::open(workspace, id)
        .and_then(|session| session.map_or(Ok(None), |session| session.owner()));
    match owner {
        Err(error) if error.is_damage() => Ok(Some(None)),
        owner => owner.map(|owner| owner.map(Some)).map_err(|error| error.refusal()),
    }
}

/// # Errors
/// `hidden`, or that the thing belongs to another caller, if this one may not change it.
fn grant(
    caller: &Caller,
    owner: Option<&CallerName>,
    what: &str,
    hidden: impl FnOnce() -> RequestError,
) -> Result<(), RequestError> {
    match caller.access(owner, Act::Change) {
        Access::Granted => Ok(()),
        Access::Forbidden => Err(not_yours(what)),
        Access::Hidden => Err(hidden()),
    }
}
