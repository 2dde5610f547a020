//! `job.json`: the request of a job.

use contract::{
    CallbackUrl, CallerName, ChangesRequest, CommonOptions, DirectoryName, GatewayId, JobId,
    JobRequest, Labels, OwnId, Place, Policy, RepoUrl, Requester, Retain, Secrets, Service,
    SessionId, Timestamp, WorkspacePath,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{Job, RequestDigest, ResolveError, Result, Session, Turn, Workspace};

/// The request of a job, without what must not be written to disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedRequest {
    /// The request's body, as encoded by the version that wrote it, without the credentials of its URL.
    pub body: Box<RawValue>,
    /// Whether the request had credentials that `body` does not contain. They are only in the memory of the process
    /// that received it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credentials_withheld: bool,
    /// Recognizes the request when it is sent again. Earlier versions wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<RequestDigest>,
}

/// `job.json`: written once, before anyone can see the job.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRecord {
    /// The job.
    pub job_id: JobId,
    /// Its service.
    pub service: Service,
    /// The job path of its service to which the request belongs, if that is not the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whose it is. Jobs that were made before there were callers belong to `anonymous`.
    #[serde(default)]
    pub caller: CallerName,
    /// The workflow that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// The shared checkout whose turn it needs.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "directory",
        serialize_with = "as_text"
    )]
    pub directory: Option<DirectoryName>,
    /// The job or session whose own directory it uses and needs the turn of: itself, its workflow, or an earlier one. Earlier
    /// versions wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnId>,
    /// The session whose turn it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The repository, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_url: Option<String>,
    /// Whether it may work in what belongs to other callers, because an administrator asked for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub works_anywhere: bool,
    /// What happens to its own directory after its end.
    #[serde(default, skip_serializing_if = "Retain::is_default")]
    pub retain: Retain,
    /// What its caller calls it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Where its end is announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<CallbackUrl>,
    /// When the job was created.
    pub created: Timestamp,
    /// The gateway in whose queue it waits, if a gateway created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayId>,
    /// The request.
    pub request: RecordedRequest,
}

/// The turns that a job needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// It must take these.
    pub own: Vec<Turn>,
    /// Its workflow holds these for it.
    pub parents: Vec<Turn>,
}

impl JobRecord {
    /// The record of a new job. `digest` is that of the body that its caller sent. Blocks briefly.
    ///
    /// # Errors
    /// If the volume cannot be read, or the request's session is damaged.
    pub fn of(
        workspace: &Workspace,
        request: &dyn JobRequest,
        digest: RequestDigest,
        job_id: JobId,
        parent: Option<JobId>,
    ) -> Result<Self> {
        let requester = if parent.is_some() { Requester::Workflow } else { Requester::Caller };
        let body = String::from_utf8(request.to_body(Secrets::Withheld)).ok();
        // A request is always encoded as a JSON object.
        let body = body.and_then(|body| RawValue::from_string(body).ok()).unwrap_or_default();
        let place = request.place(requester);
        let work = match &place {
            Place::OfJob(id) => Job::open(workspace, *id)?.map_or(Ok(None), |job| job.work())?,
            _ => None,
        };
        // Nothing else may work where a delivery reads.
        let session = request.session().or(work.as_ref().and_then(|work| work.session));
        // The real path, because the agent may work behind a link.
        let real = |path: WorkspacePath| match workspace.resolve(&path) {
            Ok(real) => Ok(real),
            // The service itself rejects the path.
            Err(ResolveError::Refused(_)) => Ok(path),
            Err(ResolveError::Volume(error)) => Err(error),
        };
        let at = |path: WorkspacePath| (path.directory(), path.own_id());
        let (directory, own) = match place {
            // A pull is into the directory of its workflow.
            Place::Own if request.service() == Service::Pull => {
                (None, Some(parent.unwrap_or(job_id).into()))
            }
            Place::Own => (None, Some(job_id.into())),
            Place::Checkout(name) => (Some(name), None),
            Place::At(path) => at(real(path)?),
            Place::OfSession => match session.map(|id| Session::open(workspace, id)).transpose()? {
                Some(Some(session)) => match session.place()? {
                    Some(place) => at(real(place)?),
                    None => (None, None),
                },
                _ => (None, None),
            },
            Place::OfJob(_) => work.map_or((None, None), |work| at(work.checkout)),
        };
        let path = request.path();
        let CommonOptions { labels, callback_url } = request.common();
        Ok(Self {
            job_id,
            service: request.service(),
            path: (path != request.service().job_path()).then(|| path.to_owned()),
            // Whoever knows the caller sets it.
            caller: CallerName::anonymous(),
            parent,
            directory,
            own,
            session,
            repo_url: request.repo_url().map(ToString::to_string),
            works_anywhere: false,
            retain: request.retain(),
            labels,
            callback_url,
            created: Timestamp::now(),
            gateway: None,
            request: RecordedRequest {
                body,
                credentials_withheld: request.repo_url().is_some_and(RepoUrl::has_secret),
                digest: Some(digest),
            },
        })
    }

