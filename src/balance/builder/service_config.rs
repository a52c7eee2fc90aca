//! Where the service config of a channel comes from.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::balance::builder::BalancedChannelBuilder;
use crate::balance::config::ConfigSource;

impl BalancedChannelBuilder {
    /// Sets the service config of the channel: gRPC's JSON document for timeouts, retries and sizes of messages by method.
    ///
    /// The fields are those of `service_config.proto`, with the rules of the gRFCs A6, A17, A21, A24, A50 and A105. This document has
    /// most of them:
    ///
    /// ```
    /// let document = r#"{
    ///   "methodConfig": [
    ///     {
    ///       "name": [{}],
    ///       "waitForReady": false,
    ///       "maxResponseMessageBytes": 4194304
    ///     },
    ///     {
    ///       "name": [{"service": "helloworld.Greeter"}],
    ///       "timeout": "1.5s",
    ///       "retryPolicy": {
    ///         "maxAttempts": 3,
    ///         "initialBackoff": "0.05s",
    ///         "maxBackoff": "1s",
    ///         "backoffMultiplier": 2,
    ///         "retryableStatusCodes": ["UNAVAILABLE"]
    ///       }
    ///     },
    ///     {
    ///       "name": [{"service": "helloworld.Greeter", "method": "Watch"}]
    ///     }
    ///   ],
    ///   "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    ///   "healthCheckConfig": {"serviceName": "helloworld.Greeter"},
    ///   "connectionScaling": {"maxConnectionsPerSubchannel": 2},
    ///   "loadBalancingConfig": [{"least_request_experimental": {}}, {"round_robin": {}}]
    /// }"#;
    /// assert!(tonic_etcd::check_service_config(document)?.is_empty()); // nothing that is probably not meant
    ///
    /// use tonic_etcd::{BalancedChannel, RetryPolicy};
    /// let builder = BalancedChannel::builder()
    ///     .retry(RetryPolicy::new().from_service_config()) // without it, `retryPolicy` and `retryThrottling` have no effect
    ///     .policy_from_service_config() // without it, `loadBalancingConfig` has none
    ///     .service_config(document);
    /// # Ok::<(), tonic_etcd::Error>(())
    /// ```
    ///
    /// **A `timeout` ends streams too.** It counts for the whole of a streamed response, as in gRPC, and nothing in the code lifts it.
    /// Name a service only if none of its methods streams for long, or give each that does an entry of its own without a `timeout`,
    /// as `Watch` has above. Do not set one for all methods (`{}`).
    ///
    /// **Names.** Three have nothing to do with each other, and may all be different:
    ///
    /// | name | of what | example |
    /// |---|---|---|
    /// | the key in etcd ([`service_config_from_etcd`](Self::service_config_from_etcd)) | the service that the channel resolves | `greeter` |
    /// | `service` and `method` of `methodConfig[].name` | package, service and method of the proto file, without slashes | `helloworld.Greeter`, `SayHello` |
    /// | `serviceName` of `healthCheckConfig` | what servers have given to their health service | `helloworld.Greeter`, or `""` for the server as a whole |
    ///
    /// `{"healthCheckConfig": {"serviceName": ""}}` asks for the health of the server as a whole; `{"healthCheckConfig": {}}` asks for
    /// nothing (A17).
    ///
    /// **Who wins**, where the code says something too:
    ///
    /// | field | what holds |
    /// |---|---|
    /// | `timeout` | the earlier of the call's, the code's and the document's. So a document makes a timeout shorter, and longer only where the code has none. [`CallTimeout`](crate::CallTimeout) and [`MethodConfig::no_timeout`](crate::MethodConfig::no_timeout) lift the code's alone. With `"0s"` every call fails |
    /// | `waitForReady` | the call's ([`WaitForReady`](crate::WaitForReady)), then the code's, then the document's |
    /// | `maxRequestMessageBytes`, `maxResponseMessageBytes` | the smaller one |
    /// | `retryPolicy`, `hedgingPolicy`, `retryThrottling` | the code's, unless it says [`RetryPolicy::from_service_config`](crate::RetryPolicy::from_service_config). For the throttling it is enough that one policy of the code does. `maxAttempts` counts as 5 if it is more (A6), unless the code of the channel allows more attempts |
    /// | `loadBalancingConfig` | the code's, unless it says [`policy_from_service_config`](Self::policy_from_service_config) |
    /// | `healthCheckConfig` | the code's [`health_check`](Self::health_check), then the document's |
    /// | `connectionScaling` | the code's [`connections_per_server`](Self::connections_per_server), then the document's `maxConnectionsPerSubchannel`, which counts as 10 if it is more (A105). After a lower one, connections beyond it get no more calls, and close after their last: unhealthy ones first, then those whose health is not known yet, then the youngest |
    ///
    /// An entry of the document for a method replaces that for its service, and this the one for all methods, as a whole: they are
    /// not merged.
    ///
    /// **What has no effect.** A field that is not known is ignored, as in gRPC, so that a typo sets nothing. It is logged at WARN, and
    /// [`ServiceConfigStatus::warnings`](crate::ServiceConfigStatus::warnings) lists it beside what the code does not let the document
    /// say. [`check_service_config`](crate::check_service_config) tells it before the document is used.
    ///
    /// It replaces an earlier source of the document.
    ///
    /// # Errors
    /// A document that is invalid is refused as a whole when the channel is built ([`Error::is_invalid_argument`](crate::Error::is_invalid_argument)). The error names
    /// the path of what is wrong, such as `methodConfig[2].retryPolicy.maxAttempts`.
    pub fn service_config(mut self, document: impl Into<String>) -> Self {
        self.config = ConfigSource::Code(document.into().into());
        self
    }

