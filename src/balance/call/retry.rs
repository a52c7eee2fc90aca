//! Which calls are retried after a server may have processed them, how often, and how many at once (gRFC A6). Without clock
//! or I/O: the caller brings time and randomness.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tonic::Code;

use crate::balance::call::attempts::timing::Timing;
use crate::error::Error;

/// In a response: after how many milliseconds to try again, or not at all.
pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// In a request: how many attempts went before.
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Declares which calls are retried although a server may have processed them (gRFC A6).
///
/// Nothing is declared by default, and no such call is retried. Calls that were never processed need no declaration to be
/// retried (see [`BalancedChannel`](crate::BalancedChannel#retries)).
///
/// A retry goes to a server that has not failed the call, if one of those has room for it, and to any server otherwise.
/// The last eight servers that have failed it are remembered. If the connection of the first attempt was lost, the
/// second one follows at once; any other attempt follows after a backoff with jitter. All attempts share the call's
/// deadline. If the backoff would outlast the deadline, or if no server takes the next attempt in time, the call ends
/// with the status of the last attempt.
///
/// Servers have the last word: `grpc-retry-pushback-ms` in a response replaces the backoff, in milliseconds. A negative value, or
/// a value that is not a number, forbids the retry, also that of other attempts of the call which are in flight. More than a minute
/// also forbids it if the call has no deadline.
/// `grpc-previous-rpc-attempts` in a request tells its server how many attempts went before.
///
/// A call is never retried:
///
/// - after headers or trailers that are larger than
///   [`max_header_list_size`](crate::BalancedChannelBuilder::max_header_list_size);
/// - if two connections have ended in a way that this call may have caused: by a GOAWAY with an error code, or by response
///   headers that are too large for HTTP/2;
/// - once its caller has got the beginning of the response. For [`RetryPolicy::repeatable`] methods that is later than the
///   response's beginning (see there);
/// - once it has sent more of its request than [`replay_limit`](crate::BalancedChannelBuilder::replay_limit) keeps. That setting
///   names one exception, for a call that was never processed;
/// - while its server does not respond, unless [`RetryPolicy::attempt_timeout`] or [`RetryPolicy::hedge_after`] is set: without
///   them that is no failure before the deadline, and after the deadline there is no time left. If the whole server is silent,
///   [`KeepAlive`](crate::KeepAlive) turns that into a lost connection, which is retried.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    unary: BTreeSet<String>,
    streaming: BTreeSet<String>,
    never: BTreeSet<String>,
    pub(crate) is_from_service_config: bool,
    pub(crate) codes: Vec<Code>,
    pub(crate) max_attempts: u32,
    pub(crate) initial_backoff: Duration,
    pub(crate) max_backoff: Duration,
    tokens: u32,
    token_ratio: f64,
    pub(crate) timing: Timing,
}

/// Until when a call of a method can be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryScope {
    /// Until the response is complete. It is held back until then.
    UntilComplete,
    /// Until the head of the response has come.
    UntilHead,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            unary: BTreeSet::new(),
            streaming: BTreeSet::new(),
            never: BTreeSet::new(),
            is_from_service_config: false,
            codes: vec![Code::Unavailable],
            max_attempts: 5,
            initial_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            tokens: 100,
            token_ratio: 0.1,
            timing: Timing::default(),
        }
    }
}

impl RetryPolicy {
    /// Makes a policy that declares nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a method whose response is one message (`/package.Service/Method`, with or without the first slash), or all methods
    /// of a service (`/package.Service/`), as safe to retry.
    ///
    /// The response is held back until its status has come, so that a call whose response breaks off half-way is retried too. The
    /// response is passed on before that:
    ///
    /// - if the request is still being sent when the response begins;
    /// - if a second message begins, or more than 4 MiB have come;
    /// - if one message has been complete for 50 ms.
    ///
    /// So this also fits a service in which some methods stream their responses: their first message may come up to 50 ms later.
    /// A method that is declared here and by [`RetryPolicy::repeatable_streaming`] is treated as declared here. What is declared for a
    /// method by its own name takes precedence over what is declared for its service.
    #[must_use]
    pub fn repeatable(mut self, method: impl Into<String>) -> Self {
        self.unary.insert(with_leading_slash(method.into()));
        self
    }

