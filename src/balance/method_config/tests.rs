//! Which setting holds for a call.

use std::sync::Arc;

use tonic::Code;

use super::*;
use crate::balance::builder::call_options::CallTimeout;
use crate::balance::call::retry::RetryScope;
use crate::balance::method_config::message_limit::MessageLimit;
use crate::service_config::ServiceConfig;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn code(methods: impl IntoIterator<Item = (&'static str, MethodConfig)>) -> CodeConfig {
    let methods = methods.into_iter().map(|(path, config)| (path.to_owned(), config)).collect();
    CodeConfig { timeout: Some(seconds(5)), methods, ..CodeConfig::default() }
}

fn compiled(code: &CodeConfig) -> CallSettings {
    code.check().unwrap();
    code.compile(None, &CallSettings::default())
}

#[test]
fn each_setting_is_of_the_method_or_else_of_its_service_or_else_of_the_channel() {
    let settings = compiled(&code([
        ("/a.B/", MethodConfig::new().timeout(seconds(1)).wait_for_ready(true).max_request_message_bytes(7)),
        ("/a.B/Watch", MethodConfig::new().no_timeout()),
        ("/a.B/Put", MethodConfig::new().wait_for_ready(false).max_response_message_bytes(9)),
    ]));
    let (unlimited, seven, nine) = (MessageLimit::of(None), MessageLimit::of(Some(7)), MessageLimit::of(Some(9)));
    for (path, timeout, wait, request, response) in [
        ("/a.B/Watch", None, true, seven, unlimited),
        ("/a.B/Put", Some(seconds(1)), false, seven, nine),
        ("/a.B/Get", Some(seconds(1)), true, seven, unlimited),
        ("/a.BB/Get", Some(seconds(5)), false, unlimited, unlimited),
        ("", Some(seconds(5)), false, unlimited, unlimited),
    ] {
        let method = settings.of(path);
        let found = (method.timeout, method.wait_for_ready, method.max_request, method.max_response);
        assert_eq!(found, (timeout, wait, request, response), "{path}");
        assert!(method.retry.is_none(), "{path}");
    }
    assert_eq!(compiled(&CodeConfig::default()).of("/a.B/Get").timeout, None);
}

#[test]
fn a_method_may_have_a_retry_policy_of_its_own() {
    let own = RetryPolicy::new().max_attempts(2).retryable_codes([Code::Aborted]).hedge_after(seconds(1));
    let config = MethodConfig::new().retry(own);
    let retry = RetryPolicy::new().repeatable_streaming("/a.B/").repeatable("/a.C/Get").never_repeat("/a.B/Pay");
    let pay = MethodConfig::new().retry(RetryPolicy::new());
    let code = CodeConfig { retry, ..code([("/a.B/Get", config), ("/a.B/Pay", pay.clone()), ("/a.D/", pay)]) };
    let settings = compiled(&code);
    let retry = |path| settings.of(path).retry.clone();
    let get = retry("/a.B/Get").unwrap();
    assert_eq!((get.scope, get.max_attempts, get.timing.is_set()), (RetryScope::UntilComplete, 2, true));
    assert!(get.has_code(Code::Aborted) && !get.has_code(Code::Unavailable) && !get.has_code(Code::Ok));
    let service = retry("/a.B/Any").unwrap();
    assert_eq!((service.scope, service.max_attempts, service.timing.is_set()), (RetryScope::UntilHead, 5, false));
    assert!(service.has_code(Code::Unavailable) && !service.has_code(Code::Unauthenticated));
    assert!(retry("/a.B/Pay").is_none(), "whatever else declares it");
    assert!(retry("/a.C/Get").is_some() && retry("/a.C/Put").is_none() && retry("/a.D/Any").is_some());
}

#[test]
fn a_service_that_is_never_retried_outweighs_its_methods() {
    let retry = RetryPolicy::new().never_repeat("a.B/").repeatable("/a.B/Get");
    let settings =
        compiled(&CodeConfig { retry, ..code([("/a.B/Put", MethodConfig::new().retry(RetryPolicy::new()))]) });
    assert!(["/a.B/Get", "/a.B/Put", "/a.B/Any"].iter().all(|path| settings.of(path).retry.is_none()));
}

#[test]
fn what_is_known_of_earlier_calls_stays() {
    let quantile = || RetryPolicy::new().hedge_after_quantile(0.9, seconds(1));
    let code = CodeConfig { retry: quantile().repeatable("/a.B/"), ..CodeConfig::default() };
    let first = compiled(&code);
    let durations =
        |settings: &CallSettings, path| settings.of(path).retry.as_ref().unwrap().durations.clone().unwrap();
    let second = code.compile(None, &first);
    assert!(Arc::ptr_eq(&durations(&first, "/a.B/Get"), &durations(&second, "/a.B/Put")));
    let own = CodeConfig { methods: [("/a.B/Get".to_owned(), MethodConfig::new().retry(quantile()))].into(), ..code };
    let third = own.compile(None, &second);
    assert!(Arc::ptr_eq(&durations(&second, "/a.B/Put"), &durations(&third, "/a.B/Put")));
    assert!(!Arc::ptr_eq(&durations(&third, "/a.B/Get"), &durations(&third, "/a.B/Put")), "an entry has its own");

    // What else is said of a method changes nothing of that.
    let text = r#"{"methodConfig": [{"name": [{"service": "a.B", "method": "Put"}], "timeout": "1s"}]}"#;
    let sizes = MethodConfig::new().max_response_message_bytes(1);
    let own = CodeConfig { methods: [("/a.B/Any".to_owned(), sizes)].into(), ..own };
    let fourth = own.compile(Some(&document(text)), &third);
    for path in ["/a.B/Put", "/a.B/Any", "/a.B/Get"] {
        assert!(Arc::ptr_eq(&durations(&third, "/a.B/Put"), &durations(&fourth, path)), "{path}");
    }
}

#[test]
fn waits_grow_to_their_cap() {
    let policy = RetryPolicy::new().backoff(Duration::from_millis(10), Duration::from_millis(50)).repeatable("/a.B/");
    let retry = compiled(&CodeConfig { retry: policy, ..CodeConfig::default() }).of("/a.B/Get").retry.clone().unwrap();
    let pauses: Vec<_> = (1..6).map(|attempts| retry.pause(attempts, 1.0).as_millis()).collect();
    assert_eq!(pauses, [10, 20, 40, 50, 50]);
    assert_eq!(retry.pause(3, 0.0), Duration::ZERO);
    assert_eq!(retry.pause(u32::MAX, 0.5).as_millis(), 25);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (path, config, named) in [
        ("/a.B/*", MethodConfig::new(), "method with a config"),
        ("/a.B/Get", MethodConfig::new().retry(RetryPolicy::new().max_attempts(0)), "max_attempts"),
        ("/a.B/Get", MethodConfig::new().retry(RetryPolicy::new().repeatable("/a.B/Put")), "/a.B/Put"),
        ("/a.B/Get", MethodConfig::new().retry_streaming(RetryPolicy::new().never_repeat("/a.B/Pay")), "/a.B/Pay"),
    ] {
        let error = code([(path, config)]).check().unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains(named), "{error}");
    }
}

