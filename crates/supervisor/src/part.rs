//! The parts of a stack.

use std::fmt;

use anstyle::{AnsiColor, Style};
use contract::Service;

/// A kind of process in a stack, in display order: from the outermost inwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The queue in front of all replicas. There is only one.
    Gateway,
    /// A replica of this service.
    Replica(Service),
}

impl Part {
    /// The gateway's name in logs, container names and on the command line.
    pub const GATEWAY: &str = "gateway";

    /// All parts, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Gateway].into_iter().chain(Service::ALL.map(Self::Replica))
    }

    /// The name in logs, container names and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => Self::GATEWAY,
            Self::Replica(service) => service.name(),
        }
    }

    /// The part with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|part| part.name() == name)
    }

    /// The service, if this is a replica.
    #[must_use]
    pub const fn service(self) -> Option<Service> {
        match self {
            Self::Gateway => None,
            Self::Replica(service) => Some(service),
        }
    }

    /// The style of its name in front of its log lines.
    #[must_use]
    pub fn style(self) -> Style {
        const REPLICAS: [AnsiColor; 5] = [
            AnsiColor::Cyan,
            AnsiColor::Green,
            AnsiColor::Yellow,
            AnsiColor::Blue,
            AnsiColor::BrightCyan,
        ];
        let color = match self {
            Self::Gateway => AnsiColor::Magenta,
            Self::Replica(service) => Service::ALL
                .into_iter()
                .zip(REPLICAS.into_iter().cycle())
                .find_map(|(other, color)| (other == service).then_some(color))
                .unwrap_or(AnsiColor::White),
        };
        Style::new().fg_color(Some(color.into()))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A place in a stack, whose process changes over time. Prints as `workflow-api.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId {
    /// The part that runs in it.
    pub part: Part,
    /// Its number among the slots of this part, starting at 1.
    pub number: u16,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.part, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_a_name_and_a_colour() {
        let parts: Vec<Part> = Part::all().collect();
        assert_eq!(parts.len(), Service::COUNT + 1);
        assert!(parts.is_sorted());
        for part in &parts {
            assert_eq!(Part::from_name(part.name()), Some(*part));
            assert!(parts.iter().all(|other| other == part || other.style() != part.style()));
        }
        assert_eq!(Part::from_name("echo-api"), None);
    }

    #[test]
    fn slots_are_padded_like_text() {
        let slot = SlotId { part: Part::Replica(Service::Pull), number: 2 };
        assert_eq!(format!("{slot:<20}|"), "github-pull-api.2   |");
    }
}