    /// Declares a method that streams its response, or all methods of a service, as safe to retry. Its calls are retried only
    /// before the response begins, and no response is held back.
    #[must_use]
    pub fn repeatable_streaming(mut self, method: impl Into<String>) -> Self {
        self.streaming.insert(with_leading_slash(method.into()));
        self
    }

    /// Declares that a method, or all methods of a service, is never retried after a server may have processed it, whatever else
    /// declares it: this policy, a [`MethodConfig`](crate::MethodConfig), or its service by name.
    #[must_use]
    pub fn never_repeat(mut self, method: impl Into<String>) -> Self {
        self.never.insert(with_leading_slash(method.into()));
        self
    }

    /// Takes `retryPolicy`, `hedgingPolicy` and `retryThrottling` from the channel's service config where it has them, in place of
    /// what this policy says. Off by default: whoever may write the document could then cause repeats.
    /// [`RetryPolicy::never_repeat`] outweighs the document.
    ///
    /// The policy of [`MethodConfig::retry`](crate::MethodConfig::retry) decides for its own method or service:
    ///
    /// | who says it | a method with a `MethodConfig::retry` | other methods | `retryThrottling` |
    /// |---|---|---|---|
    /// | nobody | the `MethodConfig`'s policy | the channel's policy | the channel's [`budget`](RetryPolicy::budget) |
    /// | the channel's policy alone | the `MethodConfig`'s policy | the document's entry, else the channel's policy | the document's, else the budget |
    /// | the policy of the `MethodConfig` alone | the document's entry, else the `MethodConfig`'s policy | the channel's policy | the budget |
    /// | both | the document's entry, else the `MethodConfig`'s policy | the document's entry, else the channel's policy | the document's, else the budget |
    ///
    /// `maxAttempts` of the document counts as 5 if it is more (gRFC A6), or as the largest [`RetryPolicy::max_attempts`] that the
    /// code of the channel has anywhere, if that is more than 5.
    ///
    /// Methods that a `retryPolicy` names are retried until the response begins, as gRFC A6 has it and as
    /// [`RetryPolicy::repeatable_streaming`]; those of a `hedgingPolicy` are as those of [`RetryPolicy::repeatable`] with
    /// [`RetryPolicy::hedge_after`], where a delay of 0 counts as 1 ms.
    ///
    /// The budget is one for all calls of a channel. So `retryThrottling` replaces [`RetryPolicy::budget`] if the channel's policy, or
    /// that of any [`MethodConfig`](crate::MethodConfig), says this.
    #[must_use]
    pub fn from_service_config(mut self) -> Self {
        self.is_from_service_config = true;
        self
    }

    /// Sets the codes after which calls are retried (`retryableStatusCodes` in gRPC). These replace the default, which is
    /// `UNAVAILABLE` alone: without it, calls that are lost with their connection are not retried. After most other codes a retry
    /// would fail with the same code.
    #[must_use]
    pub fn retryable_codes(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.codes = codes.into_iter().collect();
        self
    }

