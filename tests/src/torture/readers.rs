//! Many readers of one job, all cut off at once, again and again.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet};

use super::{
    caller::Caller,
    kill::sentence,
    report::{Report, seconds},
};
use crate::{AgentScript, SseEvent, Stack, wait_for};

/// How long any step may take. It matters only if a guarantee is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// The size of the campaign.
#[derive(Clone, Copy, Debug)]
pub struct Readers {
    /// How many readers read the job at once.
    pub readers: usize,
    /// How often all of them are cut off.
    pub cuts: usize,
}

/// What a reader has read so far.
struct Reader {
    caller: Caller,
    cuts: watch::Receiver<usize>,
    got: watch::Sender<usize>,
    events: Vec<SseEvent>,
}

impl Readers {
    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started, or if events stop arriving.
    pub async fn run(self) -> Report {
        let mut report = Report::new("readers", None);
        let stack = Stack::builder().replicas(1, 1, 1).env("LOG_LEVEL", "warn").start().await;
        let marks = crate::scratch();
        let caller = Caller::execute(&stack, &self.talkative(marks.path()));
        let first = tokio::spawn({
            let caller = caller.clone();
            async move { caller.read().await }
        });
        let begun = marks.path().join("begun");
        wait_for("the agent", PATIENCE, || async { begun.exists().then_some(()) }).await;

        let started = Instant::now();
        let (cut, cuts) = watch::channel(0);
        let mut readers = JoinSet::new();
        let mut progress = Vec::new();
        for _ in 0..self.readers {
            let (got, has_got) = watch::channel(0);
            progress.push(has_got);
            let reader =
                Reader { caller: caller.clone(), cuts: cuts.clone(), got, events: Vec::new() };
            readers.spawn(reader.read());
        }
        for number in 1..=self.cuts {
            // Every reader has read something since the last cut, and the job has not ended.
            for reader in &mut progress {
                let more = tokio::time::timeout(PATIENCE, reader.changed()).await;
                report.check(matches!(more, Ok(Ok(()))), || {
                    "a reader receives nothing more".to_owned()
                });
                reader.mark_unchanged();
            }
            cut.send_replace(number);
        }
        std::fs::write(marks.path().join("enough"), "").unwrap();
        let whole = first.await.unwrap().events;
        let mut same = 0;
        while let Some(read) = readers.join_next().await {
            match read.map_err(sentence) {
                Ok(events) if events == whole => same += 1,
                Ok(events) => report.violate(format!(
                    "a reader has {} events, the journal {}",
                    events.len(),
                    whole.len()
                )),
                Err(broken) => report.violate(broken),
            }
        }
        report.figure("readers", self.readers);
        report.figure("cuts of all readers", self.cuts);
        report.figure("events of the job", whole.len());
        report.figure("bytes of the job", whole.iter().map(|it| it.raw.len() + 2).sum::<usize>());
        report.figure("readers with the same bytes", same);
        report.check(same == self.readers, || {
            format!("only {same} of {} readers have the same bytes", self.readers)
        });
        report.figure("seconds", seconds(started.elapsed()));
        report
    }
}

impl Readers {
    /// Keeps printing, and prints its last message when the cuts are over.
    fn talkative(self, marks: &Path) -> AgentScript {
        let mut script = AgentScript::new().touch(marks.join("begun"));
        for _ in 0..20 * (self.cuts + 1) {
            script = script.flood(5, 500).sleep_ms(20);
        }
        script.wait_file(marks.join("enough")).flood(100, 100)
    }
}

impl Reader {
    async fn read(mut self) -> Vec<SseEvent> {
        loop {
            self.cuts.mark_unchanged();
            let last = self.events.last().and_then(|event| event.id.clone());
            let mut request = self.caller.events().patience(PATIENCE);
            if let Some(last) = last {
                request = request.last_event_id(&last);
            }
            let mut response = request.send().await;
            assert_eq!(response.status, 200, "a reader was refused");
            loop {
                tokio::select! {
                    biased;
                    // The connection is closed at whatever point it is, with events in flight.
                    _ = self.cuts.changed() => break,
                    event = response.next_event() => match event {
                        None => return self.events,
                        Some(event) => {
                            self.events.push(event);
                            self.got.send_replace(self.events.len());
                        }
                    }
                }
            }
        }
    }
}