    /// The turns that it needs. Blocks briefly.
    ///
    /// # Errors
    /// If the record of its parent cannot be read. Without it, the job would wait for a turn that its own workflow
    /// holds.
    pub fn turns(&self, workspace: &Workspace) -> Result<Turns> {
        let parent = match self.parent {
            Some(parent) => Job::open(workspace, parent)?,
            None => None,
        };
        let parent = parent.map(|parent| parent.record()).transpose()?;
        let held: Vec<Turn> = parent
            .filter(|parent| parent.service.asks_for_jobs())
            .map(|parent| parent.wanted().collect())
            .unwrap_or_default();
        let (parents, own) = self.wanted().partition(|turn| held.contains(turn));
        Ok(Turns { own, parents })
    }

    /// The job path of its service to which its request is sent.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(self.service.job_path())
    }

    /// The job whose change it looks at, if it does.
    #[must_use]
    pub fn changes_of(&self) -> Option<JobId> {
        let is_look = self.service == Service::Pull && self.path() == ChangesRequest::PATH;
        let request = || {
            let body = self.request.body.get().as_bytes();
            ChangesRequest::parse(body, "", &Policy::default()).ok()
        };
        is_look.then(request).flatten().map(|request| request.job)
    }

    /// Whether `other` records the same request.
    pub(crate) fn is_same_request(&self, other: &Self) -> bool {
        // Earlier versions wrote no digest; then the ID must be sufficient.
        let is_same_body = match (&self.request.digest, &other.request.digest) {
            (Some(known), Some(new)) => known == new,
            _ => true,
        };
        self.service == other.service && is_same_body
    }

    fn wanted(&self) -> impl Iterator<Item = Turn> {
        let session = self.session.map(Turn::Session);
        let directory = self.directory.clone().map(Turn::Directory);
        session.into_iter().chain(directory).chain(self.own.map(Turn::Own))
    }
}

fn directory<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DirectoryName>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| DirectoryName::parse(&text).map_err(serde::de::Error::custom))
        .transpose()
}

#[expect(clippy::ref_option, reason = "the signature serde calls")]
fn as_text<S: serde::Serializer>(
    name: &Option<DirectoryName>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    name.as_ref().map(DirectoryName::as_str).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    properties::fuzz! {
        /// Whatever a damaged record says is refused, or is a record like any other.
        #[test]
        fn a_damaged_record_is_refused_or_round_trips(
            field in prop::sample::select(vec![
                "jobId", "service", "caller", "parent", "directory", "own", "session", "repoUrl", "worksAnywhere", "retain",
                "labels", "callbackUrl", "created", "gateway", "request", "unknown", "path", "labels", "callbackUrl",
            ]),
            value in prop_oneof![
                any::<String>().prop_map(Value::from),
                prop::sample::select(vec!["..", ".stack", "a/b", "-x", "jobs", "none", "/"]).prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                Just(json!({"body": {}, "digest": "x"})),
                proptest::collection::btree_map(".{0,3}", any::<String>(), 0..3).prop_map(|labels| json!(labels)),
                "https?://[ -~é]{0,20}".prop_map(Value::from),
                (0..2000_usize).prop_map(|times| format!("https://h/{}", "é".repeat(times)).into()),
                Just(Value::Null),
            ],
        ) {
            let record = crate::fixtures::record(None, &json!({"prompt": "x"}));
            let mut json = serde_json::to_value(&record).unwrap();
            json[field] = value;
            let text = json.to_string();
            let Ok(read) = serde_json::from_str::<JobRecord>(&text) else { return Ok(()) };
            if let Some(directory) = &read.directory {
                prop_assert!(DirectoryName::parse(directory.as_str()).is_ok());
            }
            let again = serde_json::to_string(&read).unwrap();
            let again: JobRecord = serde_json::from_str(&again).unwrap();
            prop_assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&read).unwrap());
        }
    }
}
