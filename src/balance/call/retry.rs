//! Which calls may be repeated after the server may have processed them, how often, and how many at once (gRFC A6).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tonic::Code;

pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Which calls may be repeated although the server may have processed them.
///
/// Calls that were provably never processed go to another server always, and need none of this. Where nothing is declared,
/// nothing else is repeated.
///
/// A repeated call goes to a server that has not failed it, as long as there is one. The second attempt follows at once where the
/// connection of the first was lost; any other follows after a backoff with jitter. All of them share the call's deadline: where
/// the wait would end after it, or no server takes the next attempt in time, the call ends with what the server said.
///
/// Servers have the last word (gRFC A6): `grpc-retry-pushback-ms` in an answer says after how many milliseconds to come again. What
/// is negative or no number means not at all; more than a minute does so for a call without a deadline. The server sees how many
/// attempts went before in `grpc-previous-rpc-attempts`.
///
/// Two failures are not repeated, whatever is declared: headers or trailers of an answer beyond
/// [`max_header_list_size`](crate::balance::BalancedChannelBuilder::max_header_list_size), and the second time that a connection ends in a
/// way that this very call may be the reason for (a GOAWAY with an error, or headers that HTTP/2 does not take).
///
/// A server that answers nothing is no failure until the call's deadline, and then there is no time left to repeat it:
/// keep-alive, which ends its connection, is what makes that a failure in time.
///
/// A call is committed, and not repeated any more, when its answer has begun (for [`RetryPolicy::repeatable`] methods when the
/// whole answer is there), or when more of its request was sent than is kept.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    unary: BTreeSet<String>,
    streaming: BTreeSet<String>,
    codes: Vec<Code>,
    pub(crate) attempts: u32,
    pub(crate) initial_backoff: Duration,
    pub(crate) max_backoff: Duration,
    tokens: u32,
    ratio: f64,
}

/// What a policy says of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    Never,
    /// Until the whole answer is there.
    Whole,
    /// Until the answer begins.
    Begun,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            unary: BTreeSet::new(),
            streaming: BTreeSet::new(),
            codes: vec![Code::Unavailable],
            attempts: 5,
            initial_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            tokens: 100,
            ratio: 0.1,
        }
    }
}

impl RetryPolicy {
    /// Nothing declared yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a method whose answer is one message (`/package.Service/Method`, with or without the first slash), or all methods
    /// of a service (`/package.Service/`), as safe to repeat. The answer is held back until its status has come, so that one which breaks off
    /// half-way can be repeated too. It is passed on sooner when a second message begins, when more than 4 MiB have come, when one
    /// message has been whole for 50 ms, and where the request is still being sent when the answer begins.
    #[must_use]
    pub fn repeatable(mut self, method: impl Into<String>) -> Self {
        self.unary.insert(with_slash(method.into()));
        self
    }

    /// The same for a method that streams its answer: it is repeated only as long as no part of the answer has come.
    #[must_use]
    pub fn repeatable_streaming(mut self, method: impl Into<String>) -> Self {
        self.streaming.insert(with_slash(method.into()));
        self
    }

    /// Which codes are worth another attempt. `UNAVAILABLE` alone by default; a lost connection is one of those.
    #[must_use]
    pub fn codes(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.codes = codes.into_iter().collect();
        self
    }

    /// How often a call is made at most, the first time included. 5 by default, the most that gRPC allows; 0 counts as 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The longest wait before the second attempt, doubled with each further one up to `max`; the wait is drawn at random
    /// from none to that. 50 ms and 1 s by default.
    #[must_use]
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.initial_backoff = initial;
        self.max_backoff = max;
        self
    }

    /// The budget, as in gRFC A6, of all calls of the channel together. Calls are repeated only while more than half of `tokens` are
    /// there.
    ///
    /// - Each attempt of a declared method that ends with one of [`RetryPolicy::codes`] takes one token.
    /// - So does each attempt, of any method and with any code but OK, whose server forbids another one (`grpc-retry-pushback-ms`).
    /// - Each call of any method that ends with OK puts `ratio` of a token back.
    /// - Any other failure does neither.
    ///
    /// All calls that go down with one connection take one token together, so that each of them can be repeated. 100 and 0.1 by
    /// default: a burst of 49, and one call in ten beside it.
    #[must_use]
    pub fn budget(mut self, tokens: u32, ratio: f64) -> Self {
        self.tokens = tokens;
        self.ratio = if ratio.is_finite() { ratio.max(0.0) } else { 0.0 };
        self
    }

    pub(crate) fn of(&self, path: &str) -> Repeat {
        let declared = |methods: &BTreeSet<String>| {
            !methods.is_empty()
                && (methods.contains(path) || path.rfind('/').is_some_and(|end| methods.contains(&path[..=end])))
        };
        if declared(&self.unary) {
            Repeat::Whole
        } else if declared(&self.streaming) {
            Repeat::Begun
        } else {
            Repeat::Never
        }
    }

    /// The first of the declared methods that none can be.
    pub(crate) fn invalid(&self) -> Option<&str> {
        self.unary.iter().chain(&self.streaming).find(|method| !is_method(method)).map(String::as_str)
    }

    pub(crate) fn has_code(&self, code: Code) -> bool {
        self.codes.contains(&code)
    }

    pub(crate) fn budget_of_tokens(&self) -> Budget {
        Budget::new(self.tokens, self.ratio)
    }

    /// How long to wait after so many attempts; `random` is drawn from 0 to 1.
    pub(crate) fn wait(&self, attempts: u32, random: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        self.initial_backoff.saturating_mul(doubled).min(self.max_backoff).mul_f64(random)
    }
}

