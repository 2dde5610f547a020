//! The parts of the benchmark, each of which can be run alone.

/// A part of the benchmark. Each starts what it needs, so they do not depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// A process from its start.
    Start,
    /// The first byte of a stream, and the time between its last byte and idle replicas.
    Turnaround,
    /// A whole workflow.
    Workflow,
    /// A flood of messages.
    Relay,
    /// One message.
    Latency,
    /// Clones and updates.
    Pull,
    /// Listings of many jobs.
    Listing,
    /// Many jobs at once.
    Sessions,
    /// The processor time of the parts that stay.
    Processor,
    /// The memory of the parts.
    Memory,
}

impl Section {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 10] = [
        Self::Start,
        Self::Turnaround,
        Self::Workflow,
        Self::Relay,
        Self::Latency,
        Self::Pull,
        Self::Listing,
        Self::Sessions,
        Self::Processor,
        Self::Memory,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Turnaround => "turnaround",
            Self::Workflow => "workflow",
            Self::Relay => "relay",
            Self::Latency => "latency",
            Self::Pull => "pull",
            Self::Listing => "listing",
            Self::Sessions => "sessions",
            Self::Processor => "processor",
            Self::Memory => "memory",
        }
    }

    /// The section with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.name() == name)
    }
}
