//! The events of a job as bytes.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use web::Ids;
use workspace::Job;

use crate::Leaving;

/// The events of `job` after the id `after`, to the terminal one. If it is dropped before that, `leaving` knows.
pub fn events(
    job: Job,
    after: u64,
    ids: Ids,
    mut leaving: Leaving,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    workspace::follow(job, after).map(move |entry| {
        let entry = entry.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot read a journal");
            io::Error::other(error)
        })?;
        if entry.terminal {
            leaving.has_heard_the_end();
        }
        Ok(web::frame((ids == Ids::Sent).then_some(entry.id), &entry.json))
    })
}
