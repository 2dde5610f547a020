//! The stack behind real proxies, each with its configuration from docs/PROXIES.md.
//!
//! Where a line of a configuration prevents something, the same configuration without it shows that
//! it would happen.

mod caller;
mod disconnects;
mod proxy;
mod recipe;
mod refusals;
mod scene;
mod silence;
mod streams;