    /// Takes the policy and the outlier detection from `loadBalancingConfig` of the service config where it has that, in place of
    /// [`BalancedChannelBuilder::policy`] and [`BalancedChannelBuilder::outlier_detection`]. Off by default.
    ///
    /// Known are:
    /// - `pick_first` (its order is random in any case), `round_robin`, and `least_request_experimental` (two servers
    ///   are compared, whatever `choiceCount` says).
    /// - `ring_hash_experimental`: [`ConsistentHash`](crate::policy::ConsistentHash) by `requestHashHeader` (gRFC
    ///   A76). Without it calls go to random servers. `minRingSize` and `maxRingSize` are the
    ///   [`ring_size`](crate::policy::ConsistentHash::ring_size), where they are set.
    /// - `random_subsetting_experimental` (gRFC A68) with one of these as its child. The smaller of its `subsetSize` and
    ///   the code's [`subset`](Self::subset) holds.
    /// - `outlier_detection_experimental` with one of these as its child. An enforcement of 0 % turns an algorithm
    ///   off, and any other counts as 100 %. A change leaves servers ejected, for as long as the new
    ///   options say (A50); without outlier detection, or without an algorithm, all of them are back.
    pub fn policy_from_service_config(mut self) -> Self {
        self.settings.policy_from_service_config = true;
        self
    }

