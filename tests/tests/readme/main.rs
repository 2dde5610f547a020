//! README.md, put to the test: every command and every program on the page runs against a real
//! stack.

mod commands;
mod page;
mod programs;
mod scene;
