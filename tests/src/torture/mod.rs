//! Campaigns that attack a whole stack, and what must hold whatever they do.
//!
//! Each campaign is one function from its sizes to a [`Report`]. The program `torture` runs them at
//! the sizes that mean something, the tests at small ones. What is random comes from a seed that
//! the report names; the machine's own timing is not in it, so a seed repeats the plan, not the
//! microsecond.

mod caller;
mod census;
mod flood;
mod kill;
mod leaks;
mod outcomes;
mod readers;
mod report;
mod side_by_side;
mod stops;
mod strike;
mod sweep;
mod volume;

pub use flood::Flooded;
pub use kill::{Kill, Target};
pub use leaks::Leaks;
pub use readers::Readers;
pub use report::Report;
pub use side_by_side::SideBySide;
pub use stops::Stops;
pub use sweep::{Sweep, Victim};
