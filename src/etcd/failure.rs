//! What the errors of etcd mean.
//!
//! etcd uses one status code for different things: `Unavailable` for a lost leader and for a
//! timeout, `InvalidArgument` for an old token and for a request that is too large. So its message
//! decides first and its code second.
//!
//! Two questions are answered for each failure. [`Class`]: what does it ask for? [`Fault`]: what
//! may change for other requests because of it? The resolver and the registrar see the class only;
//! the fault is used within this folder.
//!
//! | class | resolver | registrar |
//! |---|---|---|
//! | `Transient`, `TimedOut`, `LeaseExists` | retries with backoff | retries with backoff |
//! | `TooSlow` | smaller pages | retries with backoff |
//! | `TooLarge` | smaller pages; then logs it, retries slowly | logs it, retries slowly |
//! | `Revision` | lists again | retries with backoff |
//! | `LeaseNotFound` | does not occur | grants another lease |
//! | `Token` | a new token, once; then logs it, retries slowly | the same |
//! | `Denied` | logs it, retries slowly | puts without a comparison; then logs it, retries slowly |
//! | `NoSpace`, `AuthenticationIsOff`, `Permanent` | logs it, retries slowly | logs it, retries slowly |
//! | `Changed` | tries again, does not log it | the same |

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use etcd_client::Error as EtcdError;
use tonic::{Code, Status};

use crate::error::Error;

/// What a failure asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Try again later.
    Transient,
    /// As `Transient`. The request may also have been too large for the time it had.
    TimedOut,
    /// Nothing failed. The same thing is done in another way, so users are not told.
    Changed,
    /// etcd answers other requests but not this one in time: ask for less.
    TooSlow,
    /// The token is not valid: fetch another one and repeat the request once.
    Token,
    /// The role does not permit this. etcd 3.5 also says so of an expired token.
    Denied,
    /// The revision was compacted, or is in the future: read everything again.
    Revision,
    /// The lease does not exist any more: grant another one.
    LeaseNotFound,
    /// The lease exists already: an earlier try, whose answer was lost, has granted it.
    LeaseExists,
    /// The message is larger than one side accepts: ask for less. A single key that is too large
    /// cannot be read.
    TooLarge,
    /// The database of etcd is full. It accepts no puts until an operator makes room.
    NoSpace,
    /// A user was given, and authentication is off.
    AuthenticationIsOff,
    /// Only people can repair this: log it and retry slowly.
    Permanent,
}

/// Whose fault a failure is. It decides what changes for other requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The request's own: nothing else changes, and no other member is tried.
    Request,
    /// The answer was late or lost on its way. The request is tried again, at another member if
    /// there is one. Nothing else changes.
    Late,
    /// This member cannot serve now. The next one is used, and the connection stays for what still
    /// runs over it.
    Member,
    /// The connection has ended or was never made.
    Connection,
}

/// One failure of one request: what it means, what was being done, and at which member.
///
/// Not a public type: [`Failure::into_error`] makes the error that users see, with the text `doing
/// (member): message`.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(super) fault: Fault,
    /// Whether a try of the request may have taken effect, or may still do so.
    pub(crate) in_doubt: bool,
    /// What etcd or the connection said.
    message: String,
    /// What was being done, such as `listing greeter/`; empty until it is known.
    doing: String,
    /// The endpoint of the member; empty until it is known.
    member: String,
}

