//! Short job ids for people.
//!
//! An id begins with the time, so the ids of one day begin alike, and ends with random digits. Listings show the end, and
//! commands take a beginning or an end that is unique.

use std::collections::HashSet;

use contract::{JobId, JobView};
use http::StatusCode;
use stack_client::{Api, Listing};

use super::error::ClientError;

/// How many characters of an id are shown if they are unique among the ids in view.
const SHORT: usize = 8;
/// The fewest characters that count as an id: fewer are a typing error more often than a choice.
const FEWEST: usize = 3;
/// How many jobs the stack is asked for. More than one is an error anyway.
const MATCHES: usize = 1000;
/// How many ids an error lists.
const NAMED: usize = 5;

/// The job with this id, or with an id that begins or ends so if there is only one.
pub(crate) async fn resolve(api: &Api, given: &str) -> Result<JobView, ClientError> {
    let given = given.trim().to_ascii_lowercase();
    if let Ok(id) = given.parse() {
        return Ok(api.job(id).await?);
    }
    if given.len() < FEWEST || !given.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        // It is not repeated, because it may be anything, such as a URL with a password.
        return Err(ClientError::NotAnId);
    }
    let listing = Listing { limit: Some(MATCHES), id: Some(given.clone()), ..Listing::default() };
    let jobs = match api.jobs(listing).await {
        // A stack of an earlier version cannot look for a part of an ID, but it lists its jobs.
        Err(stack_client::Error::Refused { status: StatusCode::BAD_REQUEST, .. }) => {
            api.jobs(Listing::default()).await?
        }
        jobs => jobs?,
    };
    pick(jobs, given)
}

fn pick(jobs: Vec<JobView>, given: String) -> Result<JobView, ClientError> {
    let mut matching = jobs.into_iter().filter(|job| {
        let id = job.job_id.to_string();
        id.starts_with(&given) || id.ends_with(&given)
    });
    let Some(found) = matching.next() else { return Err(ClientError::NoSuchJob(given)) };
    let mut matches: Vec<_> = std::iter::once(&found)
        .chain(&matching.collect::<Vec<_>>())
        .map(|job| job.job_id.to_string())
        .collect();
    if matches.len() == 1 {
        return Ok(found);
    }
    let more = matches.len().saturating_sub(NAMED);
    matches.truncate(NAMED);
    if more > 0 {
        matches.push(format!("{more} more"));
    }
    Err(ClientError::Ambiguous { given, matches })
}

/// The end of an id, as it is shown when it stands alone.
pub(crate) fn short(id: JobId) -> String {
    end_of(id, SHORT)
}

/// The ends of these ids, long enough to be unique among them.
pub(crate) fn shorten(ids: &[JobId]) -> Vec<String> {
    let is_unique = |ends: &Vec<String>| ends.iter().collect::<HashSet<_>>().len() == ends.len();
    let ends = |length| ids.iter().map(|id| end_of(*id, length)).collect::<Vec<_>>();
    let whole = JobId::new().to_string().len();
    (SHORT..whole).step_by(2).map(ends).find(is_unique).unwrap_or_else(|| ends(whole))
}

fn end_of(id: JobId, length: usize) -> String {
    let id = id.to_string();
    id.get(id.len().saturating_sub(length)..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use contract::JobState;

    use super::*;
    use crate::fixtures::workflow;

    const IDS: [&str; 4] = [
        "019aa001-0000-7000-8000-00000000abcd",
        "019aa001-0000-7000-8000-00010000abcd",
        "019aa002-0000-7000-8000-0123456789ab",
        "019bb000-0000-7000-8000-fedcba987654",
    ];

    fn jobs() -> Vec<JobView> {
        IDS.map(|id| workflow(id, JobState::Running)).into()
    }

    #[test]
    fn a_beginning_or_an_end_that_one_job_has() {
        for (given, index) in
            [("019b", 3), ("019aa002", 2), ("89ab", 2), ("8000-fedcba987654", 3), (IDS[0], 0)]
        {
            let found = pick(jobs(), given.to_owned()).unwrap();
            assert_eq!(found.job_id.to_string(), IDS[index], "{given}");
        }
    }

    #[test]
    fn an_id_of_several_or_no_jobs() {
        let ambiguous = pick(jobs(), "abcd".to_owned()).unwrap_err();
        assert_eq!(
            ambiguous.to_string(),
            format!("'abcd' matches {}, {}: give more of the ID", IDS[0], IDS[1])
        );
        let many = pick([jobs(), jobs(), jobs(), jobs()].concat(), "019".to_owned())
            .unwrap_err()
            .to_string();
        assert!(many.contains(", 11 more: give"), "{many}");
        assert!(matches!(pick(jobs(), "ffff".to_owned()), Err(ClientError::NoSuchJob(_))));
    }

    #[test]
    fn short_ids_are_unique_and_find_their_jobs() {
        let ids = IDS.map(|id| id.parse().unwrap());
        assert_eq!(shorten(&ids[1..3]), ["0000abcd", "456789ab"]);
        let all = shorten(&ids);
        assert_eq!(all, ["000000abcd", "010000abcd", "23456789ab", "dcba987654"]);
        for (shown, id) in all.into_iter().zip(ids) {
            assert_eq!(pick(jobs(), shown).unwrap().job_id, id);
        }
        assert!(shorten(&[]).is_empty());
        assert_eq!(shorten(&[ids[0], ids[0]]).len(), 2);
    }
}