fn document(text: &str) -> ServiceConfig {
    ServiceConfig::parse(text.as_bytes(), 5).unwrap()
}

#[test]
fn a_document_joins_the_code() {
    let text = r#"{"methodConfig": [
        {"name": [{}], "timeout": "3s", "waitForReady": true},
        {"name": [{"service": "a.B"}], "timeout": "2s", "maxRequestMessageBytes": 8},
        {"name": [{"service": "a.B", "method": "Get"}], "maxResponseMessageBytes": 9}
    ]}"#;
    let own = MethodConfig::new().max_request_message_bytes(7).max_response_message_bytes(10).no_timeout();
    let code = code([("/a.B/Put", own), ("/a.C/", MethodConfig::new().wait_for_ready(false))]);
    let settings = code.compile(Some(&document(text)), &CallSettings::default());
    let of = |bytes| MessageLimit::of(bytes);
    for (path, (timeout, limit), wait, request, response) in [
        ("/a.B/Get", (Some(seconds(5)), None), false, None, Some(9)), // entries of a document are not merged
        ("/a.B/Put", (None, Some(seconds(2))), false, Some(7), Some(10)),
        ("/a.B/Any", (Some(seconds(5)), Some(seconds(2))), false, Some(8), None),
        ("/a.C/Get", (Some(seconds(5)), Some(seconds(3))), false, None, None),
        ("/a.D/Get", (Some(seconds(5)), Some(seconds(3))), true, None, None),
    ] {
        let method = settings.of(path);
        let found = (method.timeout, method.document_timeout, method.wait_for_ready);
        assert_eq!(found, (timeout, limit, wait), "{path}");
        assert_eq!((method.max_request, method.max_response), (of(request), of(response)), "{path}");
    }
    let put = settings.of("/a.B/Put");
    assert_eq!(put.time_limit(None), Some(seconds(2)));
    assert_eq!(put.time_limit(Some(CallTimeout(Some(seconds(1))))), Some(seconds(1)));
    assert_eq!(settings.of("/a.D/Get").time_limit(Some(CallTimeout(None))), Some(seconds(3)));
}

