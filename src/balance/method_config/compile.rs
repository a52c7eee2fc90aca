//! From the settings of the user's code to those that calls read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::call::retry::{self, RetryPolicy, RetryScope, service_of};
use crate::balance::method_config::message_limit::MessageLimit;
use crate::balance::method_config::settings::{CallSettings, MethodRetry, MethodSettings};
use crate::balance::method_config::{DeclaredRetry, MethodConfig, TimeLimit};
use crate::error::Error;

/// What the user's code says of the calls of a channel.
#[derive(Clone, Default)]
pub(crate) struct CodeConfig {
    /// The channel's own settings. `None` is no limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: bool,
    pub(crate) retry: RetryPolicy,
    /// By path: `/package.Service/Method`, or `/package.Service/` for all methods of a service.
    pub(crate) methods: BTreeMap<String, MethodConfig>,
}

impl CodeConfig {
    /// Refuses settings outside of their ranges, and texts that are no methods.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.retry.check()?;
        for (path, config) in &self.methods {
            retry::check_method("method with a config", path)?;
            config.check()?;
        }
        Ok(())
    }

    /// The settings that calls read. What `previous` ones know of earlier calls stays.
    pub(crate) fn compile(&self, previous: &CallSettings) -> CallSettings {
        let paths: BTreeSet<&String> = self.methods.keys().chain(self.retry.all_named()).collect();
        let of = |path: &str| self.settings_of(path, previous);
        CallSettings { default: of(""), by_path: paths.into_iter().map(|path| (path.clone(), of(path))).collect() }
    }

    /// What holds for the calls of a path that is that of a method, of a service, or empty.
    fn settings_of(&self, path: &str, previous: &CallSettings) -> MethodSettings {
        let entries = [self.methods.get(path), self.methods.get(service_of(path))];
        // Each setting for itself: of the method, else of its service.
        let own = || entries.into_iter().flatten();
        let retry = self.retry_of(path, own().find_map(|entry| entry.retry.as_ref()), previous);
        MethodSettings {
            timeout: match own().find_map(|entry| entry.timeout) {
                Some(TimeLimit::After(timeout)) => Some(timeout),
                Some(TimeLimit::None) => None,
                None => self.timeout,
            },
            wait_for_ready: own().find_map(|entry| entry.wait_for_ready).unwrap_or(self.wait_for_ready),
            max_request: MessageLimit::of(own().find_map(|entry| entry.max_request_message_bytes)),
            max_response: MessageLimit::of(own().find_map(|entry| entry.max_response_message_bytes)),
            retry: retry.map(Arc::new),
        }
    }

    fn retry_of(&self, path: &str, own: Option<&DeclaredRetry>, previous: &CallSettings) -> Option<MethodRetry> {
        if self.retry.is_never_repeated(path) {
            return None;
        }
        let durations = || previous.durations_of(path).unwrap_or_default();
        if let Some(DeclaredRetry { policy, is_streaming }) = own {
            let scope = if *is_streaming { RetryScope::UntilHead } else { RetryScope::UntilComplete };
            return Some(MethodRetry::of(policy, scope, durations));
        }
        let scope = self.retry.scope(path);
        (scope != RetryScope::Never).then(|| MethodRetry::of(&self.retry, scope, durations))
    }
}
