//! The commands for operators of a whole stack: `ps`, `scale`, `logs`, `gc`, `adopt`, `token`. The first three work on a stack that is on a Docker Swarm,
//! through the engine's API, and on one that `stackctl up` runs, through its control socket.
//! `gc` and `adopt` need only the volume, and `token` the volume or an address.
//!
//! What can be pure is: what the engine or `up` says becomes rows, lines and waits in functions without I/O.

mod adopt;
mod error;
mod gc;
mod logs;
mod options;
mod parts;
mod ps;
mod scale;
mod target;
mod token;
mod volume;

pub(crate) use adopt::{AdoptOptions, adopt};
pub(crate) use error::OpsError;
pub(crate) use gc::{GcOptions, gc};
pub(crate) use logs::logs;
pub(crate) use options::{LogsOptions, PsOptions, ScaleOptions};
pub(crate) use ps::ps;
pub(crate) use scale::scale;
pub(crate) use token::{TokenCommand, token};
