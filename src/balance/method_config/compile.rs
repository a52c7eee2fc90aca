//! From the settings of the user's code to those that calls read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::call::attempts::durations::Durations;
use crate::balance::call::retry::{self, RetryPolicy, RetryScope, service_of};
use crate::balance::method_config::message_limit::MessageLimit;
use crate::balance::method_config::settings::{CallSettings, MethodRetry, MethodSettings};
use crate::balance::method_config::{DeclaredRetry, MethodConfig, TimeLimit};
use crate::error::Error;
use crate::service_config::{MethodParams, ServiceConfig};

/// The most attempts that a service config can ask for (gRFC A6), unless the code allows more.
const MOST_ATTEMPTS: u32 = 5;
/// The path of the entry for all methods.
const ALL_METHODS: &str = "/";

/// What the user's code says of the calls of a channel.
#[derive(Clone, Default)]
pub(crate) struct CodeConfig {
    /// The channel's own settings. `None` is no limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: Option<bool>,
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

    /// The most attempts that a document can ask for: gRPC's 5, or more if the code allows more.
    pub(crate) fn most_attempts(&self) -> u32 {
        let own =
            self.methods.values().filter_map(|config| config.retry.as_ref()).map(|retry| retry.policy.max_attempts);
        own.chain([MOST_ATTEMPTS, self.retry.max_attempts]).max().unwrap_or(MOST_ATTEMPTS)
    }

    /// The tokens of the retry budget, and what an OK call puts back, if a document may change that: whoever lets it say when calls are
    /// retried wants it to say how often, too.
    pub(crate) fn budget(&self, document: Option<&ServiceConfig>) -> Option<(f64, f64)> {
        let own = self.methods.values().filter_map(|config| config.retry.as_ref()).map(|retry| &retry.policy);
        own.chain([&self.retry]).any(|policy| policy.is_from_service_config).then(|| {
            let throttling = document.and_then(|document| document.retry_throttling);
            throttling.map_or(self.retry.tokens(), |throttling| (throttling.max_tokens, throttling.token_ratio))
        })
    }

    /// Whether a document may say how calls are repeated: those of this method, or of one at least of this service, or of all.
    pub(crate) fn lets_document_repeat(&self, path: &str) -> bool {
        let policy_of = |path: &str| self.methods.get(path)?.retry.as_ref().map(|retry| &retry.policy);
        if self.retry.is_never_repeated(path) {
            return false;
        }
        if !path.ends_with('/') {
            let policy = policy_of(path).or_else(|| policy_of(service_of(path))).unwrap_or(&self.retry);
            return policy.is_from_service_config;
        }
        let mut own = self.methods.keys().filter(|own| own.starts_with(path)).filter_map(|own| policy_of(own));
        self.retry.is_from_service_config || own.any(|policy| policy.is_from_service_config)
    }

    /// The settings that calls read, with those of a service config. What `previous` ones know of earlier calls stays.
    pub(crate) fn compile(&self, document: Option<&ServiceConfig>, previous: &CallSettings) -> CallSettings {
        let named =
            document.into_iter().flat_map(|document| document.methods.keys()).filter(|path| *path != ALL_METHODS);
        let paths: BTreeSet<&String> = self.methods.keys().chain(self.retry.all_named()).chain(named).collect();
        let mut durations = DeclaredDurations { previous: &previous.durations, present: BTreeMap::new() };
        let mut of =
            |path: &str| self.settings_of(path, document.and_then(|document| document.method(path)), &mut durations);
        let default = of("");
        let by_path = paths.into_iter().map(|path| (path.clone(), of(path))).collect();
        CallSettings { default, by_path, durations: durations.present }
    }

    /// What holds for the calls of a path that is that of a method, of a service, or empty.
    fn settings_of(
        &self,
        path: &str,
        params: Option<&Arc<MethodParams>>,
        durations: &mut DeclaredDurations<'_>,
    ) -> MethodSettings {
        let names = [path, service_of(path)];
        let entries = names.map(|name| self.methods.get(name));
        // Each setting for itself: of the method, else of its service.
        let own = || entries.into_iter().flatten();
        let own_retry = |name| Some((name, self.methods.get(name)?.retry.as_ref()?));
        let retry = self.retry_of(path, names.into_iter().find_map(own_retry), params, durations);
        let params = params.map(|params| &**params);
        // Of two limits the smaller holds.
        let max_request = own().find_map(|entry| entry.max_request_message_bytes);
        let max_request = max_request.into_iter().chain(params.and_then(|params| params.max_request_bytes)).min();
        let max_response = own().find_map(|entry| entry.max_response_message_bytes);
        let max_response = max_response.into_iter().chain(params.and_then(|params| params.max_response_bytes)).min();
        let wait_for_ready = own().find_map(|entry| entry.wait_for_ready).or(self.wait_for_ready);
        MethodSettings {
            timeout: match own().find_map(|entry| entry.timeout) {
                Some(TimeLimit::After(timeout)) => Some(timeout),
                Some(TimeLimit::None) => None,
                None => self.timeout,
            },
            document_timeout: params.and_then(|params| params.timeout),
            wait_for_ready: wait_for_ready.or(params.and_then(|params| params.wait_for_ready)).unwrap_or_default(),
            max_request: MessageLimit::of(max_request),
            max_response: MessageLimit::of(max_response),
            retry: retry.map(Arc::new),
        }
    }

    fn retry_of(
        &self,
        path: &str,
        own: Option<(&str, &DeclaredRetry)>,
        params: Option<&Arc<MethodParams>>,
        durations: &mut DeclaredDurations<'_>,
    ) -> Option<MethodRetry> {
        if self.retry.is_never_repeated(path) {
            return None;
        }
        if own.map_or(&self.retry, |(_, own)| &own.policy).is_from_service_config
            && let Some(retry) = params.and_then(|params| MethodRetry::of_document(params))
        {
            return Some(retry);
        }
        if let Some((name, DeclaredRetry { policy, is_streaming })) = own {
            let scope = if *is_streaming { RetryScope::UntilHead } else { RetryScope::UntilComplete };
            return Some(MethodRetry::of(policy, scope, || durations.of(name)));
        }
        let (name, scope) = self.retry.declared(path)?;
        Some(MethodRetry::of(&self.retry, scope, || durations.of(name)))
    }
}

/// The durations of calls by what declares them as safe to retry: all methods of a declared service have the same, whatever else is
/// said of one of them.
struct DeclaredDurations<'a> {
    /// Those that are known from before.
    previous: &'a BTreeMap<String, Arc<Durations>>,
    present: BTreeMap<String, Arc<Durations>>,
}

impl DeclaredDurations<'_> {
    /// Of the method or service of this name.
    fn of(&mut self, name: &str) -> Arc<Durations> {
        let known = || self.previous.get(name).cloned().unwrap_or_default();
        self.present.entry(name.to_owned()).or_insert_with(known).clone()
    }
}
