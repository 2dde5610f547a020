//! Where a workflow that resumes a session works.

use contract::{
    Code, FileRepositories, JobRequest as _, Policy, RepoUrl, RequestError, SessionId,
    WorkflowRequest, WorkspacePath,
};
use workspace::{Job, ResolveError, Session, Workspace};

/// The checkout in which a session worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionCheckout {
    pub(crate) session: SessionId,
    /// Where the agent worked, in the checkout or beneath it.
    pub(crate) place: WorkspacePath,
    /// The checkout itself.
    pub(crate) root: WorkspacePath,
}

/// The checkout in which `request` continues: that of the session it resumes, unless it names a directory. `None` if the
/// workflow pulls a checkout of its own. Blocking.
///
/// # Errors
/// If there is no such session, what it worked in is gone or belongs to another repository, or the volume cannot be
/// read.
pub(crate) fn checkout(
    workspace: &Workspace,
    request: &WorkflowRequest,
) -> Result<Option<SessionCheckout>, RequestError> {
    let Some(id) = request.session() else { return Ok(None) };
    let session = Session::open(workspace, id).map_err(|error| error.refusal())?;
    let session = session.ok_or_else(|| not_found(id))?;
    if request.pull.directory.is_some() {
        return Ok(None);
    }
    let place = session.place().map_err(|error| error.refusal())?.ok_or_else(|| not_found(id))?;
    let place = workspace.resolve(&place).map_err(|error| match error {
        ResolveError::Refused(why) => RequestError::new(
            Code::WorkspaceGone,
            format!(
                "the checkout in which session {id} worked is gone ({why}): name a directory to continue elsewhere"
            ),
        ),
        ResolveError::Volume(error) => error.refusal(),
    })?;
    check_repository(workspace, request, id, &place)?;
    let root = place.checkout(workspace.root_text());
    Ok(Some(SessionCheckout { session: id, place, root }))
}

fn not_found(id: SessionId) -> RequestError {
    let why = format!("there is no session {id}: leave it out to start a new one");
    RequestError::field_code(Code::SessionNotFound, "resumeSessionId", why)
}

/// If this is a workflow's own checkout, refuses a request for another repository than the workflow's. For a shared
/// checkout, only a pull can tell.
fn check_repository(
    workspace: &Workspace,
    request: &WorkflowRequest,
    id: SessionId,
    place: &WorkspacePath,
) -> Result<(), RequestError> {
    let Some(owner) = place.own_job() else { return Ok(()) };
    let job = Job::open(workspace, owner).map_err(|error| error.refusal())?;
    let record = job.map(|job| job.shown_record()).transpose().map_err(|error| error.refusal())?;
    let Some(known) = record.and_then(|record| record.repo_url) else { return Ok(()) };
    // It was allowed then, even if it is not allowed now.
    let policy = Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() };
    if RepoUrl::parse(&known, &policy)
        .is_ok_and(|known| known.is_same_repository(&request.pull.repo_url))
    {
        return Ok(());
    }
    let why = format!(
        "session {id} worked on {known}: send that URL, or leave resumeSessionId out to start a new session"
    );
    Err(RequestError::field_code(Code::DifferentRepository, "repoUrl", why))
}

#[cfg(test)]
mod tests {
    use contract::JobId;
    use serde_json::json;

    use super::*;

    fn bench() -> (tempfile::TempDir, Workspace) {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        (dir, workspace)
    }

    fn request(session: SessionId, directory: Option<&str>) -> WorkflowRequest {
        let body = json!({
            "prompt": "x", "repoUrl": "https://h/r.git", "resumeSessionId": session, "directory": directory,
        });
        WorkflowRequest::parse(body.to_string().as_bytes(), "/w", &Policy::default()).unwrap()
    }

    fn session_in(workspace: &Workspace, place: &str) -> SessionId {
        std::fs::create_dir_all(workspace.root().join(place)).unwrap();
        let place = WorkspacePath::parse(place, workspace.root_text()).unwrap();
        let id = SessionId::new();
        drop(Session::create(workspace, id, &place).unwrap());
        id
    }

    #[test]
    fn it_continues_where_its_session_worked_unless_it_names_a_directory() {
        let (_dir, workspace) = bench();
        let own = format!("jobs/{}/r", JobId::new());
        for (place, root) in
            [("app", "app"), ("app/src", "app"), (&own, &own), (&format!("{own}/src/deep"), &own)]
        {
            let id = session_in(&workspace, place);
            let found = checkout(&workspace, &request(id, None)).unwrap().unwrap();
            assert_eq!((found.place.as_str(), found.root.as_str()), (place, root));
            assert_eq!(checkout(&workspace, &request(id, Some("other"))).unwrap(), None);
        }
    }

    #[test]
    fn a_session_that_cannot_be_resumed_is_refused() {
        let (dir, workspace) = bench();
        let refuse = |id, directory| checkout(&workspace, &request(id, directory)).unwrap_err();
        for directory in [None, Some("app")] {
            assert_eq!(refuse(SessionId::new(), directory).code, Code::SessionNotFound);
        }
        let id = session_in(&workspace, "gone");
        std::fs::remove_dir(dir.path().join("gone")).unwrap();
        assert_eq!(refuse(id, None).code, Code::WorkspaceGone);
        let id = session_in(&workspace, "damaged");
        std::fs::write(dir.path().join(format!(".stack/sessions/{id}/meta.json")), "{").unwrap();
        assert_eq!(refuse(id, None).code, Code::SessionDamaged);
    }
}
