//! What stands beside a stack: `stackctl demo`, the agent that plays in it, `doctor` and `completions`, as people
//! start them.

mod doctor;
mod rehearsal;
mod shown;
mod support;
