//! The whole stack, end to end: a real `stackctl up`, real sockets, real git and real processes.
//! Only the model is a stand-in: `scripted-agent`, or a mock API behind the real CLI.

mod callers;
mod cancel;
mod chaos;
mod clients;
mod deliver;
mod direct;
mod failures;
mod full;
mod gateway;
mod gateways;
mod github_app;
mod limits;
mod lost;
mod main_path;
mod queue;
mod queue_wait;
mod reads;
mod real_cli;
mod refusals;
mod retention;
mod secrets;
mod sessions;
mod signals;
mod support;
mod turns;
mod up;
mod verify;
