//! Why a service config is refused. PURE.

use std::fmt;

/// The path of what is wrong in a service config, and the reason.
///
/// Shown as `methodConfig[2].retryPolicy.maxAttempts: must be 2 or more`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidServiceConfig {
    path: String,
    reason: String,
}

impl InvalidServiceConfig {
    /// An error at a path; the empty one is that of the document. The reason is what follows it in a sentence.
    pub(super) fn new(path: String, reason: impl Into<String>) -> Self {
        Self { path, reason: reason.into() }
    }

    /// The path, with the names of fields as the document has them: `methodConfig[2].retryPolicy.maxAttempts`. It is empty for
    /// the document itself. A field that is missing has the path where it should stand.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The reason, without the path.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for InvalidServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "the document {}", self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

impl std::error::Error for InvalidServiceConfig {}
