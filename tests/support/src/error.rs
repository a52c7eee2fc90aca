//! The one error of this crate: a sentence for whoever reads the test's output.

use std::fmt;

/// What failed, on what, and what to do.
///
/// `Debug` prints the same sentence as `Display`, so that an `unwrap()` in a test reads well.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(String);

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}