#[test]
fn retries_of_a_document_hold_where_the_code_lets_them() {
    let retry = |attempts| {
        format!(
            r#""retryPolicy": {{"maxAttempts": {attempts}, "initialBackoff": "1s", "maxBackoff": "4s", "backoffMultiplier": 1.5,
            "retryableStatusCodes": ["ABORTED"]}}"#
        )
    };
    let hedging = r#""hedgingPolicy": {"maxAttempts": 2}"#;
    let text = format!(
        r#"{{"methodConfig": [
            {{"name": [{{"service": "a.B"}}], {}}},
            {{"name": [{{"service": "a.B", "method": "Hedge"}}], {hedging}}}
        ], "retryThrottling": {{"maxTokens": 7, "tokenRatio": 0.5}}}}"#,
        retry(4)
    );
    let document = document(&text);
    let own = RetryPolicy::new().repeatable("/a.B/Own").repeatable("/a.C/").never_repeat("/a.B/Pay");
    let closed = CodeConfig { retry: own.clone(), ..CodeConfig::default() };
    let settings = closed.compile(Some(&document), &CallSettings::default());
    assert!(settings.of("/a.B/Get").retry.is_none() && settings.of("/a.B/Own").retry.is_some());
    assert_eq!(closed.budget(Some(&document)), None);
    let of_method = code([("/a.B/Get", MethodConfig::new().retry(RetryPolicy::new().from_service_config()))]);
    assert_eq!(of_method.budget(Some(&document)), Some((7.0, 0.5)), "one that lets the document is enough");

    let open = CodeConfig { retry: own.from_service_config(), ..CodeConfig::default() };
    let settings = open.compile(Some(&document), &CallSettings::default());
    let get = settings.of("/a.B/Get").retry.clone().unwrap();
    assert_eq!((get.scope, get.max_attempts, get.timing.is_set()), (RetryScope::UntilHead, 4, false));
    assert!(get.has_code(Code::Aborted) && !get.has_code(Code::Unavailable));
    let pauses: Vec<_> = (1..6).map(|attempts| get.pause(attempts, 1.0).as_millis()).collect();
    assert_eq!(pauses, [1_000, 1_500, 2_250, 3_375, 4_000]);
    let hedge = settings.of("/a.B/Hedge").retry.clone().unwrap();
    assert_eq!((hedge.scope, hedge.max_attempts, hedge.timing.is_set()), (RetryScope::UntilComplete, 2, true));
    assert_eq!(settings.of("/a.B/Own").retry.as_ref().unwrap().max_attempts, 4, "the document's");
    assert!(settings.of("/a.B/Pay").retry.is_none() && settings.of("/a.C/Get").retry.is_some());
    assert_eq!((open.budget(Some(&document)), open.budget(None)), (Some((7.0, 0.5)), Some((100.0, 0.1))));
}

#[test]
fn a_document_may_ask_for_as_many_attempts_as_the_code() {
    let retry = RetryPolicy::new().max_attempts(7);
    assert_eq!(CodeConfig::default().most_attempts(), 5);
    assert_eq!(CodeConfig { retry: retry.clone(), ..CodeConfig::default() }.most_attempts(), 7);
    assert_eq!(code([("/a.B/", MethodConfig::new().retry(retry))]).most_attempts(), 7);
}