    /// Sets the maximum number of attempts of a call, the first one included; 1 or more (`maxAttempts` in gRPC). 5 by default,
    /// the maximum of gRPC's service config.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the pause before a retry. It is drawn at random from zero to a maximum, which is `initial` for the second attempt and
    /// doubles with each further attempt, up to `max`. There is no pause before the second attempt if the connection of the first
    /// was lost. 50 ms and 1 s by default: short, because another server can usually take the call at once.
    #[must_use]
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.initial_backoff = initial;
        self.max_backoff = max;
        self
    }

    /// Sets the budget for retries of all calls of the channel together (`retryThrottling` in gRFC A6). Calls are retried only
    /// while more than half of `tokens` is left.
    ///
    /// - An attempt of a declared method that ends with one of [`RetryPolicy::retryable_codes`] takes one token.
    /// - Each attempt of a call of any method that a server refuses without processing it (`REFUSED_STREAM`, GOAWAY)
    ///   takes one, but the call's first such attempt takes none. The call is sent again in any case: see [transparent
    ///   retries](crate::BalancedChannel#transparent-retries). All calls that the GOAWAY of one connection leaves out
    ///   take one token together. An attempt that was not sent takes none.
    /// - An attempt of any method that fails, and whose server forbids a retry (`grpc-retry-pushback-ms`), takes one too.
    /// - A call of any method that ends with OK puts `ratio` of a token back.
    /// - An attempt that takes the place of one that was given up ([`RetryPolicy::attempt_timeout`]), and a hedge
    ///   ([`RetryPolicy::hedge_after`]), take one token when they are sent.
    /// - Any other failure does neither.
    ///
    /// All calls that are lost with one connection take one token together, so that each of them can be retried. 100
    /// and 0.1 by default: 49 retries of failed attempts in a burst, because more than 50 tokens must be left after the
    /// failure has taken its own, or 50 hedges or replaced attempts; and in the long run one retry for every ten calls
    /// that end with OK. With 0 `tokens` nothing is retried but what no server has processed: after a call's first
    /// refusal at once, and after each further one with a backoff. `ratio` is finite and not negative.
    #[must_use]
    pub fn budget(mut self, tokens: u32, ratio: f64) -> Self {
        self.tokens = tokens;
        self.token_ratio = ratio;
        self
    }

    /// Returns what declares a method, itself or its service, and until when its calls can be retried. A declared method has
    /// precedence over its declared service, as in gRPC's service config.
    pub(crate) fn declared<'a>(&self, path: &'a str) -> Option<(&'a str, RetryScope)> {
        [path, service_of(path)].into_iter().find_map(|name| {
            if self.unary.contains(name) {
                Some((name, RetryScope::UntilComplete))
            } else {
                self.streaming.contains(name).then_some((name, RetryScope::UntilHead))
            }
        })
    }

    /// Whether a method or its service is never retried.
    pub(crate) fn is_never_repeated(&self, path: &str) -> bool {
        self.never.contains(path) || self.never.contains(service_of(path))
    }

    /// Returns all methods and services that it names.
    pub(crate) fn all_named(&self) -> impl Iterator<Item = &String> {
        self.unary.iter().chain(&self.streaming).chain(&self.never)
    }

    /// Refuses settings outside of their ranges, and texts that are no methods.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.max_attempts == 0 {
            return Err(Error::invalid("max_attempts of the retry policy", "0", "it must be at least 1"));
        }
        if !self.token_ratio.is_finite() || self.token_ratio < 0.0 {
            let ratio = self.token_ratio.to_string();
            return Err(Error::invalid("budget ratio of the retry policy", ratio, "it must be a number from 0 on"));
        }
        self.timing.check()?;
        let mut declared = self.unary.iter().chain(&self.streaming);
        declared.try_for_each(|method| check_method("repeatable method", method))?;
        self.never.iter().try_for_each(|method| check_method("method that is never repeated", method))
    }

    pub(crate) fn budget_of_tokens(&self) -> RetryBudget {
        RetryBudget::new(self.tokens.into(), self.token_ratio)
    }

    /// The tokens of the budget, and what an OK call puts back.
    pub(crate) fn tokens(&self) -> (f64, f64) {
        (self.tokens.into(), self.token_ratio)
    }
}

/// Returns the part of a path that names its service, with both slashes.
#[inline]
pub(crate) fn service_of(path: &str) -> &str {
    path.rfind('/').map_or("", |end| &path[..=end])
}

