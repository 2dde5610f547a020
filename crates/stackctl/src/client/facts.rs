//! What a job's events say about it, beyond the gateway's view.

use std::{pin::pin, time::Duration};

use contract::JobView;
use futures_util::StreamExt as _;
use stack_client::{AfterEnd, Api, Follow, FollowEvent, JobSource, follow};
use transcript::Facts;

/// Reads the events of a job: all of one that has ended, and those that come within `time` of one that runs.
pub(crate) async fn read(api: &Api, job: &JobView, time: Duration) -> Facts {
    let mut facts = Facts::default();
    let events = follow(Follow {
        api: api.clone(),
        service: job.service,
        start: JobSource::Known(job.job_id),
        patience: time,
        after: AfterEnd::Leave,
    });
    let mut events = pin!(events);
    let all = async {
        while let Some(Ok(next)) = events.next().await {
            if let FollowEvent::Event(event) = next {
                facts.add(job.service, &event.value);
            }
        }
    };
    // What came by then is still worth showing.
    let _late = tokio::time::timeout(time, all).await;
    facts
}
