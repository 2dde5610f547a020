//! What becomes of a job when the caller who asked for it goes away.

use contract::{Code, RequestError};
use http::HeaderMap;
use workspace::Job;

/// `X-On-Disconnect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The job goes on; its caller may come back.
    #[default]
    Continue,
    /// The job is cancelled.
    Cancel,
}

impl OnDisconnect {
    /// Reads the header.
    ///
    /// # Errors
    /// If it says something else.
    pub fn read(headers: &HeaderMap) -> Result<Self, RequestError> {
        match headers.get(web::header::ON_DISCONNECT).map(http::HeaderValue::as_bytes) {
            None | Some(b"continue") => Ok(Self::Continue),
            Some(b"cancel") => Ok(Self::Cancel),
            Some(_) => Err(RequestError::new(
                Code::InvalidField,
                "'X-On-Disconnect' must be 'continue' or 'cancel'",
            )),
        }
    }
}

/// Lives as long as a caller's stream, and cancels its job if the stream goes first and the caller wanted that.
pub struct Leaving(Option<Armed>);

struct Armed {
    job: Job,
    /// Whether it is this process that goes away, not the caller.
    is_stopping: Box<dyn Fn() -> bool + Send>,
}

impl Leaving {
    /// The job goes on.
    #[must_use]
    pub const fn harmless() -> Self {
        Self(None)
    }

    /// What `on_disconnect` says; a process that `is_stopping` cuts its callers off itself.
    #[must_use]
    pub fn new(
        on_disconnect: OnDisconnect,
        job: &Job,
        is_stopping: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        match on_disconnect {
            OnDisconnect::Continue => Self(None),
            OnDisconnect::Cancel => {
                Self(Some(Armed { job: job.clone(), is_stopping: Box::new(is_stopping) }))
            }
        }
    }

    pub(crate) fn has_heard_the_end(&mut self) {
        self.0 = None;
    }
}

impl std::fmt::Debug for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Leaving").field(&self.0.is_some()).finish()
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(Armed { job, is_stopping }) = self.0.take() else { return };
        if is_stopping() {
            return;
        }
        // Dropped with the runtime, it has nobody to do it; then this process is going away too.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn_blocking(move || {
            let cancelled = job.outcome().and_then(|outcome| match outcome {
                Some(_) => Ok(()),
                None => {
                    tracing::info!(job = %job.id(), "its caller left: cancelling");
                    job.request_cancel()
                }
            });
            if let Err(error) = cancelled {
                tracing::error!(job = %job.id(), error = &error as &dyn std::error::Error, "cannot cancel a job");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_header() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(web::header::ON_DISCONNECT, HeaderValue::from_static(value));
            OnDisconnect::read(&headers).ok()
        };
        assert_eq!(OnDisconnect::read(&HeaderMap::new()).ok(), Some(OnDisconnect::Continue));
        assert_eq!(read("cancel"), Some(OnDisconnect::Cancel));
        assert_eq!(read("continue"), Some(OnDisconnect::Continue));
        for bad in ["", "Cancel", "yes"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
