//! Retries, hedging and the throttling of both, as gRFC A6 defines them. PURE.

use std::time::Duration;

use super::document::{Node, Object, number, shown};
use super::invalid::InvalidServiceConfig;

/// The names of gRPC's codes; each stands at its number.
pub(crate) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The most tokens that a document can ask for.
const MOST_TOKENS: f64 = 1000.0;

/// `retryPolicy`: how calls are retried.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RetryParams {
    /// The most attempts of a call, the first one included; 2 or more, unless the code allows fewer.
    pub(crate) max_attempts: u32,
    /// The pause before the first retry, before jitter; more than 0.
    pub(crate) initial_backoff: Duration,
    /// The longest pause; more than 0.
    pub(crate) max_backoff: Duration,
    /// What each pause is multiplied by for the next one; more than 0.
    pub(crate) backoff_multiplier: f64,
    /// The codes that are retried, as gRPC's numbers in order; at least one.
    pub(crate) codes: Vec<u8>,
}

impl RetryParams {
    /// Reads a policy. All of its fields are required.
    pub(super) fn read(policy: &Node<'_>, most_attempts: u32) -> Result<Self, InvalidServiceConfig> {
        policy.fields(|policy| {
            Ok(Self {
                max_attempts: max_attempts(policy, most_attempts)?,
                initial_backoff: policy.required("initialBackoff", Node::positive_duration)?,
                max_backoff: policy.required("maxBackoff", Node::positive_duration)?,
                backoff_multiplier: policy.required("backoffMultiplier", Node::positive_number)?,
                codes: policy.required("retryableStatusCodes", |list| match codes(list)? {
                    codes if codes.is_empty() => Err(list.invalid("must name at least one code")),
                    codes => Ok(codes),
                })?,
            })
        })
    }
}

/// `hedgingPolicy`: how attempts are made beside those in flight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HedgingParams {
    /// The most attempts of a call, the first one included; 2 or more, unless the code allows fewer.
    pub(crate) max_attempts: u32,
    /// The time between two attempts; 0 for all at once, which is the default.
    pub(crate) hedging_delay: Duration,
    /// The codes that leave the other attempts going, as gRPC's numbers in order.
    pub(crate) non_fatal_codes: Vec<u8>,
}

impl HedgingParams {
    /// Reads a policy. Only `maxAttempts` is required.
    pub(super) fn read(policy: &Node<'_>, most_attempts: u32) -> Result<Self, InvalidServiceConfig> {
        policy.fields(|policy| {
            Ok(Self {
                max_attempts: max_attempts(policy, most_attempts)?,
                hedging_delay: policy.optional("hedgingDelay", Node::duration)?.unwrap_or_default(),
                non_fatal_codes: policy.optional("nonFatalStatusCodes", codes)?.unwrap_or_default(),
            })
        })
    }
}

/// `retryThrottling`: retries and hedges stop while less than half of the tokens are left. A failure takes one, a success gives
/// `token_ratio` back. gRPC keeps both in thousandths; they are as the document has them here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RetryThrottling {
    /// The most tokens; more than 0, up to 1000.
    pub(crate) max_tokens: f64,
    /// The tokens for each success; more than 0.
    pub(crate) token_ratio: f64,
}

impl RetryThrottling {
    /// Reads the throttling. Both fields are required.
    pub(super) fn read(throttling: &Node<'_>) -> Result<Self, InvalidServiceConfig> {
        throttling.fields(|throttling| {
            Ok(Self {
                max_tokens: throttling.required("maxTokens", |node| match node.positive_number()? {
                    tokens if tokens <= MOST_TOKENS => Ok(tokens),
                    _ => Err(node.invalid("must be at most 1000")),
                })?,
                token_ratio: throttling.required("tokenRatio", Node::positive_number)?,
            })
        })
    }
}

/// `maxAttempts` of either policy.
fn max_attempts(policy: &Object<'_>, most_attempts: u32) -> Result<u32, InvalidServiceConfig> {
    policy.required("maxAttempts", |node| match node.unsigned()? {
        0 | 1 => Err(node.invalid("must be 2 or more")),
        attempts => Ok(node.at_most(attempts, most_attempts)),
    })
}

/// A list of codes by name or number, in order and each once.
fn codes(list: &Node<'_>) -> Result<Vec<u8>, InvalidServiceConfig> {
    let mut codes = list.list()?.iter().map(code).collect::<Result<Vec<_>, _>>()?;
    codes.sort_unstable();
    codes.dedup();
    Ok(codes)
}

/// A code: its number, or its name in capital letters.
fn code(node: &Node<'_>) -> Result<u8, InvalidServiceConfig> {
    let found = match node.text() {
        Some(name) => CODES.iter().position(|known| *known == name),
        None => number::unsigned(node.written()).map(|number| number as usize),
    };
    let found = found.filter(|number| *number < CODES.len());
    found.map(|number| number as u8).ok_or_else(|| match node.text() {
        Some(name) => node.invalid(format!("is {}: there is no such code", shown(&name))),
        None => node.invalid("must be the name of a code, or a number from 0 to 16"),
    })
}
