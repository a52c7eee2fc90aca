//! What a service config says that has no effect in a channel, because the code says something else or does not let it.

use crate::balance::shared::Settings;
use crate::service_config::{DeclaredRepeats, ServiceConfig, Warnings};

/// Each with its path and the reason.
pub(super) fn unused(settings: &Settings, document: &ServiceConfig, repeats: &[DeclaredRepeats]) -> Vec<String> {
    let unused = Warnings::default();
    for DeclaredRepeats { policy, methods } in repeats {
        if !methods.iter().any(|path| settings.calls.lets_document_repeat(path)) {
            unused.add(policy, "not used, the code does not say RetryPolicy::from_service_config for its methods");
        }
    }
    if document.retry_throttling.is_some() && !settings.calls.retry.is_from_service_config {
        unused.add("retryThrottling", "not used, RetryPolicy of the channel does not say from_service_config");
    }
    if document.load_balancing.is_some() && !settings.policy_from_service_config {
        unused.add("loadBalancingConfig", "not used, the code does not say policy_from_service_config");
    }
    if document.health_check_service.is_some() && settings.health_check.is_some() {
        unused.add("healthCheckConfig", "not used, the code has a health_check of its own");
    }
    if document.max_connections_per_subchannel.is_some() && settings.connections_per_server.is_some() {
        unused.add("connectionScaling", "not used, the code sets connections_per_server");
    }
    unused.into_list()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BalancedChannelBuilder, MethodConfig, RetryPolicy};

    const RETRY: &str = r#""retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s",
        "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}"#;

    /// The paths of what a document does not change.
    fn paths(builder: &BalancedChannelBuilder, text: &str) -> Vec<String> {
        let (document, remarks) = ServiceConfig::read(text.as_bytes(), 5).unwrap();
        let unused = unused(builder.settings_for_test(), &document, &remarks.repeats);
        unused.iter().map(|unused| unused.split_once(": not used, ").unwrap().0.to_owned()).collect()
    }

    #[test]
    fn each_field_has_an_effect_where_the_code_lets_it() {
        let with = BalancedChannelBuilder::default;
        for (text, closed, open) in [
            (r#"{"healthCheckConfig": {"serviceName": "a"}}"#, with().health_check("b"), with()),
            (r#"{"connectionScaling": {"maxConnectionsPerSubchannel": 2}}"#, with().connections_per_server(1), with()),
            (r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#, with(), with().policy_from_service_config()),
            (
                r#"{"retryThrottling": {"maxTokens": 9, "tokenRatio": 1}}"#,
                with(),
                with().retry(RetryPolicy::new().from_service_config()),
            ),
        ] {
            let field = text.split('"').nth(1).unwrap();
            assert_eq!(paths(&closed, text), [field]);
            assert!(paths(&open, text).is_empty(), "{field}");
        }
        assert!(paths(&with(), r#"{"methodConfig": [{"name": [{}], "timeout": "1s"}]}"#).is_empty());
    }

    #[test]
    fn repeats_have_an_effect_where_the_code_lets_one_of_their_methods() {
        let from = || RetryPolicy::new().from_service_config();
        let own = |path: &str| BalancedChannelBuilder::default().method_config(path, MethodConfig::new().retry(from()));
        for (name, builder, is_used) in [
            ("{}", BalancedChannelBuilder::default(), false),
            ("{}", BalancedChannelBuilder::default().retry(from()), true),
            ("{}", own("/a.B/Get"), true),
            (r#"{"service": "a.B"}"#, own("/a.B/Get"), true),
            (r#"{"service": "a.B", "method": "Get"}"#, own("/a.B/"), true),
            (r#"{"service": "a.B", "method": "Get"}"#, own("/a.B/Get"), true),
            (r#"{"service": "a.B", "method": "Get"}"#, own("/a.B/G"), false),
            (r#"{"service": "a.BB"}"#, own("/a.B/"), false),
            (r#"{"service": "a.B"}, {"service": "a.C"}"#, own("/a.C/"), true),
            (
                r#"{"service": "a.B", "method": "Get"}"#,
                BalancedChannelBuilder::default()
                    .retry(from())
                    .method_config("/a.B/Get", MethodConfig::new().retry(RetryPolicy::new())),
                false,
            ),
            (r#"{"service": "a.B"}"#, BalancedChannelBuilder::default().retry(from().never_repeat("/a.B/")), false),
            (r#"{"service": "a.B"}"#, BalancedChannelBuilder::default().retry(from().never_repeat("/a.B/Pay")), true),
        ] {
            let unused = paths(&builder, &format!(r#"{{"methodConfig": [{{}}, {{"name": [{name}], {RETRY}}}]}}"#));
            assert_eq!(unused.is_empty(), is_used, "{name}: {unused:?}");
            assert!(unused.iter().all(|path| path == "methodConfig[1].retryPolicy"), "{unused:?}");
        }
    }
}
