//! README.md, done as it says: every command and every program in it runs, against a real stack.

mod commands;
mod page;
mod programs;
mod scene;