impl Failure {
    /// A failure of this class. The fault follows from the class and the message.
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        let fault = match class {
            Class::Transient if is_member_failure(&message) => Fault::Member,
            Class::Transient | Class::TimedOut => Fault::Late,
            _ => Fault::Request,
        };
        Self { class, fault, in_doubt: false, message, doing: String::new(), member: String::new() }
    }

    /// There was no answer in this time.
    pub(crate) fn timed_out(after: Duration) -> Self {
        Self::new(Class::TimedOut, format!("no answer within {} ms", after.as_millis()))
    }

    /// There is no connection to the member. A bad certificate is permanent, everything else is
    /// transient.
    pub(super) fn connect_failed(message: String) -> Self {
        // The prefix is how `connection` words a TLS failure. Without it a host named "certificate"
        // would match.
        let is_permanent = message.starts_with("TLS: ") && mentions_certificate(&message);
        let class = if is_permanent { Class::Permanent } else { Class::Transient };
        Self::new(class, message).with_fault(Fault::Connection)
    }

    /// A failure that etcd describes by words alone, as in a canceled watch.
    pub(crate) fn from_reason(reason: &str) -> Self {
        let class = class_of_message(reason).unwrap_or(Class::Transient);
        Self::new(class, if reason.is_empty() { "etcd gave no reason" } else { reason })
    }

    /// Says what was being done, unless that is known already: the innermost caller knows best.
    pub(crate) fn while_doing(mut self, doing: &str) -> Self {
        if self.doing.is_empty() {
            doing.clone_into(&mut self.doing);
        }
        self
    }

    /// Says at which member, unless that is known already.
    pub(super) fn at(mut self, member: &str) -> Self {
        if self.member.is_empty() {
            member.clone_into(&mut self.member);
        }
        self
    }

    /// The same failure with another fault.
    pub(super) fn with_fault(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }

    /// Whether another try, or another member, may succeed.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        self.fault != Fault::Request
    }

    /// The same failure as one that may pass without anybody's help, such as that of a certificate
    /// that is renewed on disk.
    pub(super) fn into_transient(self) -> Self {
        let is_final = matches!(self.class, Class::Permanent | Class::Token | Class::Denied);
        let class = if is_final { Class::Transient } else { self.class };
        Self { class, ..self }
    }

    /// The same failure with or without doubt whether a try has taken effect.
    pub(crate) fn with_doubt(self, in_doubt: bool) -> Self {
        Self { in_doubt, ..self }
    }

    /// Whether etcd has refused the request, so that it certainly has not taken effect.
    pub(super) fn is_decided(&self) -> bool {
        !matches!(self.class, Class::Transient | Class::TimedOut | Class::TooSlow)
    }

    /// The same failure as one of a missing token: a request without a user was refused, and one
    /// with the user may not be.
    pub(crate) fn into_missing_token(self) -> Self {
        Self { class: Class::Token, ..self }
    }

    /// The error that users see.
    pub(crate) fn into_error(self) -> Error {
        let doing = if self.member.is_empty() { self.doing } else { format!("{} ({})", self.doing, self.member) };
        Error::etcd(doing, self.message, self.class == Class::Denied)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.doing, self.member, self.message)
    }
}

impl Class {
    /// Whether users see no difference between the two, so that the second is not logged again. A
    /// timeout and any other outage are the same to them.
    pub(crate) fn is_same_kind(self, other: Self) -> bool {
        let fold = |class| if class == Self::TimedOut { Self::Transient } else { class };
        fold(self) == fold(other)
    }
}

/// Every error of etcd-client. Statuses are classed by message and code, transport errors by their
/// certificate, everything else is permanent: a wrong argument.
impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Self {
        let class = match &error {
            EtcdError::GRpcStatus(status) => class_of_status(status),
            EtcdError::TransportError(error) if is_certificate_failure(error) => Class::Permanent,
            EtcdError::LeaseKeepAliveError(message) => class_of_message(message).unwrap_or(Class::Transient),
            EtcdError::TransportError(_) | EtcdError::IoError(_) | EtcdError::WatchError(_) => Class::Transient,
            _ => Class::Permanent,
        };
        let message = match &error {
            EtcdError::GRpcStatus(status) => describe(status),
            other => other.to_string(),
        };
        let failure = Self::new(class, message);
        match &error {
            // A bad certificate, or a peer that is no etcd, says nothing about the other members.
            EtcdError::TransportError(_) => failure.with_fault(Fault::Member),
            EtcdError::GRpcStatus(status) if status.source().is_some_and(is_certificate_failure) => {
                failure.with_fault(Fault::Member)
            }
            EtcdError::GRpcStatus(status) if status.code() == Code::Unimplemented => failure.with_fault(Fault::Member),
            // Asking another member immediately would only add load.
            EtcdError::GRpcStatus(status) if status.code() == Code::ResourceExhausted => {
                failure.with_fault(Fault::Request)
            }
            _ => failure,
        }
    }
}

/// The text of a status: its code, its message, and the chain of sources where the transport itself
/// failed.
fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = status.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        source = error.source();
    }
    text
}

/// The class of a status: by its message, then by its code. A code that is not listed is permanent:
/// etcd does not know the request, or refuses its arguments.
fn class_of_status(status: &Status) -> Class {
    if let Some(class) = class_of_message(status.message()) {
        return class;
    }
    match status.code() {
        Code::Unauthenticated => Class::Token,
        Code::PermissionDenied => Class::Denied,
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal
            if status.source().is_some_and(is_certificate_failure) =>
        {
            Class::Permanent
        }
        Code::Unavailable
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted => Class::Transient,
        _ => Class::Permanent,
    }
}

