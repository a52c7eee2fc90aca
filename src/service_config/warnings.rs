//! What is valid in a service config, and probably not meant: what a typo leaves without effect, for one. PURE.

use std::cell::{Cell, RefCell};
use std::fmt;

/// How many are kept: a document may have any number.
const MOST_KEPT: usize = 16;

/// Collects warnings while a document is read. Each begins with a path, as errors do.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    kept: RefCell<Vec<String>>,
    more: Cell<usize>,
}

impl Warnings {
    /// Takes one. The reason is what follows the path in a sentence.
    pub(crate) fn add(&self, path: &str, reason: impl fmt::Display) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < MOST_KEPT {
            kept.push(format!("{path}: {reason}"));
        } else {
            self.more.set(self.more.get() + 1);
        }
    }

    /// All of them, in the order in which they were found; the last one says how many were left out.
    pub(crate) fn into_list(self) -> Vec<String> {
        let mut list = self.kept.into_inner();
        if self.more.get() > 0 {
            list.push(format!("{} more", self.more.get()));
        }
        list
    }
}
