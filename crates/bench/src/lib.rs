//! Measures what the stack costs: each figure beside a baseline from the same run, and a goal.
//!
//! A [`Bench`] owns a temporary directory. [`Bench::run`] measures one [`Section`]: it starts a stack of its own there,
//! with the workload agent of `claude-stand-in` instead of a model, and compares what callers see with the same work done
//! without the stack: the agent alone, `git clone`, an empty process. The result is a [`Row`] for each figure.
//! [`Bench::remove`] leaves no process and no file behind, also after [`Bench::run`] was dropped halfway.
//!
//! *Architecture invariant:* this crate knows nothing about terminals and the command line. It sees the stack from
//! outside, as a caller and as an operator who reads `/proc`.

mod agent;
mod bench;
mod caller;
mod error;
mod report;
mod repository;
mod row;
mod section;
mod sections;
mod stack;
mod statistics;
mod usage;

pub use bench::{Bench, Scale, Size};
pub use error::{Error, Result};
pub use report::Report;
pub use row::{Baseline, Bound, Checked, Goal, Row, Subject, Unit};
pub use section::Section;
