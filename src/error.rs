//! The crate's error: what failed, on what, and what to do.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::secret;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong, on what, and what to do about it.
///
/// Cheap to clone, so that a state can carry the last one. `Display` does not repeat the source, which for a wait that ran
/// out is what went wrong in the meantime: `Debug` shows the whole chain in a line.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: Kind,
    source: Option<BoxError>,
}

enum Kind {
    Invalid { what: &'static str, input: String, reason: String },
    Timeout { what: String, after: Duration },
    Etcd { doing: String, message: String, denied: bool },
    Held { key: String, lease: i64, id: Option<String> },
    Closed { what: &'static str },
    Lost { what: String },
    Paused { why: String },
    Check { what: &'static str },
    Server,
    NoRuntime { what: &'static str },
    NoTimers { what: &'static str },
}

impl Error {
    pub(crate) fn invalid(what: &'static str, input: impl Into<String>, reason: impl Into<String>) -> Self {
        // Both are shown and logged, and what was given may hold a password.
        let input = secret::without_password(&input.into()).into_owned();
        Self::from_kind(Kind::Invalid { what, input, reason: reason.into() }, None)
    }

    pub(crate) fn timeout(what: impl Into<String>, after: Duration, last: Option<Error>) -> Self {
        Self::from_kind(Kind::Timeout { what: what.into(), after }, last.map(Into::into))
    }

    /// The same, with what there is to say of it.
    pub(crate) fn timeout_saying(what: impl Into<String>, after: Duration, why: String) -> Self {
        Self::from_kind(Kind::Timeout { what: what.into(), after }, Some(why.into()))
    }

    pub(crate) fn etcd(doing: String, message: String, denied: bool) -> Self {
        Self::from_kind(Kind::Etcd { doing, message, denied }, None)
    }

    pub(crate) fn held(key: &[u8], lease: i64, id: Option<&str>) -> Self {
        let key = secret::shown_key(key);
        // Another's record says what it likes.
        let id = id.map(|id| secret::without_password(id).into_owned());
        Self::from_kind(Kind::Held { key, lease, id }, None)
    }

    pub(crate) fn lost(what: &str) -> Self {
        Self::from_kind(Kind::Lost { what: secret::without_password(what).into_owned() }, None)
    }

    pub(crate) fn paused(why: String) -> Self {
        Self::from_kind(Kind::Paused { why }, None)
    }

    pub(crate) fn closed(what: &'static str) -> Self {
        Self::from_kind(Kind::Closed { what }, None)
    }

    /// The same, with what there is to say of it.
    pub(crate) fn closed_because(what: &'static str, why: String) -> Self {
        Self::from_kind(Kind::Closed { what }, Some(why.into()))
    }

    /// Says for which of several services an argument was refused.
    pub(crate) fn of_service(self, service: &str) -> Self {
        match &self.inner.kind {
            Kind::Invalid { what, input, reason } if !service.is_empty() => {
                Self::invalid(what, input.clone(), format!("{reason} (service {service:?})"))
            }
            _ => self,
        }
    }

    /// A check of the user's said so.
    pub(crate) fn check(what: &'static str, said: BoxError) -> Self {
        Self::from_kind(Kind::Check { what }, Some(said))
    }

    pub(crate) fn server(ended: impl Into<BoxError>) -> Self {
        Self::from_kind(Kind::Server, Some(ended.into()))
    }

    pub(crate) fn no_runtime(what: &'static str) -> Self {
        Self::from_kind(Kind::NoRuntime { what }, None)
    }

    pub(crate) fn no_timers(what: &'static str) -> Self {
        Self::from_kind(Kind::NoTimers { what }, None)
    }

    fn from_kind(kind: Kind, source: Option<BoxError>) -> Self {
        Self { inner: Arc::new(Inner { kind, source }) }
    }

    /// Whether it is the same error, not only an equal one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// An argument was refused: a target, an address, a lifetime, an option. Trying again will not help.
    pub fn is_invalid_argument(&self) -> bool {
        matches!(self.inner.kind, Kind::Invalid { .. })
    }

    /// A bounded wait ran out. The work goes on in the background; its last error, if any, is the source.
    pub fn is_timeout(&self) -> bool {
        matches!(self.inner.kind, Kind::Timeout { .. })
    }

    /// etcd refused the user or the role: what it said is in the text.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.inner.kind, Kind::Etcd { denied: true, .. })
    }

    /// Another instance holds the key that is to be registered: the text says which. The key is taken when it is free.
    pub fn is_conflict(&self) -> bool {
        matches!(self.inner.kind, Kind::Held { .. })
    }

    /// It is not in etcd because it is not to be: it is paused, or does not serve. The text says why.
    pub fn is_paused(&self) -> bool {
        matches!(self.inner.kind, Kind::Paused { .. })
    }

    /// The server ended by itself: the source is what tonic said.
    pub fn is_server(&self) -> bool {
        matches!(self.inner.kind, Kind::Server)
    }

    /// The background task has ended, because it was closed or because its runtime was shut down.
    pub fn is_closed(&self) -> bool {
        matches!(self.inner.kind, Kind::Closed { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner.kind {
            Kind::Invalid { what, input, reason } => write!(f, "invalid {what} {input:?}: {reason}"),
            Kind::Timeout { what, after } => write!(f, "{what}: not within {} ms", after.as_millis()),
            Kind::Etcd { doing, message, .. } => write!(f, "{doing}: {message}"),
            Kind::Held { key, lease, id } => {
                write!(f, "the key {key:?} is held by another instance")?;
                if let Some(id) = id {
                    write!(f, ", {id:?}")?;
                }
                match lease {
                    0 => write!(f, ", without a lease: nothing but a deletion frees it"),
                    lease => write!(f, " (lease {lease:x}): it is taken when that ends or leaves"),
                }
            }
            Kind::Lost { what } => f.write_str(what),
            Kind::Paused { why } => write!(f, "it is not to be in etcd: {why}"),
            Kind::Closed { what } => write!(f, "{what} is closed"),
            Kind::Check { what } => write!(f, "the {what} failed"),
            Kind::Server => write!(f, "the server ended by itself"),
            Kind::NoRuntime { what } => write!(f, "{what} needs a running tokio runtime: call it inside one"),
            Kind::NoTimers { what } => {
                write!(f, "{what} needs a tokio runtime with timers: enable_time, or enable_all")
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(error) = source {
            write!(f, "; because {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
