//! The one error of xtask: a sentence that says what failed, on what, and what to do.

use std::fmt;

/// Printed as it is after `xtask: `.
#[derive(Debug)]
pub(crate) struct Error(String);

pub(crate) type Result<T> = std::result::Result<T, Error>;

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

impl From<test_support::Error> for Error {
    fn from(error: test_support::Error) -> Self {
        Self(error.to_string())
    }
}

/// Says what was being done when `result` failed.
pub(crate) fn on<T, E: fmt::Display>(doing: impl fmt::Display, result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| Error(format!("{doing}: {error}")))
}
