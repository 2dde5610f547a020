//! What matters about a task. An engine may leave anything out.

use bollard::models::{Task, TaskState};
use contract::Timestamp;

/// Whether a task is one that is wanted, or one that still runs although it is not.
pub(crate) fn is_present(task: &Task) -> bool {
    is_wanted(task) || state(task) == Some(TaskState::RUNNING)
}

/// Whether the Swarm wants it to run.
pub(crate) fn is_wanted(task: &Task) -> bool {
    task.desired_state == Some(TaskState::RUNNING)
}

pub(crate) fn state(task: &Task) -> Option<TaskState> {
    task.status.as_ref()?.state
}

/// The container that it has, or had.
pub(crate) fn container(task: &Task) -> Option<&str> {
    let id = task.status.as_ref()?.container_status.as_ref()?.container_id.as_deref()?;
    (!id.is_empty()).then_some(id)
}

pub(crate) fn slot(task: &Task) -> u64 {
    task.slot.and_then(|slot| u64::try_from(slot).ok()).unwrap_or_default()
}

/// The engine's time, with more digits than ours.
pub(crate) fn time(text: Option<&str>) -> Option<Timestamp> {
    serde_json::from_value(text?.into()).ok()
}
