//! File descriptors that are kept for the sweep.
//!
//! Listing processes takes descriptors. A process that has used up its own, for example because an agent has opened many
//! connections to it, must still be able to find and kill what the agent has left.

use std::{
    fs::File,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A directory of `/proc` and a file in it, and one that another thread may take meanwhile.
const RESERVED: usize = 3;

static RESERVE: Mutex<Vec<File>> = Mutex::new(Vec::new());

fn reserve() -> MutexGuard<'static, Vec<File>> {
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens what is missing from the reserve. If no descriptors are left, the next call tries again.
pub(crate) fn fill() {
    let mut reserve = reserve();
    while reserve.len() < RESERVED {
        let Ok(file) = File::open("/dev/null") else { return };
        reserve.push(file);
    }
}

/// The reserve, released for use until this is dropped.
#[must_use]
pub(crate) struct Released(());

impl Drop for Released {
    fn drop(&mut self) {
        fill();
    }
}

/// Closes the files of the reserve, so that as many others can be opened.
pub(crate) fn release() -> Released {
    reserve().clear();
    Released(())
}
