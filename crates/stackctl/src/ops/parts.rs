//! The parts of a stack by the names that people give them.

use contract::Service;
use supervisor::Part;

/// The part that `text` stands for: by its full name, or by that of its flags.
pub(crate) fn part(text: &str) -> Result<Part, String> {
    let short = |part: &Part| part.service().map(|service| service.spec().short_name);
    Part::all()
        .find(|part| part.name() == text || short(part) == Some(text))
        .ok_or_else(|| format!("the services are {}", list(Part::all())))
}

/// The service that `text` stands for.
pub(crate) fn service(text: &str) -> Result<Service, String> {
    let replicas = || Part::all().filter(|part| part.service().is_some());
    let part = part(text).map_err(|_| format!("the services are {}", list(replicas())))?;
    part.service().ok_or_else(|| format!("{part} has no replicas"))
}

/// `gateway, workflow, pull and claude`.
fn list(parts: impl Iterator<Item = Part>) -> String {
    let short = |part: Part| part.service().map_or(part.name(), |it| it.spec().short_name);
    let names: Vec<_> = parts.map(short).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// The place of a part in a listing, from the front door inwards; others come last.
pub(crate) fn order(name: &str) -> usize {
    Part::all().position(|part| part.name() == name).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_two_names() {
        for text in ["claude", "claude-code-api"] {
            assert_eq!(part(text), Ok(Part::Replica(Service::Claude)));
            assert_eq!(service(text), Ok(Service::Claude));
        }
        assert_eq!(part("gateway"), Ok(Part::Gateway));
        assert!(service("gateway").is_err());
        assert_eq!(part("db").unwrap_err(), "the services are gateway, workflow, pull and claude");
        assert_eq!(service("db").unwrap_err(), "the services are workflow, pull and claude");
    }
}
