//! What a job has changed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use contract::{Changes, JobId};
use http::{Method, StatusCode};
use web::Answer;

use crate::{Api, Error};

/// The longest patch that is read, in bytes. The stack cuts longer ones.
const LONGEST: usize = 128 << 20;
/// How long to ask again while the replicas or the checkout are busy.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two questions. The stack itself waits before it says that it is busy.
const PAUSE: Duration = Duration::from_secs(1);

impl Api {
    /// The files that a job has changed. The first one who asks has the stack look, which takes as long as reading the files.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn changes(&self, job: JobId) -> Result<Changes, Error> {
        serde_json::from_slice(&self.diff(job, "application/json").await?).map_err(Error::Answer)
    }

    /// The change as a patch.
    ///
    /// # Errors
    /// As [`jobs`](Self::jobs).
    pub async fn patch(&self, job: JobId) -> Result<Vec<u8>, Error> {
        self.diff(job, "text/x-diff").await
    }

    async fn diff(&self, job: JobId, accept: &str) -> Result<Vec<u8>, Error> {
        let answer = self.ready_diff(job, accept).await?;
        let unreachable = |cause| Error::Unreachable { url: self.url.clone(), cause };
        answer.bytes(LONGEST).await.map_err(unreachable)
    }

    async fn ready_diff(&self, job: JobId, accept: &str) -> Result<Answer, Error> {
        let path = format!("/api/jobs/{job}/diff");
        let headers = [("accept", accept.to_owned())];
        let begun = Instant::now();
        loop {
            let answer = self.send(Method::GET, &path, &headers, Bytes::new()).await;
            let answer =
                answer.map_err(|cause| Error::Unreachable { url: self.url.clone(), cause })?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            if answer.status != StatusCode::SERVICE_UNAVAILABLE || begun.elapsed() > PATIENCE {
                return Err(self.refusal(answer).await);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
