use contract::{Code, Ending, EventLine, Service};
use futures_util::StreamExt;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Workspace,
    fixtures::{job, workspace},
};

fn event(n: usize, size: usize) -> EventLine {
    EventLine::encode(&json!({"type": "message", "n": n, "fill": "x".repeat(size)}))
}

fn ending(job: &Job) -> Ending {
    Ending::failure(Service::Claude, job.id(), Code::Internal, "over")
}

async fn collect(job: Job, after: u64) -> Vec<JournalEntry> {
    follow(job, after).map(|entry| entry.unwrap()).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_start_at_any_time_see_every_event_once_and_in_order() {
    const EVENTS: usize = 500;
    let (dir, workspace) = workspace();
    // Another handle has its own watcher, like another process.
    let other = Workspace::open(dir.path()).unwrap();
    let job = job(&workspace);
    let mut readers = tokio::task::JoinSet::new();
    let mut claimed = None;
    for n in 0..EVENTS {
        if n % 25 == 0 {
            for workspace in [&workspace, &other] {
                readers.spawn(collect(Job::open(workspace, job.id()).unwrap().unwrap(), 0));
            }
            tokio::task::yield_now().await;
        }
        if n == 50 {
            claimed = job.claim("replica").unwrap();
        }
        if let Some(claimed) = &mut claimed {
            claimed.append(&event(n, n * 37 % 5000)).unwrap();
        }
    }
    claimed.unwrap().finish(ending(&job)).unwrap();
    readers.spawn(collect(job.clone(), 0));
    let mut seen: Vec<Vec<JournalEntry>> = readers.join_all().await;
    let first = seen.pop().unwrap();
    assert_eq!(first.len(), EVENTS - 50 + 1);
    assert!(first.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert_eq!(first.iter().filter(|entry| entry.terminal).count(), 1);
    assert!(first.last().unwrap().terminal);
    for other in seen {
        assert_eq!(other, first);
    }
}

#[tokio::test]
async fn an_append_in_another_process_is_seen_promptly() {
    let (dir, workspace) = workspace();
    let other = Workspace::open(dir.path()).unwrap();
    let job = job(&workspace);
    let mut claimed = job.claim("replica").unwrap().unwrap();
    let mut stream = Box::pin(follow(Job::open(&other, job.id()).unwrap().unwrap(), 0));
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let start = Instant::now();
        claimed.append(&event(n, 10)).unwrap();
        stream.next().await.unwrap().unwrap();
        slowest = slowest.max(start.elapsed());
    }
    // Well below the poll interval, so it was not the poll.
    assert!(slowest < Duration::from_millis(300), "{slowest:?}");
}

#[tokio::test]
async fn a_follower_ends_a_job_whose_process_died() {
    let (_dir, workspace) = workspace();
    let job = job(&workspace);
    let mut claimed = job.claim("replica").unwrap().unwrap();
    claimed.append(&event(0, 10)).unwrap();
    drop(claimed);
    let entries =
        tokio::time::timeout(Duration::from_secs(5), collect(job.clone(), 0)).await.unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(job.outcome().unwrap().unwrap().code, Some(Code::ReplicaLost));
}

#[tokio::test]
async fn bytes_after_the_outcome_do_not_count() {
    let (_dir, workspace) = workspace();
    let job = job(&workspace);
    let mut claimed = job.claim("replica").unwrap().unwrap();
    claimed.append(&event(0, 10)).unwrap();
    claimed.finish(ending(&job)).unwrap();
    let before = collect(job.clone(), 0).await;
    let mut file = std::fs::OpenOptions::new().append(true).open(job.journal_path()).unwrap();
    io::Write::write_all(&mut file, b"{\"type\":\"late\"}\n").unwrap();
    assert_eq!(collect(job, 0).await, before);
}

/// The missing events were once skipped silently.
#[tokio::test]
async fn a_journal_that_stays_shorter_than_its_outcome_ends_the_stream_with_an_error() {
    let (_dir, workspace) = workspace();
    let job = job(&workspace);
    let mut claimed = job.claim("replica").unwrap().unwrap();
    let first = claimed.append(&event(0, 10)).unwrap();
    claimed.append(&event(1, 10)).unwrap();
    let outcome = claimed.finish(ending(&job)).unwrap();
    let path = job.journal_path();
    let whole = std::fs::read(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(first + 5).unwrap();

    let entries: Vec<EventPart> = follow_within(job.clone(), 0, Duration::from_millis(50))
        .map(|entry| entry.unwrap())
        .collect()
        .await;
    let [EventPart::Events { start: 0, lines }, EventPart::Terminal { id, json }] = &entries[..]
    else {
        panic!("{entries:?}")
    };
    assert_eq!((lines.len() as u64, *id), (first, outcome.event_id()));
    let event: serde_json::Value = serde_json::from_slice(json).unwrap();
    assert_eq!((&event["type"], &event["code"]), (&json!("error"), &json!("journal_damaged")));
    assert!(event["error"].as_str().unwrap().contains("are missing"), "{event}");

    // A journal that is only late is waited for.
    let reading = tokio::spawn(collect(job, 0));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!reading.is_finished());
    std::fs::write(&path, whole).unwrap();
    let entries = reading.await.unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[2].json, outcome.event.as_bytes());
}

