//! Logs of a stack on a Swarm: of each task, because a task tells which replica a line is of. With every job
//! there is a new one, so whoever follows looks for new ones all the time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::pin,
    time::Duration,
};

use bollard::{errors::Error, models::Task, query_parameters::LogsOptionsBuilder};
use futures_util::{
    StreamExt as _,
    stream::{BoxStream, SelectAll},
};
use tokio::time::MissedTickBehavior;

use super::{
    line::{Filter, Line, parse},
    print,
};
use crate::{
    client::note,
    ops::{
        engine::{Engine, failed},
        error::OpsError,
        options::{LogsOptions, Tail},
        ps::swarm::{slot, time},
    },
};

/// How long a task's past may take; it may be on a node that is gone.
const PAST_TIME: Duration = Duration::from_secs(20);
/// Between two looks for new tasks.
const LOOK: Duration = Duration::from_millis(300);

/// A task that has, or had, a container.
#[derive(Clone, Debug)]
struct Source {
    task: String,
    part: String,
    slot: u64,
}

/// Shows the logs of one service or of all.
pub(super) async fn show(
    engine: &Engine,
    options: &LogsOptions,
    filter: &Filter,
) -> Result<(), OpsError> {
    let mut names = HashMap::new();
    for service in engine.services().await? {
        let name = engine.short_name(&service);
        if options.service.is_none_or(|wanted| wanted.name() == name) {
            names.extend(service.id.map(|id| (id, name)));
        }
    }
    if let (true, Some(service)) = (names.is_empty(), options.service) {
        let stack = &engine.stack;
        return Err(OpsError::Usage(format!("the stack '{stack}' has no service {service}")));
    }
    let sources = sources(&engine.tasks().await?, &names);
    let Some(seen) = past(engine, options, filter, &sources).await? else { return Ok(()) };
    if options.follow { follow(engine, options, filter, &names, seen).await } else { Ok(()) }
}

/// The tasks of these services, the oldest first.
fn sources(tasks: &[Task], names: &HashMap<String, String>) -> Vec<Source> {
    let mut tasks: Vec<_> = tasks
        .iter()
        .filter_map(|task| {
            let part = names.get(task.service_id.as_ref()?)?.clone();
            let container =
                task.status.as_ref()?.container_status.as_ref()?.container_id.as_ref()?;
            let source = Source { task: task.id.clone()?, part, slot: slot(task) };
            (!container.is_empty()).then(|| (time(task.created_at.as_deref()), source))
        })
        .collect();
    tasks.sort_by_key(|(created, _)| *created);
    tasks.into_iter().map(|(_, source)| source).collect()
}

/// For each task, the time of the last line that was looked at.
type Seen = HashMap<String, String>;

