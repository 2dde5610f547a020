//! Campaigns that attack a whole stack, and the guarantees that must hold during any attack.
//!
//! Each campaign is one function from its size to a [`Report`]. The program `torture` runs them at
//! a meaningful size, the tests at a small one. All randomness comes from a seed that the report
//! contains. A seed repeats the plan of a campaign, but not its exact timing, which depends on the
//! machine.

mod caller;
mod census;
mod deliveries;
mod flood;
mod kill;
mod leaks;
mod outcomes;
mod readers;
mod report;
mod side_by_side;
mod stops;
mod storms;
mod strike;
mod sweep;
mod volume;

pub use deliveries::Deliveries;
pub use flood::Flooded;
pub use kill::{Kill, Target};
pub use leaks::Leaks;
pub use readers::Readers;
pub use report::Report;
pub use side_by_side::SideBySide;
pub use stops::Stops;
pub use storms::Storms;
pub use sweep::{Sweep, Victim};