pub(crate) fn with_slash(method: String) -> String {
    if method.starts_with('/') { method } else { format!("/{method}") }
}

/// Whether it can be the path of a method, or of all of a service.
pub(crate) fn is_method(path: &str) -> bool {
    let rest = path.strip_prefix('/').unwrap_or(path);
    rest.split_once('/').is_some_and(|(service, _)| !service.is_empty())
}

/// What a server says of when to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    None,
    After(Duration),
    /// Negative, or no number.
    Never,
}

/// What a call without a deadline waits at most at a server's word.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

impl Pushback {
    /// As a call without a deadline takes it.
    pub(crate) fn undated(self) -> Self {
        match self {
            Self::After(wait) if wait > LONGEST_PUSHBACK => Self::Never,
            pushback => pushback,
        }
    }

    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(PUSHBACK).iter();
        let Some(value) = values.next() else { return Self::None };
        if values.next().is_some() {
            return Self::Never; // as in Go
        }
        let millis = value.to_str().ok().and_then(|text| text.parse::<u32>().ok());
        millis.map_or(Self::Never, |millis| Self::After(Duration::from_millis(millis.into())))
    }
}

/// Tokens in thousandths, as gRPC counts them.
pub(crate) struct Budget {
    tokens: AtomicI64,
    most: i64,
    ratio: i64,
}

impl Budget {
    fn new(tokens: u32, ratio: f64) -> Self {
        let most = i64::from(tokens) * 1000;
        Self { tokens: AtomicI64::new(most), most, ratio: (ratio * 1000.0) as i64 }
    }

    pub(crate) fn succeeded(&self) {
        if self.tokens.load(Ordering::Relaxed) < self.most {
            let more = |tokens: i64| Some((tokens.saturating_add(self.ratio)).min(self.most));
            let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more); // always Ok
        }
    }

    pub(crate) fn failed(&self) {
        let less = |tokens: i64| Some((tokens - 1000).max(0));
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less); // always Ok
    }

    pub(crate) fn allows(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.most / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_declared_one_by_one_or_by_service() {
        let policy = RetryPolicy::new().repeatable("a.B/One").repeatable_streaming("/a.C/").repeatable("/a.C/Whole");
        for (path, repeat) in [
            ("/a.B/One", Repeat::Whole),
            ("/a.B/Two", Repeat::Never),
            ("/a.C/Any", Repeat::Begun),
            ("/a.C/Whole", Repeat::Whole),
            ("/a.CC/Any", Repeat::Never),
            ("", Repeat::Never),
        ] {
            assert_eq!(policy.of(path), repeat, "{path}");
        }
        assert_eq!(RetryPolicy::new().of("/a.B/One"), Repeat::Never);
    }

    #[test]
    fn the_budget_ends_and_comes_back() {
        let budget = RetryPolicy::new().budget(10, 0.5).budget_of_tokens();
        for _ in 0..4 {
            budget.failed();
            assert!(budget.allows());
        }
        budget.failed();
        assert!(!budget.allows());
        budget.succeeded();
        assert!(budget.allows());
        (0..100).for_each(|_| budget.failed());
        (0..10).for_each(|_| budget.succeeded());
        assert!(!budget.allows());
        budget.succeeded();
        assert!(budget.allows());
        assert!(!RetryPolicy::new().budget(0, 1.0).budget_of_tokens().allows());
    }

    #[test]
    fn waits_grow_to_their_cap() {
        let policy = RetryPolicy::new().backoff(Duration::from_millis(10), Duration::from_millis(50));
        let waits: Vec<_> = (1..6).map(|attempts| policy.wait(attempts, 1.0).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 50, 50]);
        assert_eq!(policy.wait(3, 0.0), Duration::ZERO);
        assert_eq!(policy.wait(u32::MAX, 0.5).as_millis(), 25);
    }

    #[test]
    fn servers_say_when_to_come_again() {
        let pushback = |text: &str| Pushback::of(&HeaderMap::from_iter([(PUSHBACK, text.parse().unwrap())]));
        assert_eq!(Pushback::of(&HeaderMap::new()), Pushback::None);
        assert_eq!(pushback("30"), Pushback::After(Duration::from_millis(30)));
        for text in ["-1", "", "soon", "99999999999"] {
            assert_eq!(pushback(text), Pushback::Never, "{text}");
        }
        assert_eq!(pushback("60000").undated(), pushback("60000"));
        assert_eq!(pushback("60001").undated(), Pushback::Never);
        let mut headers = HeaderMap::from_iter([(PUSHBACK, "1".parse().unwrap())]);
        headers.append(PUSHBACK, "2".parse().unwrap());
        assert_eq!(Pushback::of(&headers), Pushback::Never);
    }
}