/// Shows what was logged up to now; none if nobody reads it.
async fn past(
    engine: &Engine,
    options: &LogsOptions,
    filter: &Filter,
    sources: &[Source],
) -> Result<Option<Seen>, OpsError> {
    let mut seen = Seen::new();
    let mut kept: Vec<(String, Line)> = Vec::new();
    let mut trouble = None;
    for source in sources {
        seen.insert(source.task.clone(), String::new());
        let mut lines = logged(engine, source.clone(), options, filter, Mode::Past);
        let reading = async {
            while let Some((task, stamp, line)) = lines.next().await.transpose()? {
                seen.insert(task, stamp.clone());
                if filter.takes(&line) {
                    kept.push((stamp, line));
                }
            }
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(PAST_TIME, reading).await {
            Ok(Ok(())) => {}
            // Its container has been cleaned away since.
            Ok(Err(error)) if is_gone(&error) => {}
            Ok(Err(error)) => {
                trouble = Some(failed("read the logs of a replica", &error).to_string())
            }
            Err(_) => trouble = Some(format!("{}.{} does not answer", source.part, source.slot)),
        }
        // With a bound, the last lines of all tasks have to be put in order; without, tasks come one by one.
        if options.tail() == Tail::All && !print_all(&mut kept)? {
            return Ok(None);
        }
    }
    cut(&mut kept, options.tail());
    if !print_all(&mut kept)? {
        return Ok(None);
    }
    if let Some(trouble) = trouble {
        note(&format!("some lines may be missing: {trouble}"));
    }
    Ok(Some(seen))
}

/// Puts lines in order, and leaves the last of each service.
fn cut(lines: &mut Vec<(String, Line)>, tail: Tail) {
    let Tail::Last(tail) = tail else { return };
    lines.sort_by(|(a, _), (b, _)| b.cmp(a));
    let mut left: BTreeMap<String, u32> = BTreeMap::new();
    lines.retain(|(_, line)| {
        let left = left.entry(line.part.clone()).or_insert(tail);
        let keep = *left > 0;
        *left = left.saturating_sub(1);
        keep
    });
    lines.reverse();
}

fn print_all(lines: &mut Vec<(String, Line)>) -> Result<bool, OpsError> {
    for (_, line) in lines.drain(..) {
        if !print(&line)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Shows what is logged from now on, by whatever tasks there will be.
async fn follow(
    engine: &Engine,
    options: &LogsOptions,
    filter: &Filter,
    names: &HashMap<String, String>,
    seen: Seen,
) -> Result<(), OpsError> {
    let mut followed: HashSet<String> = HashSet::new();
    let mut streams: SelectAll<BoxStream<'static, Logged>> = SelectAll::new();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(next) = streams.next() => {
                // A stream that breaks is that of a task that is gone.
                let Ok((task, stamp, line)) = next else { continue };
                // Those that were shown already come again.
                let old = seen.get(&task).is_some_and(|last| stamp <= *last);
                if !old && filter.takes(&line) && !print(&line)? {
                    return Ok(());
                }
            }
            _ = look.tick() => {
                let sources = sources(&engine.tasks().await?, names);
                // Only as many as the Swarm remembers itself.
                followed.retain(|task| sources.iter().any(|source| source.task == *task));
                for source in sources {
                    if followed.insert(source.task.clone()) {
                        streams.push(logged(engine, source, options, filter, Mode::Follow));
                    }
                }
            }
        }
    }
}

/// A line with its task and the engine's time of it.
type Logged = Result<(String, String, Line), Error>;

/// Whether a stream of lines has an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Past,
    Follow,
}

fn logged(
    engine: &Engine,
    source: Source,
    options: &LogsOptions,
    filter: &Filter,
    mode: Mode,
) -> BoxStream<'static, Logged> {
    let tail = match (mode, options.tail()) {
        // What has been shown is passed over by its time.
        (Mode::Follow, _) | (_, Tail::All) => "all".to_owned(),
        (Mode::Past, Tail::Last(lines)) => lines.to_string(),
    };
    // The engine takes whole seconds; the filter is exact.
    let since = filter.since.map_or(0, |since| since.as_millisecond() / 1000);
    let query = LogsOptionsBuilder::new()
        .follow(mode == Mode::Follow)
        .stdout(true)
        .stderr(true)
        .since(i32::try_from(since).unwrap_or(i32::MAX))
        .timestamps(true)
        .tail(&tail)
        .build();
    let docker = engine.docker.clone();
    async_stream::stream! {
        let mut outputs = pin!(docker.task_logs(&source.task, Some(query)));
        while let Some(output) = outputs.next().await {
            let output = match output {
                Ok(output) => output,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            for text in String::from_utf8_lossy(output.as_ref()).lines() {
                let raw = parse(text);
                let (part, slot) = (source.part.clone(), source.slot);
                let line = Line { part, slot, at: raw.at, text: raw.text.to_owned() };
                yield Ok((source.task.clone(), raw.stamp.to_owned(), line));
            }
        }
    }
    .boxed()
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
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
        let found: Vec<_> = found.iter().map(|it| (&*it.task, &*it.part, it.slot)).collect();
        assert_eq!(found, [("old", "gateway", 4), ("young", "gateway", 4)]);
    }

    #[test]
    fn the_last_lines_of_each_service_in_order() {
        let line = |stamp: &str, part: &str| {
            let (part, text) = (part.to_owned(), stamp.to_owned());
            (stamp.to_owned(), Line { part, slot: 1, at: None, text })
        };
        let mut lines = vec![line("3", "a"), line("1", "a"), line("2", "b"), line("4", "a")];
        cut(&mut lines, Tail::Last(2));
        let texts: Vec<_> = lines.iter().map(|(_, line)| &*line.text).collect();
        assert_eq!(texts, ["2", "3", "4"]);
        cut(&mut lines, Tail::Last(0));
        assert!(lines.is_empty());
    }
}
