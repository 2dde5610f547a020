//! The testkit against the real things it works with: git, sockets, processes, and the Claude CLI.

mod agent;
mod git;
mod model;
mod ports;
mod stacks;
mod streams;