    /// Reads the service config from a file, and follows it: it is read again once a second. What the document can say is at
    /// [`BalancedChannelBuilder::service_config`]. It replaces an earlier source of the document.
    ///
    /// A change holds for calls that begin after it. A document that is refused, or a file that cannot be read, leaves the last
    /// good document in force, and is logged at WARN once. If the first one is refused or missing, the code's settings hold until a
    /// good one comes: that is no error when the channel is built. [`BalancedChannel::service_config`](crate::BalancedChannel::service_config) shows which one is in force,
    /// and [`check_service_config`](crate::check_service_config) checks one before it is written.
    ///
    /// Replace the file by a rename: one that is written in place may be read half-way.
    pub fn service_config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config = ConfigSource::File(path.into());
        self
    }

    /// Takes the service config from a watch channel, and follows it, as [`BalancedChannelBuilder::service_config_file`]. The last
    /// good document stays in force when the sender is dropped. It replaces an earlier source of the document.
    pub fn service_config_updates(mut self, documents: watch::Receiver<Arc<str>>) -> Self {
        self.config = ConfigSource::Updates(documents);
        self
    }

    /// Takes the service config of the channel's service from etcd, and follows it, as
    /// [`BalancedChannelBuilder::service_config_file`]: a fleet's timeouts change with one `etcdctl put`. It replaces an earlier
    /// source of the document. For channels over a [`Resolution`](crate::Resolution); others refuse it when they are built.
    ///
    /// ```text
    /// etcdctl put tonic-etcd/config/greeter '{
    ///   "methodConfig": [{
    ///     "name": [{"service": "helloworld.Greeter"}],
    ///     "timeout": "1.5s",
    ///     "retryPolicy": {
    ///       "maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
    ///       "retryableStatusCodes": ["UNAVAILABLE"]
    ///     }
    ///   }],
    ///   "healthCheckConfig": {"serviceName": "helloworld.Greeter"},
    ///   "connectionScaling": {"maxConnectionsPerSubchannel": 2},
    ///   "loadBalancingConfig": [{"round_robin": {}}]
    /// }'
    /// ```
    ///
    /// [`BalancedChannelBuilder::service_config`] says what of it needs the code's consent, whose timeouts hold, and what a `timeout`
    /// does to streams: set long timeouts or none in the code if operators are to choose them.
    ///
    /// The key is `tonic-etcd/config/SERVICE`. SERVICE is the name of the service in etcd, in which everything but the letters and
    /// digits of ASCII and `-`, `_`, `.`, `~` is percent-escaped byte by byte, so that it has no slash:
    /// `tonic-etcd/config/shop%2Fpayments` for `shop/payments`.
    /// [`ResolverBuilder::control_prefix`](crate::ResolverBuilder::control_prefix) sets another prefix. While there is no such key,
    /// the code's settings hold.
    ///
    /// **While etcd is unavailable**, the last document stays in force, and with
    /// [`ResolverBuilder::cache`](crate::ResolverBuilder::cache) a program that starts then has it too, 300 ms after its start. Once
    /// etcd has answered, a refusal included, nothing of the cache holds any longer. A document also stays, logged at WARN, if etcd
    /// was wiped or restored and does not have it any more: as long as the loss of instances would be doubtful
    /// ([`MassLoss`](crate::MassLoss), 60 s by default), and while that of the service's instances is. One that is deleted then goes
    /// when that time is over.
    ///
    /// **Calls that begin before the first word** of etcd, or of the cache, wait for it, within their deadline and the
    /// [`wait_limit`](Self::wait_limit). No server is ready before: it is not known yet whose health decides. That there is no word
    /// counts as one 1 s after the channel began, and after 300 ms if etcd fails and no cache file has one: then the code's settings
    /// hold. The document's `timeout` of such a call counts from when the document is known, the call's own and the code's from its
    /// beginning.
    ///
    /// **A broken document** changes nothing for the clients that run: each keeps the last good one. But clients that start while it
    /// is there have the code's settings alone, so a fleet that restarts is divided until it is mended. Check documents before the
    /// put ([`check_service_config`](crate::check_service_config)). An empty value is a broken document; only `etcdctl del` takes the
    /// document away. [`BalancedChannel::service_config`](crate::BalancedChannel::service_config) shows the document in force and the broken one's error, each with its
    /// revision. It is a snapshot: there is no stream of it.
    ///
    /// One watch serves all services of a resolver if its role may read all keys below `tonic-etcd/config/`. Otherwise there is one
    /// for each service, for which its role must be able to read that one key; the role may change while the program runs. Where it
    /// may read neither, the code's settings hold, or the last document that etcd has told: that is logged at WARN, once, and is the
    /// [`error`](crate::ServiceConfigStatus::error) of the status. What may not be read is tried again every 30 to 60 s.
    ///
    /// **Security.** Whoever may write this key sets how long calls may take and whether they wait, and whose health servers are
    /// asked for: under a name that no server knows, all are unhealthy, unless the code names the service
    /// ([`BalancedChannelBuilder::health_check`]). If the code lets it, the key also says how often calls are repeated, and to which
    /// server they go ([`RetryPolicy::from_service_config`](crate::RetryPolicy::from_service_config), [`BalancedChannelBuilder::policy_from_service_config`]). Give operators
    /// a role that may write below `tonic-etcd/config/`, and clients one that may only read there, beside the service's own prefix:
    ///
    /// ```text
    /// etcdctl role grant-permission client --prefix=true read greeter/
    /// etcdctl role grant-permission client --prefix=true read tonic-etcd/config/
    /// etcdctl role grant-permission operator --prefix=true readwrite tonic-etcd/config/
    /// ```
    pub fn service_config_from_etcd(mut self) -> Self {
        self.config = ConfigSource::Directory;
        self
    }
}