pub(crate) fn with_leading_slash(method: String) -> String {
    if method.starts_with('/') { method } else { format!("/{method}") }
}

/// Refuses a text that can be no path of a method, nor of all methods of a service.
pub(crate) fn check_method(setting: &'static str, path: &str) -> Result<(), Error> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    match rest.split_once('/') {
        Some((service, method)) if is_name(service) && (method.is_empty() || is_name(method)) => Ok(()),
        _ => {
            let reason = "write \"/package.Service/Method\", or \"/package.Service/\" for all of a service";
            Err(Error::invalid(setting, path, reason))
        }
    }
}

/// Whether a name can stand in a path. A pattern such as `*` would match nothing, and nobody would notice.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '*', '?', '#']) && !text.contains(|letter: char| letter.is_whitespace())
}

/// What a response says about another attempt (`grpc-retry-pushback-ms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// Nothing: the policy's own backoff holds.
    None,
    /// After so many milliseconds.
    After(u32),
    /// A negative value, or one that is no number.
    Never,
}

/// The longest pause that a server can impose on a call without a deadline: nothing else would end it.
const MAX_PUSHBACK_WITHOUT_DEADLINE_MS: u32 = 60_000;

impl Pushback {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(PUSHBACK).iter();
        let Some(value) = values.next() else { return Self::None };
        if values.next().is_some() {
            return Self::Never; // several values are invalid, as in Go
        }
        let millis = value.to_str().ok().and_then(|text| text.parse::<u32>().ok());
        millis.map_or(Self::Never, Self::After)
    }

    /// Returns what it means to a call without a deadline.
    pub(crate) fn without_deadline(self) -> Self {
        match self {
            Self::After(millis) if millis > MAX_PUSHBACK_WITHOUT_DEADLINE_MS => Self::Never,
            pushback => pushback,
        }
    }
}

/// The tokens of [`RetryPolicy::budget`], in thousandths, as gRPC counts them.
///
/// All calls of a channel share it. Relaxed atomics are enough: a token more or less decides nothing else.
pub(crate) struct RetryBudget {
    tokens: AtomicI64,
    max: AtomicI64,
    ratio: AtomicI64,
}

impl RetryBudget {
    fn new(tokens: f64, ratio: f64) -> Self {
        let (max, ratio) = (thousandths(tokens), thousandths(ratio));
        Self { tokens: AtomicI64::new(max), max: AtomicI64::new(max), ratio: AtomicI64::new(ratio) }
    }

    /// Changes the budget. As large a part of it is left as before.
    pub(crate) fn set(&self, tokens: f64, ratio: f64) {
        let max = thousandths(tokens);
        let before = self.max.swap(max, Ordering::Relaxed);
        self.ratio.store(thousandths(ratio), Ordering::Relaxed);
        let part =
            |left: i64| if before > 0 { (i128::from(left) * i128::from(max) / i128::from(before)) as i64 } else { max };
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(part(left).min(max))); // always Ok
    }

    pub(crate) fn on_success(&self) {
        let max = self.max.load(Ordering::Relaxed);
        // Most of the time the budget is full: a read is cheaper than a write that all callers share.
        if self.tokens.load(Ordering::Relaxed) < max {
            let ratio = self.ratio.load(Ordering::Relaxed);
            let add = |tokens: i64| Some((tokens.saturating_add(ratio)).min(max));
            let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add); // always Ok
        }
    }

    pub(crate) fn on_failure(&self) {
        let take = |tokens: i64| Some((tokens - 1000).max(0));
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take); // always Ok
    }

    /// Whether another attempt may be made: more than half of the tokens are left.
    pub(crate) fn allows_retry(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.max.load(Ordering::Relaxed) / 2
    }
}

