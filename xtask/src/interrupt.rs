//! Ctrl-C, and its relatives SIGTERM and SIGHUP, as a flag: children are ended before xtask leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Result, on};

pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on these signals no longer end the process by themselves.
    pub(crate) fn catch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            on("catching Ctrl-C", signal_hook::flag::register(signal, Arc::clone(&flag)))?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For when a child has ended: a terminal's Ctrl-C reaches children too, and one may be faster.
    pub(crate) fn came_just_now(&self) -> bool {
        if !self.came() {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.came()
    }
}
