//! How many callers read the events of one job.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contract::{Code, JobId, RequestError};

/// The jobs whose events are being read by others than the callers that started them, and by how many.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<HashMap<JobId, usize>>);

impl Readers {
    fn counts(&self) -> MutexGuard<'_, HashMap<JobId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more reader of `job` until the result is dropped.
    ///
    /// # Errors
    /// If there are `most` already.
    pub(crate) fn add(self: &Arc<Self>, job: JobId, most: usize) -> Result<Reader, RequestError> {
        let mut counts = self.counts();
        let count = counts.entry(job).or_default();
        if *count >= most {
            let sentence = format!(
                "{most} callers read the events of this job already: try again later, or raise READERS_PER_JOB"
            );
            return Err(RequestError::new(Code::Busy, sentence));
        }
        *count += 1;
        Ok(Reader { readers: Arc::clone(self), job })
    }
}

/// One reader of a job's events.
#[derive(Debug)]
pub(crate) struct Reader {
    readers: Arc<Readers>,
    job: JobId,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut counts = self.readers.counts();
        if let Some(count) = counts.get_mut(&self.job) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_has_so_many_readers() {
        let readers = Arc::new(Readers::default());
        let (job, other) = (JobId::new(), JobId::new());
        let first = readers.add(job, 2).unwrap();
        let second = readers.add(job, 2).unwrap();
        assert_eq!(readers.add(job, 2).unwrap_err().code, Code::Busy);
        let third = readers.add(other, 2).unwrap();
        drop(first);
        drop(readers.add(job, 2).unwrap());
        drop((second, third));
        assert!(readers.counts().is_empty());
    }
}