/// As gRPC counts tokens.
fn thousandths(value: f64) -> i64 {
    (value * 1000.0) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_can_match_no_method_is_refused() {
        for method in ["/a.B/*", "/a.B/One/Two", "/a B/One", "One", "/", "//One", "/a.B/One?x"] {
            let error = RetryPolicy::new().repeatable(method).check().unwrap_err();
            assert!(error.is_invalid_argument(), "{method}: {error}");
        }
        for method in ["/a.B/One", "a.B/One", "/a.B/"] {
            RetryPolicy::new().repeatable(method).check().unwrap();
        }
    }

    #[test]
    fn methods_are_declared_one_by_one_or_by_service() {
        let policy = RetryPolicy::new().repeatable("a.B/One").repeatable_streaming("/a.C/").repeatable("/a.C/Whole");
        let policy = policy.repeatable("/a.D/").repeatable_streaming("/a.D/Watch");
        for (path, declared) in [
            ("/a.B/One", Some(("/a.B/One", RetryScope::UntilComplete))),
            ("/a.B/Two", None),
            ("/a.C/Any", Some(("/a.C/", RetryScope::UntilHead))),
            ("/a.C/Whole", Some(("/a.C/Whole", RetryScope::UntilComplete))),
            ("/a.CC/Any", None),
            ("/a.D/Any", Some(("/a.D/", RetryScope::UntilComplete))),
            ("/a.D/Watch", Some(("/a.D/Watch", RetryScope::UntilHead))),
            ("", None),
        ] {
            assert_eq!(policy.declared(path), declared, "{path}");
        }
        assert_eq!(RetryPolicy::new().declared("/a.B/One"), None);
    }

    #[test]
    fn the_budget_ends_and_comes_back() {
        let budget = RetryPolicy::new().budget(10, 0.5).budget_of_tokens();
        for _ in 0..4 {
            budget.on_failure();
            assert!(budget.allows_retry());
        }
        budget.on_failure();
        assert!(!budget.allows_retry());
        budget.on_success();
        assert!(budget.allows_retry());
        (0..100).for_each(|_| budget.on_failure());
        (0..10).for_each(|_| budget.on_success());
        assert!(!budget.allows_retry());
        budget.on_success();
        assert!(budget.allows_retry());
        assert!(!RetryPolicy::new().budget(0, 1.0).budget_of_tokens().allows_retry());
    }

    #[test]
    fn a_budget_that_changes_keeps_the_part_that_is_left() {
        let budget = RetryPolicy::new().budget(10, 0.5).budget_of_tokens();
        (0..4).for_each(|_| budget.on_failure());
        budget.set(100.0, 0.1);
        (0..9).for_each(|_| budget.on_failure());
        assert!(budget.allows_retry(), "60 - 9 of 100");
        budget.on_failure();
        assert!(!budget.allows_retry());
        budget.set(0.0, 0.0);
        assert!(!budget.allows_retry());
        budget.set(4.0, 0.0);
        assert!(budget.allows_retry(), "of nothing all is left");
    }

    #[test]
    fn servers_say_when_to_come_again() {
        let pushback = |text: &str| Pushback::from_headers(&HeaderMap::from_iter([(PUSHBACK, text.parse().unwrap())]));
        assert_eq!(Pushback::from_headers(&HeaderMap::new()), Pushback::None);
        assert_eq!(pushback("30"), Pushback::After(30));
        for text in ["-1", "", "soon", "99999999999"] {
            assert_eq!(pushback(text), Pushback::Never, "{text}");
        }
        assert_eq!(pushback("60000").without_deadline(), pushback("60000"));
        assert_eq!(pushback("60001").without_deadline(), Pushback::Never);
        let mut headers = HeaderMap::from_iter([(PUSHBACK, "1".parse().unwrap())]);
        headers.append(PUSHBACK, "2".parse().unwrap());
        assert_eq!(Pushback::from_headers(&headers), Pushback::Never);
    }
}
