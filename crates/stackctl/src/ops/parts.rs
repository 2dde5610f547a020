//! The parts of a stack by the names that people give them.

use contract::Service;

/// The gateway's name, in containers and in logs.
pub(crate) const GATEWAY: &str = "gateway";

/// The service that `text` stands for: as `up` names it, or as the container is named.
pub(crate) fn service(text: &str) -> Result<Service, String> {
    match text {
        "workflow" => Ok(Service::Workflow),
        "pull" => Ok(Service::Pull),
        "claude" => Ok(Service::Claude),
        other => Service::from_name(other)
            .ok_or_else(|| "the services are workflow, pull and claude".to_owned()),
    }
}

/// The name of the part that `text` stands for.
pub(crate) fn part(text: &str) -> Result<&'static str, String> {
    if text == GATEWAY {
        return Ok(GATEWAY);
    }
    service(text)
        .map(Service::name)
        .map_err(|_| "the services are gateway, workflow, pull and claude".to_owned())
}

/// The place of a part in a listing, from the front door inwards; others come last.
pub(crate) fn order(name: &str) -> usize {
    let known = [GATEWAY].into_iter().chain(Service::ALL.map(Service::name));
    known.into_iter().position(|known| known == name).unwrap_or(usize::MAX)
}
