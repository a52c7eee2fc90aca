//! What etcd's errors mean: by message as well as by code, because etcd uses one code for different things.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use etcd_client::Error as EtcdError;
use tonic::{Code, Status};

use crate::error::Error;

/// What a failure asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Try again.
    Transient,
    /// The same, and the request may have been too large for the time it had.
    TimedOut,
    /// Nothing failed: it is done in another way.
    Changed,
    /// etcd answers, and has not answered this in time: ask for less.
    TooSlow,
    /// A new token, then once more.
    Token,
    /// etcd says that this may not be done; an expired token of etcd 3.5 says so too.
    Denied,
    /// The revision was compacted, or is not yet there: read everything again.
    Revision,
    /// The lease is gone: grant another.
    LeaseNotFound,
    /// The lease was granted before: by ourselves, in a try whose answer was lost.
    LeaseExists,
    /// The message is larger than one side takes: ask for less; what cannot be less cannot be had.
    TooLarge,
    /// etcd is full: it takes no more, until people make room.
    NoSpace,
    /// A user is given and not needed.
    AuthenticationIsOff,
    /// Say it loudly and retry slowly: only people can mend it.
    Permanent,
}

/// Whose fault a failure is: what may change because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The request's own: nothing changes.
    Request,
    /// Late or lost on its way: it is tried again, elsewhere if need be, and nothing else changes.
    Late,
    /// This member cannot serve now: the next one is used, and the connection stays for what still runs over it.
    Member,
    /// The connection has ended.
    Connection,
}

/// One failure of one request, and what was being done.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(super) fault: Fault,
    /// A try of the request may have been done, or may still be.
    pub(crate) in_doubt: bool,
    message: String,
    doing: String,
    member: String,
}

impl Failure {
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        let fault = match class {
            Class::Transient if is_member_failure(&message) => Fault::Member,
            Class::Transient | Class::TimedOut => Fault::Late,
            _ => Fault::Request,
        };
        Self { class, fault, in_doubt: false, message, doing: String::new(), member: String::new() }
    }

    pub(crate) fn timed_out(after: Duration) -> Self {
        Self::new(Class::TimedOut, format!("no answer within {} ms", after.as_millis()))
    }

    /// There is no connection to the member.
    pub(super) fn connect_failed(message: String) -> Self {
        // As `connection` words what TLS says; a host may be called anything.
        let is_permanent = message.starts_with("TLS: ") && mentions_certificate(&message);
        let class = if is_permanent { Class::Permanent } else { Class::Transient };
        Self::new(class, message).with_fault(Fault::Connection)
    }

    /// A reason that etcd gives in words alone, as in a canceled watch.
    pub(crate) fn from_reason(reason: &str) -> Self {
        let class = class_of_message(reason).unwrap_or(Class::Transient);
        Self::new(class, if reason.is_empty() { "etcd gave no reason" } else { reason })
    }

    /// What was being done, unless that is known more closely.
    pub(crate) fn while_doing(mut self, doing: &str) -> Self {
        if self.doing.is_empty() {
            doing.clone_into(&mut self.doing);
        }
        self
    }

    /// At which member, unless that is known.
    pub(super) fn at(mut self, member: &str) -> Self {
        if self.member.is_empty() {
            member.clone_into(&mut self.member);
        }
        self
    }

    pub(super) fn with_fault(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }

    /// Whether it may go well at another try, or at another member.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        self.fault != Fault::Request
    }

    /// The same, where another attempt may well go better although nobody mends anything.
    pub(super) fn as_transient(self) -> Self {
        let is_final = matches!(self.class, Class::Permanent | Class::Token | Class::Denied);
        let class = if is_final { Class::Transient } else { self.class };
        Self { class, ..self }
    }

    /// A try of the request may have been done, or may still be.
    pub(crate) fn with_doubt(self, in_doubt: bool) -> Self {
        Self { in_doubt, ..self }
    }

    /// Whether etcd has refused the request: what was asked for was not done by it.
    pub(super) fn is_decided(&self) -> bool {
        !matches!(self.class, Class::Transient | Class::TimedOut | Class::TooSlow)
    }

    /// A client without a user was refused: another one may be made with it.
    pub(crate) fn as_missing_token(self) -> Self {
        Self { class: Class::Token, ..self }
    }

    /// The same for the user.
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
    /// Whether a user sees no difference.
    pub(crate) fn is_same_kind(self, other: Self) -> bool {
        let fold = |class| if class == Self::TimedOut { Self::Transient } else { class };
        fold(self) == fold(other)
    }
}

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
            // A member whose certificate does not hold, or that is no etcd, says nothing of the others.
            EtcdError::TransportError(_) => failure.with_fault(Fault::Member),
            EtcdError::GRpcStatus(status) if status.source().is_some_and(is_certificate_failure) => {
                failure.with_fault(Fault::Member)
            }
            EtcdError::GRpcStatus(status) if status.code() == Code::Unimplemented => failure.with_fault(Fault::Member),
            // Asking another member at once would only add to the load.
            EtcdError::GRpcStatus(status) if status.code() == Code::ResourceExhausted => {
                failure.with_fault(Fault::Request)
            }
            _ => failure,
        }
    }
}

/// What etcd said, or where it is transport's own failure, what lies under it.
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

/// What a member says that cannot serve, although another may: it has lost its leader, is a learner, or is going away.
/// What it says of its cluster (a request that timed out, a leader that changed) is not of this kind.
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

/// A certificate that does not hold will not hold the next time. rustls says so in words.
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
