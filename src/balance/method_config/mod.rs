//! The settings of calls by method: as the user's code gives them ([`MethodConfig`]), and as calls read them
//! (`settings.rs`), made by `compile.rs` whenever one of their sources has changed. `message_limit.rs` holds the sizes of messages.

mod compile;
pub(crate) mod message_limit;
mod settings;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use crate::balance::method_config::compile::CodeConfig;
pub(crate) use crate::balance::method_config::settings::{CallSettings, MethodRetry};

use crate::balance::call::retry::RetryPolicy;
use crate::error::Error;

/// The settings of the calls of one method, or of all methods of a service:
/// [`BalancedChannelBuilder::method_config`](crate::BalancedChannelBuilder::method_config) takes it.
///
/// The names are those of gRPC's service config. What is not set here is taken from the service's entry, and then from the
/// channel's settings.
///
/// ```
/// use std::time::Duration;
/// use tonic_etcd::{BalancedChannel, MethodConfig, RetryPolicy};
///
/// let builder = BalancedChannel::builder()
///     .timeout(Duration::from_secs(5))
///     .method_config("/shop.Orders/", MethodConfig::new().timeout(Duration::from_secs(1)))
///     .method_config("/shop.Orders/Watch", MethodConfig::new().no_timeout())
///     .method_config("/shop.Orders/Get", MethodConfig::new().retry(RetryPolicy::new().max_attempts(3)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct MethodConfig {
    timeout: Option<TimeLimit>,
    wait_for_ready: Option<bool>,
    max_request_message_bytes: Option<usize>,
    max_response_message_bytes: Option<usize>,
    retry: Option<DeclaredRetry>,
}

/// The maximum time of a call.
#[derive(Clone, Copy, Debug)]
enum TimeLimit {
    None,
    After(Duration),
}

/// How the calls of one entry are retried.
#[derive(Clone, Debug)]
struct DeclaredRetry {
    policy: RetryPolicy,
    /// Only until the response begins.
    is_streaming: bool,
}

impl MethodConfig {
    /// Nothing is set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the maximum time of a call, in place of [`BalancedChannelBuilder::timeout`](crate::BalancedChannelBuilder::timeout),
    /// which says what it covers. A call that asks for less itself ends sooner, and [`CallTimeout`](crate::CallTimeout) replaces it
    /// for one call. A `timeout` of the service config holds beside it: the earlier one ends the call. With `Duration::ZERO` every
    /// call fails, as in gRPC.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(TimeLimit::After(timeout));
        self
    }

    /// Lifts the maximum time that the code sets for a call: for a method that watches something for as long as its caller likes.
    ///
    /// It does not lift the `timeout` of a [service config](crate::BalancedChannelBuilder::service_config): an entry that names this
    /// method, its service, or all methods (`{}`) still ends its calls. The document exempts a method by an entry of its own without
    /// a `timeout`.
    #[must_use]
    pub fn no_timeout(mut self) -> Self {
        self.timeout = Some(TimeLimit::None);
        self
    }

    /// Sets whether calls wait for ready, in place of
    /// [`BalancedChannelBuilder::wait_for_ready`](crate::BalancedChannelBuilder::wait_for_ready).
    /// [`WaitForReady`](crate::WaitForReady) replaces it for one call.
    #[must_use]
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = Some(wait);
        self
    }

    /// Sets the maximum size of a request message, in bytes as they are sent: compressed, if they are, and without the five bytes
    /// before each message. No limit by default; with 0 only empty messages pass. A call with a larger message ends with
    /// `RESOURCE_EXHAUSTED`, and is not retried. Nothing of that message is sent. Those before it are sent, and may be lost with the
    /// end of the call. Of this limit and `maxRequestMessageBytes` of a service config the smaller holds.
    #[must_use]
    pub fn max_request_message_bytes(mut self, bytes: usize) -> Self {
        self.max_request_message_bytes = Some(bytes);
        self
    }

    /// Sets the maximum size of a response message, as [`MethodConfig::max_request_message_bytes`]. No limit by default; generated
    /// clients have one of their own, 4 MiB by default, and the smaller one holds. A call with a larger message ends with
    /// `RESOURCE_EXHAUSTED` as soon as the size is known and the messages before it are read, and is not retried.
    #[must_use]
    pub fn max_response_message_bytes(mut self, bytes: usize) -> Self {
        self.max_response_message_bytes = Some(bytes);
        self
    }

    /// Declares the method, whose response is one message, as safe to retry, as [`RetryPolicy::repeatable`] does, with a policy of its
    /// own: codes, attempts, backoff, attempt timeout and hedging. The policy must not declare methods itself. Its
    /// [budget](RetryPolicy::budget) is not used: the channel has one, or the document, where one of the policies takes it.
    /// [`RetryPolicy::from_service_config`] has the table of what holds if one of the two policies says it.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(DeclaredRetry { policy, is_streaming: false });
        self
    }

    /// The same for a method that streams its response, as [`RetryPolicy::repeatable_streaming`].
    #[must_use]
    pub fn retry_streaming(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(DeclaredRetry { policy, is_streaming: true });
        self
    }

    /// Refuses settings outside of their ranges.
    fn check(&self) -> Result<(), Error> {
        let Some(DeclaredRetry { policy, .. }) = &self.retry else { return Ok(()) };
        if let Some(method) = policy.all_named().next() {
            return Err(Error::invalid(
                "retry policy of a method",
                method,
                "it belongs to one entry, and names no methods itself",
            ));
        }
        policy.check()
    }
}
