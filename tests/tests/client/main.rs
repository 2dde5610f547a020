//! `stackctl run`, `attach`, `jobs`, `show` and `cancel`, as programs and people use them: real processes
//! against a real stack, with connections that break.

mod changes;
mod deliver;
mod interrupts;
mod jobs;
mod load;
mod reconnects;
mod run;
mod secure;
mod support;
mod terminal;