/// Whether the message says that this member alone cannot serve: it has no leader, is a learner, or
/// is stopping. What a member says of its cluster, such as a request that timed out or a leader
/// that changed, is not of this kind.
fn is_member_failure(message: &str) -> bool {
    const WORDS: [&str; 7] = [
        "no leader",
        "not supported for learner",
        "server stopped",
        "stopped by",
        "not capable",
        "corrupt",
        "member not found",
    ];
    WORDS.iter().any(|part| message.contains(part))
}

/// The class of a message, by parts of it. The texts are those of etcd's `api/v3rpc/rpctypes` and
/// `server/auth`, and of tonic and grpc-go for sizes.
fn class_of_message(message: &str) -> Option<Class> {
    const MEANINGS: [(&str, Class); 20] = [
        ("not supported for learner", Class::Transient),
        ("Timeout expired", Class::TimedOut),
        ("invalid auth token", Class::Token),
        ("revision of auth store is old", Class::Token),
        ("revision in header is old", Class::Token),
        ("user name is empty", Class::Token),
        ("permission denied", Class::Denied),
        ("PermissionDenied", Class::Denied),
        ("authentication is not enabled", Class::AuthenticationIsOff),
        ("authentication failed", Class::Permanent),
        ("required revision has been compacted", Class::Revision),
        ("future revision", Class::Revision),
        ("lease not found", Class::LeaseNotFound),
        ("lease already exists", Class::LeaseExists),
        ("decoded message length too large", Class::TooLarge),
        ("message larger than max", Class::TooLarge),
        ("request is too large", Class::Permanent),
        ("too many operations", Class::Permanent),
        ("database space exceeded", Class::NoSpace),
        ("lease TTL", Class::Permanent),
    ];
    MEANINGS.iter().find(|(part, _)| message.contains(part)).map(|(_, class)| *class)
}

/// Whether an error, or one of its sources, is about a certificate. rustls says so in words only.
fn is_certificate_failure(error: &(dyn StdError + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(current) = error {
        if mentions_certificate(&current.to_string()) {
            return true;
        }
        error = current.source();
    }
    false
}

/// Whether the text is rustls' about a certificate, or an alert of the peer, which refuses ours.
fn mentions_certificate(text: &str) -> bool {
    text.contains("certificate") || text.contains("received fatal alert")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_by_message_before_code() {
        for (code, message, class) in [
            (Code::Unavailable, "etcdserver: no leader", Class::Transient),
            (Code::Unavailable, "etcdserver: rpc not supported for learner", Class::Transient),
            (Code::FailedPrecondition, "etcdserver: rpc not supported for learner", Class::Transient),
            (Code::Cancelled, "Timeout expired", Class::TimedOut),
            (Code::Unknown, "h2 protocol error: error reading a body from connection", Class::Transient),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Class::Token),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Class::Token),
            (Code::InvalidArgument, "etcdserver: user name is empty", Class::Token),
            (Code::Unknown, "auth: revision in header is old", Class::Token),
            (Code::PermissionDenied, "etcdserver: permission denied", Class::Denied),
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password", Class::Permanent),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled", Class::AuthenticationIsOff),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Class::Revision),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", Class::Revision),
            (Code::OutOfRange, "Error, decoded message length too large: found 5 bytes", Class::TooLarge),
            (Code::NotFound, "etcdserver: requested lease not found", Class::LeaseNotFound),
            (Code::FailedPrecondition, "etcdserver: lease already exists", Class::LeaseExists),
            (Code::InvalidArgument, "etcdserver: request is too large", Class::Permanent),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Class::NoSpace),
            (Code::ResourceExhausted, "etcdserver: too many requests", Class::Transient),
            (Code::ResourceExhausted, "grpc: received message larger than max (3 vs. 2)", Class::TooLarge),
            (Code::Unimplemented, "unknown service", Class::Permanent),
        ] {
            assert_eq!(Failure::from(EtcdError::GRpcStatus(Status::new(code, message))).class, class, "{message}");
        }
        for (message, fault) in [
            ("etcdserver: no leader", Fault::Member),
            ("etcdserver: rpc not supported for learner", Fault::Member),
            ("etcdserver: server stopped", Fault::Member),
            ("etcdserver: request timed out", Fault::Late),
            ("etcdserver: leader changed", Fault::Late),
        ] {
            let status = Status::new(Code::Unavailable, message);
            assert_eq!(Failure::from(EtcdError::GRpcStatus(status)).fault, fault, "{message}");
        }
        assert_eq!(Failure::from_reason("").class, Class::Transient);
        assert_eq!(Failure::from_reason("rpc error: code = PermissionDenied desc = x").class, Class::Denied);
    }
}
