//! The testkit: building blocks for this project's tests.
//!
//! Everything here is real except the model. [`GitServer`] serves real repositories over smart
//! HTTP, [`MockApi`] answers the real Claude CLI as the Messages API would, `scripted-agent` is a
//! real process that stands in for that CLI, [`SseClient`] checks every response against the wire
//! contract, and [`Stack`] starts the whole stack with `stackctl up`.
//!
//! A helper that finds a fault panics with a message that describes it. No helper sleeps and hopes
//! that something has happened meanwhile; use [`wait_for`].
//!
//! *Architecture invariant:* no crate that ships depends on this one.

mod agent_script;
mod binaries;
mod command;
mod git_repo;
mod git_server;
mod github_api;
mod host;
mod http_client;
mod lfs;
mod messages_api;
mod mock_api;
mod procfs;
mod program;
mod scratch;
mod sse;
mod sse_block;
mod stack;
mod tls_front;
pub mod torture;
mod wait;

pub use agent_script::{AgentScript, Flood, Spawn, Step};
pub use binaries::{real_claude, scripted_agent, skip, target_binary};
pub use command::{CommandOutput, RunningCommand};
pub use git_server::{ApiRequest, Fault, GitServer, Verdict};
pub use github_api::{GitHubApi, IssuedToken, OpenPull};
pub use http_client::{http_json, raw_request};
pub use mock_api::{MockApi, Recorded, Turn};
pub use procfs::{ProcInfo, descendants, is_alive, memory, processes_of_directory};
pub use program::{copy_program, write_program};
pub use scratch::{scratch, scratch_root};
pub use sse::{SseClient, SseEvent, SseRequest, SseResponse};
pub use stack::{Stack, StackBuilder, free_port, free_ports};
pub use tls_front::TlsFront;
pub use wait::{PATIENCE, wait_for};
