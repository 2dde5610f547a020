//! `stackctl ps`, `scale` and `logs`, with a stack that `up` runs and with a Swarm on a real
//! engine.

mod engine;
mod local;
mod remote;
mod support;
mod swarm;