#[tokio::test]
async fn a_long_event_is_read_in_small_parts() {
    let (_dir, workspace) = workspace();
    let job = job(&workspace);
    let mut claimed = job.claim("replica").unwrap().unwrap();
    let events = [event(0, 10), event(1, 5 << 20), event(2, CHUNK), event(3, 10)];
    let ids: Vec<_> = events.iter().map(|event| claimed.append(event).unwrap()).collect();
    claimed.finish(ending(&job)).unwrap();
    let parts: Vec<_> = follow_parts(job.clone(), 0).map(|part| part.unwrap()).collect().await;
    let mut pieces = Vec::new();
    for part in parts {
        match part {
            EventPart::Events { lines, .. } => assert!(lines.len() <= CHUNK),
            EventPart::Piece { id, json, is_last } => {
                assert!(json.len() <= CHUNK);
                pieces.push((id, is_last));
            }
            EventPart::Terminal { .. } => {}
        }
    }
    // The ID comes with the first piece of each.
    let begun: Vec<_> = pieces.iter().filter_map(|(id, _)| *id).collect();
    assert_eq!(begun, ids[1..3]);
    assert_eq!(pieces.iter().filter(|(_, is_last)| *is_last).count(), 2);
    let entries: Vec<_> = follow(job, 0).map(|entry| entry.unwrap()).collect().await;
    assert_eq!(entries.len(), events.len() + 1);
    for ((id, event), entry) in ids.iter().zip(&events).zip(&entries) {
        assert_eq!((id, event.as_bytes()), (&entry.id, &entry.json[..]));
    }
}

#[tokio::test]
async fn many_events_are_read_at_once() {
    let (_dir, workspace) = workspace();
    let job = job(&workspace);
    let mut claimed = job.claim("replica").unwrap().unwrap();
    let events: Vec<_> = (0..100).map(|n| event(n, 50)).collect();
    claimed.append_all(&events).unwrap();
    let middle = claimed.append(&event(100, 50)).unwrap();
    claimed.finish(ending(&job)).unwrap();
    let parts: Vec<_> = follow_parts(job.clone(), 0).map(|part| part.unwrap()).collect().await;
    let [EventPart::Events { start: 0, lines }, EventPart::Terminal { id, .. }] = &parts[..] else {
        panic!("{parts:?}")
    };
    assert_eq!((lines.len() as u64, *id), (middle, middle + 1));
    // From the last one on.
    let after = middle - event(100, 50).as_bytes().len() as u64 - 1;
    let entries: Vec<_> = follow(job, after).map(|entry| entry.unwrap()).collect().await;
    assert_eq!((entries.len(), entries[0].id), (2, middle));
}

/// A network file system may show a long line bit by bit.
#[tokio::test]
async fn a_long_event_is_passed_on_once_its_end_is_there() {
    use std::io::Write as _;
    let (_dir, workspace) = workspace();
    let job = job(&workspace);
    let claimed = job.claim("replica").unwrap().unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(job.journal_path()).unwrap();
    let line = [event(0, 300_000).as_bytes(), b"\n"].concat();
    let mut parts = Box::pin(follow_parts(job, 0));
    for piece in line[..250_000].chunks(50_000) {
        file.write_all(piece).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), parts.next()).await;
        assert!(early.is_err(), "{early:?}");
    }
    file.write_all(&line[250_000..]).unwrap();
    let mut json = Vec::new();
    while !json.ends_with(b"}") {
        let Some(Ok(EventPart::Piece { id, json: piece, .. })) = parts.next().await else {
            panic!("the end of the event")
        };
        assert_eq!(id, json.is_empty().then_some(line.len() as u64));
        json.extend_from_slice(&piece);
    }
    assert_eq!(json, line[..line.len() - 1]);
    drop(claimed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn resuming_after_any_event_yields_exactly_the_rest(sizes in proptest::collection::vec(0_usize..100_000, 0..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_dir, workspace) = workspace();
            let job = job(&workspace);
            let mut claimed = job.claim("replica").unwrap().unwrap();
            for (n, size) in sizes.iter().enumerate() {
                claimed.append(&event(n, *size)).unwrap();
            }
            claimed.finish(ending(&job)).unwrap();
            let all = collect(job.clone(), 0).await;
            assert_eq!(all.len(), sizes.len() + 1);
            for (n, entry) in all.iter().enumerate().take(sizes.len()) {
                assert_eq!(collect(job.clone(), entry.id).await, all[n + 1..]);
            }
        });
    }
}
