//! Logs of a stack on a Swarm. They are read from each task, because a task tells which replica a line is of. Every job
//! brings a new task, so following means looking for new ones all the time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::pin,
    time::Duration,
};

use bollard::{errors::Error as EngineError, models::Task, query_parameters::LogsOptionsBuilder};
use contract::Timestamp;
use futures_util::{
    Stream, StreamExt as _,
    stream::{BoxStream, SelectAll},
};
use tokio::time::MissedTickBehavior;

use crate::{
    Error, Stack,
    task::{container, slot, time},
};

/// How long a task's past may take; it may be on a node that is gone.
const PAST_TIME: Duration = Duration::from_secs(20);
/// Between two looks for new tasks.
const LOOK: Duration = Duration::from_millis(300);

/// Which lines to read.
#[derive(Clone, Debug)]
pub struct LogQuery {
    /// Of this service, or of all.
    pub service: Option<String>,
    /// How many of those that were logged so far.
    pub tail: Tail,
    /// Only newer ones; older ones of the same second may come too.
    pub since: Option<Timestamp>,
    /// Whether to go on with those that are logged from now on.
    pub follow: bool,
}

/// How many lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Every one.
    All,
    /// The last so many of each service.
    Last(u32),
}

/// One line of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The service, without the stack's name.
    pub service: String,
    /// The number of the replica.
    pub slot: u64,
    /// When it was logged, as far as the engine knows.
    pub at: Option<Timestamp>,
    /// What was logged. It may be anything.
    pub text: String,
}

/// What [`Stack::logs`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogItem {
    /// A line.
    Line(LogLine),
    /// Why lines of the past may be missing.
    Incomplete(String),
}

/// A task that has, or had, a container.
#[derive(Clone, Debug)]
struct Source {
    task: String,
    service: String,
    slot: u64,
}

/// A line with its task and the engine's time of it, which can be compared as text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Logged {
    task: String,
    stamp: String,
    line: LogLine,
}

/// For each task, the time of the last line that was looked at.
type Seen = HashMap<String, String>;

