//! `stackctl ps`, `scale` and `logs`: on a stack that `up` runs, and on a real engine's Swarm.

mod engine;
mod local;
mod support;
mod swarm;
