//! [`Error`]: what failed, on what, and what to do.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::secret;

/// An error of any type, as users' code gives it.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// What failed, on what, and what to do about it.
///
/// Cheap to clone, so that a state can hold the last one. `Display` does not repeat the source.
/// `Debug` shows the whole chain of sources in one line. The source of a timeout is usually the
/// last failure during the wait.
///
/// The `is_…` methods tell kinds of errors apart. An error may be of none of these kinds.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: Kind,
    source: Option<BoxError>,
}

/// What failed. The fields are the data of the text.
enum Kind {
    /// An argument was refused.
    Invalid { what: &'static str, input: String, reason: String },
    /// A bounded wait ran out.
    Timeout { what: String, after: Duration },
    /// A request to etcd failed.
    Etcd { doing: String, message: String, denied: bool },
    /// Another instance holds the key.
    Conflict { key: String, lease: i64, id: Option<String> },
    /// The background task has ended.
    Closed { what: &'static str },
    /// A registration was lost.
    Lost { what: String },
    /// A registration is paused.
    Paused { why: String },
    /// A check of the user's failed.
    Check { what: &'static str },
    /// The server ended by itself.
    Server,
    /// There is no tokio runtime.
    NoRuntime { what: &'static str },
    /// The tokio runtime has no timers.
    NoTimers { what: &'static str },
}

impl Error {
    /// An argument was refused. `what` names the argument, `input` its value. What looks like a
    /// password in it is replaced.
    pub(crate) fn invalid(what: &'static str, input: impl Into<String>, reason: impl Into<String>) -> Self {
        // The input is shown and logged, and may hold a password.
        let input = secret::without_password(&input.into()).into_owned();
        Self::from_kind(Kind::Invalid { what, input, reason: reason.into() }, None)
    }

    /// A bounded wait ran out. `last` is the last failure meanwhile.
    pub(crate) fn timeout(what: impl Into<String>, after: Duration, last: Option<Error>) -> Self {
        Self::from_kind(Kind::Timeout { what: what.into(), after }, last.map(Into::into))
    }

    /// A bounded wait ran out, for this reason.
    pub(crate) fn timeout_because(what: impl Into<String>, after: Duration, why: String) -> Self {
        Self::from_kind(Kind::Timeout { what: what.into(), after }, Some(why.into()))
    }

    /// A request to etcd failed.
    pub(crate) fn etcd(doing: String, message: String, denied: bool) -> Self {
        Self::from_kind(Kind::Etcd { doing, message, denied }, None)
    }

    /// Another instance holds the key, under this lease (0 for none), with this id if it has one.
    pub(crate) fn conflict(key: &[u8], lease: i64, id: Option<&str>) -> Self {
        let key = secret::shown_key(key);
        // The id is from another's record, and may hold a password.
        let id = id.map(|id| secret::without_password(id).into_owned());
        Self::from_kind(Kind::Conflict { key, lease, id }, None)
    }

    /// A registration was lost.
    pub(crate) fn lost(what: &str) -> Self {
        Self::from_kind(Kind::Lost { what: secret::without_password(what).into_owned() }, None)
    }

    /// A registration is paused, for this reason.
    pub(crate) fn paused(why: String) -> Self {
        Self::from_kind(Kind::Paused { why }, None)
    }

    /// The background task has ended.
    pub(crate) fn closed(what: &'static str) -> Self {
        Self::from_kind(Kind::Closed { what }, None)
    }

    /// The background task has ended, for this reason.
    pub(crate) fn closed_because(what: &'static str, why: String) -> Self {
        Self::from_kind(Kind::Closed { what }, Some(why.into()))
    }

    /// The same error with the name of the service, for an argument that several services have.
    pub(crate) fn for_service(self, service: &str) -> Self {
        match &self.inner.kind {
            Kind::Invalid { what, input, reason } if !service.is_empty() => {
                Self::invalid(what, input.clone(), format!("{reason} (service {service:?})"))
            }
            _ => self,
        }
    }

    /// A check of the user's gave this error.
    pub(crate) fn check(what: &'static str, said: BoxError) -> Self {
        Self::from_kind(Kind::Check { what }, Some(said))
    }

    /// The server ended by itself.
    pub(crate) fn server(ended: impl Into<BoxError>) -> Self {
        Self::from_kind(Kind::Server, Some(ended.into()))
    }

    /// There is no tokio runtime.
    pub(crate) fn no_runtime(what: &'static str) -> Self {
        Self::from_kind(Kind::NoRuntime { what }, None)
    }

    /// The tokio runtime has no timers.
    pub(crate) fn no_timers(what: &'static str) -> Self {
        Self::from_kind(Kind::NoTimers { what }, None)
    }

    /// Puts the parts together.
    fn from_kind(kind: Kind, source: Option<BoxError>) -> Self {
        Self { inner: Arc::new(Inner { kind, source }) }
    }

    /// Whether it is the same error, not only an equal one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// An argument was refused: a target, an address, a time to live, an option. Trying again does
    /// not help.
    pub fn is_invalid_argument(&self) -> bool {
        matches!(self.inner.kind, Kind::Invalid { .. })
    }

    /// A wait took longer than its limit. The source, if there is one, says why: usually it is the
    /// last failure during the wait. If a handle waited, as with `Resolution::ready`, only the wait
    /// has ended: the work goes on in the background.
    pub fn is_timeout(&self) -> bool {
        matches!(self.inner.kind, Kind::Timeout { .. })
    }

    /// etcd denied permission to the user. The text holds etcd's own message.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.inner.kind, Kind::Etcd { denied: true, .. })
    }

    /// Another instance holds the key that is to be registered. The text names the key, its lease
    /// and the instance's id. The key is registered when it is free.
    pub fn is_conflict(&self) -> bool {
        matches!(self.inner.kind, Kind::Conflict { .. })
    }

    /// The instance is kept out of etcd: it is paused, or its health check fails. The text says
    /// which. It is the error of `RegistrationState::Paused`, and the source if
    /// `Registration::ready` times out meanwhile.
    pub fn is_paused(&self) -> bool {
        matches!(self.inner.kind, Kind::Paused { .. })
    }

    /// tonic's server ended although nobody stopped it. The source is tonic's error.
    pub fn is_server(&self) -> bool {
        matches!(self.inner.kind, Kind::Server)
    }

    /// The work behind the handle has ended: it was closed, its server has left, or its tokio
    /// runtime has ended.
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
            Kind::Conflict { key, lease, id } => {
                write!(f, "the key {key:?} is held by another instance")?;
                if let Some(id) = id {
                    write!(f, ", {id:?}")?;
                }
                match lease {
                    0 => write!(f, ", without a lease: only a deletion frees it"),
                    lease => {
                        write!(f, " (lease {lease:x}): it is registered when that lease ends or its holder leaves")
                    }
                }
            }
            Kind::Lost { what } => f.write_str(what),
            Kind::Paused { why } => write!(f, "it is kept out of etcd: {why}"),
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