impl Stack {
    /// The lines for which `takes` returns true: what was logged so far, in order, and then what is logged from now
    /// on. An error is the last item.
    pub fn logs(
        &self,
        query: LogQuery,
        takes: impl Fn(&LogLine) -> bool + Send,
    ) -> impl Stream<Item = Result<LogItem, Error>> {
        async_stream::try_stream! {
            let mut names = HashMap::new();
            for service in self.services().await? {
                if query.service.as_ref().is_none_or(|wanted| *wanted == service.name) {
                    names.insert(service.id, service.name);
                }
            }
            if let (true, Some(service)) = (names.is_empty(), &query.service) {
                let (stack, service) = (self.name().to_owned(), service.clone());
                Err(Error::NoService { stack, service })?;
            }
            let mut seen = Seen::new();
            let mut kept = Vec::new();
            let mut trouble = None;
            for source in sources(&self.tasks().await?, &names) {
                let past = self.past(&source, &query, &mut seen, &mut kept, &takes).await;
                trouble = past.err().or(trouble);
                // With a bound, the last lines of all tasks have to be put in order. Without, tasks come one by one.
                if query.tail == Tail::All {
                    for logged in kept.drain(..) {
                        yield LogItem::Line(logged.line);
                    }
                }
            }
            cut(&mut kept, query.tail);
            for logged in kept {
                yield LogItem::Line(logged.line);
            }
            if let Some(trouble) = trouble {
                yield LogItem::Incomplete(trouble);
            }
            if !query.follow {
                return;
            }
            let mut followed: HashSet<String> = HashSet::new();
            let mut streams: SelectAll<BoxStream<'static, _>> = SelectAll::new();
            let mut look = tokio::time::interval(LOOK);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let next = tokio::select! {
                    Some(next) = streams.next() => Some(next),
                    _ = look.tick() => None,
                };
                match next {
                    Some(Ok(Logged { task, stamp, line })) => {
                        // The past comes again.
                        let is_old = seen.get(&task).is_some_and(|last| stamp <= *last);
                        if !is_old && takes(&line) {
                            yield LogItem::Line(line);
                        }
                    }
                    // A stream that breaks is that of a task that is gone.
                    Some(Err(_)) => {}
                    None => {
                        let sources = sources(&self.tasks().await?, &names);
                        // Only as many as the Swarm remembers itself.
                        followed.retain(|task| sources.iter().any(|source| source.task == *task));
                        for source in sources {
                            if followed.insert(source.task.clone()) {
                                streams.push(self.logged(source, &query, Mode::Follow));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Collects what a task has logged so far. An error says why that is not all.
    async fn past(
        &self,
        source: &Source,
        query: &LogQuery,
        seen: &mut Seen,
        kept: &mut Vec<Logged>,
        takes: &(impl Fn(&LogLine) -> bool + Send),
    ) -> Result<(), String> {
        seen.insert(source.task.clone(), String::new());
        let mut lines = self.logged(source.clone(), query, Mode::Past);
        let reading = async {
            while let Some(logged) = lines.next().await.transpose()? {
                seen.insert(logged.task.clone(), logged.stamp.clone());
                if takes(&logged.line) {
                    kept.push(logged);
                }
            }
            Ok::<_, EngineError>(())
        };
        match tokio::time::timeout(PAST_TIME, reading).await {
            Ok(Ok(())) => Ok(()),
            // Its container has been removed since.
            Ok(Err(EngineError::DockerResponseServerError { status_code: 404, .. })) => Ok(()),
            Ok(Err(error)) => Err(Error::refused("read the logs of a replica", &error).to_string()),
            Err(_) => Err(format!("{}.{} does not answer", source.service, source.slot)),
        }
    }

    fn logged(
        &self,
        source: Source,
        query: &LogQuery,
        mode: Mode,
    ) -> BoxStream<'static, Result<Logged, EngineError>> {
        let tail = match (mode, query.tail) {
            // What has been shown is recognised by its time.
            (Mode::Follow, _) | (_, Tail::All) => "all".to_owned(),
            (Mode::Past, Tail::Last(lines)) => lines.to_string(),
        };
        // The engine takes whole seconds.
        let since = query.since.map_or(0, |since| since.as_millisecond() / 1000);
        let options = LogsOptionsBuilder::new()
            .follow(mode == Mode::Follow)
            .stdout(true)
            .stderr(true)
            .since(i32::try_from(since).unwrap_or(i32::MAX))
            .timestamps(true)
            .tail(&tail)
            .build();
        let docker = self.engine.docker.clone();
        async_stream::try_stream! {
            let mut outputs = pin!(docker.task_logs(&source.task, Some(options)));
            while let Some(output) = outputs.next().await {
                for text in String::from_utf8_lossy(output?.as_ref()).lines() {
                    yield parse(&source, text);
                }
            }
        }
        .boxed()
    }
}

/// Whether a stream of lines has an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Past,
    Follow,
}

/// The tasks of these services, the oldest first.
fn sources(tasks: &[Task], names: &HashMap<String, String>) -> Vec<Source> {
    let mut tasks: Vec<_> = tasks
        .iter()
        .filter_map(|task| {
            container(task)?;
            let service = names.get(task.service_id.as_ref()?)?.clone();
            let source = Source { task: task.id.clone()?, service, slot: slot(task) };
            Some((time(task.created_at.as_deref()), source))
        })
        .collect();
    tasks.sort_by_key(|(created, _)| *created);
    tasks.into_iter().map(|(_, source)| source).collect()
}

/// Takes apart what the engine sends: `<time> <text>`. Whatever looks otherwise is passed on rather than lost.
fn parse(source: &Source, text: &str) -> Logged {
    let (stamp, rest) = text.split_once(' ').unwrap_or((text, ""));
    let at = time(Some(stamp));
    let (stamp, text) = if at.is_some() { (stamp, rest) } else { ("", text) };
    let (service, slot) = (source.service.clone(), source.slot);
    let line = LogLine { service, slot, at, text: text.to_owned() };
    Logged { task: source.task.clone(), stamp: stamp.to_owned(), line }
}

/// Puts lines in order, and leaves the last ones of each service.
fn cut(lines: &mut Vec<Logged>, tail: Tail) {
    let Tail::Last(tail) = tail else { return };
    lines.sort_by(|a, b| b.stamp.cmp(&a.stamp));
    let mut left: BTreeMap<String, u32> = BTreeMap::new();
    lines.retain(|logged| {
        let left = left.entry(logged.line.service.clone()).or_insert(tail);
        let keep = *left > 0;
        *left = left.saturating_sub(1);
        keep
    });
    lines.reverse();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tasks_that_have_something_to_say() {
        let names = HashMap::from([("s1".to_owned(), "gateway".to_owned())]);
        let task = |id: &str, service: &str, created: &str, container: &str| -> Task {
            serde_json::from_value(json!({
                "ID": id, "ServiceID": service, "Slot": 4, "CreatedAt": created,
                "Status": {"ContainerStatus": {"ContainerID": container}},
            }))
            .unwrap()
        };
        let tasks = [
            task("young", "s1", "2026-01-01T00:00:02Z", "c"),
            task("old", "s1", "2026-01-01T00:00:01Z", "c"),
            task("other", "s2", "2026-01-01T00:00:01Z", "c"),
            task("waiting", "s1", "2026-01-01T00:00:01Z", ""),
            Task::default(),
        ];
        let found = sources(&tasks, &names);
        let found: Vec<_> = found.iter().map(|it| (&*it.task, &*it.service, it.slot)).collect();
        assert_eq!(found, [("old", "gateway", 4), ("young", "gateway", 4)]);
    }

    fn parsed(service: &str, text: &str) -> Logged {
        parse(&Source { task: "t".into(), service: service.into(), slot: 1 }, text)
    }

    #[test]
    fn what_the_engine_sends() {
        let Logged { stamp, line, .. } =
            parsed("a", "2026-11-21T12:00:00.123456789Z a text  with spaces");
        assert_eq!(
            (&*stamp, &*line.text),
            ("2026-11-21T12:00:00.123456789Z", "a text  with spaces")
        );
        assert_eq!(line.at.unwrap().to_string(), "2026-11-21T12:00:00.123Z");
        assert_eq!(parsed("a", "2026-11-21T12:00:00Z").line.text, "");
        for odd in ["", "x", "no time here at all"] {
            let Logged { stamp, line, .. } = parsed("a", odd);
            assert_eq!((&*stamp, line.at, &*line.text), ("", None, odd));
        }
    }

    #[test]
    fn the_last_lines_of_each_service_in_order() {
        let logged =
            |second: u8, service| parsed(service, &format!("2026-01-01T00:00:0{second}Z {second}"));
        let mut lines = vec![logged(3, "a"), logged(1, "a"), logged(2, "b"), logged(4, "a")];
        cut(&mut lines, Tail::Last(2));
        let texts: Vec<_> = lines.iter().map(|logged| &*logged.line.text).collect();
        assert_eq!(texts, ["2", "3", "4"]);
        cut(&mut lines, Tail::Last(0));
        assert!(lines.is_empty());
    }
}
