//! gRPC's service config of a channel: what it changes, who wins, and where it comes from.

use std::sync::Arc;
use std::time::Duration;

use test_support::Log;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::{Code, Request};
use tonic_etcd::{
    BalancedChannel, BalancedChannelBuilder, CallTimeout, MethodConfig, RetryPolicy, ServiceConfigSource, WaitForReady,
    check_service_config,
};

use crate::method_config::{failing_first, greet_by_name};
use crate::peer::{Peer, Script};
use crate::support::{SAY_HELLO, builder, changing, greet, greeted_by, over, ready};

/// A document with these fields for the greeter.
fn document(fields: &str) -> String {
    format!(r#"{{"methodConfig": [{{"name": [{{"service": "helloworld.Greeter"}}], {fields}}}]}}"#)
}

/// What becomes of a call to a server that never answers, with this limit of its own, and after what time.
async fn silent(builder: BalancedChannelBuilder, own: Option<CallTimeout>) -> (Code, Duration) {
    let peer = Peer::start(Script::Silence).await;
    let channel = over(builder, [&peer.address]);
    ready(&channel, 1).await;
    timed(&channel, own).await
}

async fn timed(channel: &BalancedChannel, own: Option<CallTimeout>) -> (Code, Duration) {
    let mut request = Request::new(greeter_proto::HelloRequest { name: "world".into() });
    request.extensions_mut().extend(
        own.map(|own| {
            let mut extensions = tonic::Extensions::new();
            extensions.insert(own);
            extensions
        })
        .unwrap_or_default(),
    );
    let began = Instant::now();
    let mut client = greeter_proto::greeter_client::GreeterClient::new(channel.clone());
    let status = client.say_hello(request).await.unwrap_err();
    (status.code(), began.elapsed())
}

#[tokio::test]
async fn the_earliest_of_all_time_limits_holds() {
    let with = |timeout: &str| builder().service_config(document(&format!(r#""timeout": "{timeout}""#)));
    let millis = Duration::from_millis;
    for (builder, own) in [
        (with("0.2s"), None),
        (with("0.2s"), Some(CallTimeout(None))), // lifts the code's alone
        (with("0.2s").timeout(millis(5_000)), Some(CallTimeout(Some(millis(9_000))))),
        (with("5s").timeout(millis(200)), None),
        (with("5s"), Some(CallTimeout(Some(millis(200))))),
        (with("0.2s").method_config(SAY_HELLO, MethodConfig::new().no_timeout()), None),
    ] {
        let (code, took) = silent(builder, own).await;
        assert_eq!(code, Code::DeadlineExceeded);
        assert!(took >= millis(190) && took < millis(2_000), "{took:?}");
    }
}

#[tokio::test]
async fn who_waits_for_ready_is_said_by_the_call_then_the_code_then_the_document() {
    let waiting = document(r#""waitForReady": true, "timeout": "0.3s""#);
    for (builder, own, waits) in [
        (builder(), None, true),
        (builder(), Some(WaitForReady(false)), false),
        (builder().wait_for_ready(false), None, false),
        (builder().wait_for_ready(false), Some(WaitForReady(true)), true),
        (builder().method_config(SAY_HELLO, MethodConfig::new().wait_for_ready(false)), None, false),
    ] {
        let (channel, set) = changing(builder.service_config(waiting.clone()));
        set.add("127.0.0.1:1".parse().unwrap());
        let failing = || channel.state() == tonic_etcd::ConnectivityState::TransientFailure;
        crate::support::until("the only server to fail", failing).await;
        let mut request = Request::new(greeter_proto::HelloRequest { name: "world".into() });
        if let Some(own) = own {
            request.extensions_mut().insert(own);
        }
        let mut client = greeter_proto::greeter_client::GreeterClient::new(channel);
        let code = client.say_hello(request).await.unwrap_err().code();
        assert_eq!(code, if waits { Code::DeadlineExceeded } else { Code::Unavailable });
    }
}

#[tokio::test]
async fn the_smaller_of_two_sizes_holds() {
    let peer = Peer::start(Script::Greet).await;
    let limited = document(r#""maxRequestMessageBytes": 102"#);
    for (code, good) in [(None, 100), (Some(90), 88), (Some(1_000), 100)] {
        let config = code.map_or(MethodConfig::new(), |code| MethodConfig::new().max_request_message_bytes(code));
        let channel = over(builder().method_config(SAY_HELLO, config).service_config(limited.clone()), [&peer.address]);
        greet_by_name(&channel, good).await.unwrap();
        let status = greet_by_name(&channel, good + 1).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{code:?}");
    }
}

const RETRY: &str = r#""retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.1s",
    "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}"#;

#[tokio::test]
async fn a_document_causes_repeats_only_where_the_code_lets_it() {
    for (retry, is_retried) in [
        (None, false),
        (Some(RetryPolicy::new()), false),
        (Some(RetryPolicy::new().from_service_config()), true),
        (Some(RetryPolicy::new().from_service_config().never_repeat(SAY_HELLO)), false),
    ] {
        let with = builder().service_config(document(RETRY));
        let with = retry.map_or(with.clone(), |retry| with.retry(retry));
        let (_failing, good, channel) = failing_first(with).await;
        let result = greet(&channel).await;
        assert_eq!((result.is_ok(), good.seen.calls()), (is_retried, usize::from(is_retried)));
    }
}

#[tokio::test]
async fn a_document_may_hedge() {
    let hedging =
        document(r#""hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.05s", "nonFatalStatusCodes": [14]}"#);
    let (silent, good) = (Peer::start(Script::Silence).await, Peer::start(Script::Greet).await);
    let retry = RetryPolicy::new().from_service_config();
    let channel = over(builder().retry(retry).service_config(hedging), [&silent.address, &good.address]);
    ready(&channel, 2).await;
    let hedges = || channel.servers().iter().map(tonic_etcd::ServerStatus::hedges).sum::<u64>();
    // Which server a call goes to first is chance.
    for _ in 0..1_000 {
        assert_eq!(greeted_by(&channel).await, good.address.to_string());
        if silent.seen.calls() > 0 && hedges() > 0 {
            return;
        }
    }
    panic!("{} calls of the silent server, {} hedges", silent.seen.calls(), hedges());
}

#[tokio::test]
async fn a_document_in_code_that_is_invalid_is_refused_by_its_path() {
    let invalid = document(&RETRY.replace('3', "1"));
    let discover =
        tokio_stream::empty::<Result<tower::discover::Change<u8, tonic_etcd::Instance>, std::convert::Infallible>>();
    let error = builder().service_config(invalid).build_with_discovery("greeter", discover).unwrap_err();
    assert!(error.is_invalid_argument());
    assert!(error.to_string().contains("methodConfig[0].retryPolicy.maxAttempts"), "{error}");
}

#[tokio::test]
async fn a_document_that_changes_holds_for_calls_that_begin_later_and_a_broken_one_changes_nothing() {
    let (log, _guard) = Log::begin();
    let text = |timeout: &str| -> Arc<str> { document(&format!(r#""timeout": "{timeout}""#)).into() };
    let (documents, updates) = watch::channel::<Arc<str>>("broken".into());
    let peer = Peer::start(Script::Silence).await;
    let channel = over(builder().timeout(Duration::from_millis(300)).service_config_updates(updates), [&peer.address]);
    ready(&channel, 1).await;
    // The first one is broken: the code's settings hold.
    assert_eq!(channel.service_config().source(), Some(&ServiceConfigSource::Updates));
    assert!(channel.service_config().error().unwrap().starts_with("the document "), "{:?}", channel.service_config());
    let (code, took) = timed(&channel, None).await;
    assert!(code == Code::DeadlineExceeded && took > Duration::from_millis(250), "{took:?}");

    documents.send_replace(text("0.05s"));
    let in_force = |wanted: &str| channel.service_config().text().is_some_and(|text| text.contains(wanted));
    crate::support::until("the document", || in_force("0.05s")).await;
    assert_eq!(channel.service_config().error(), None);
    assert!(timed(&channel, None).await.1 < Duration::from_millis(250));

    for _ in 0..3 {
        documents.send_replace(text("five"));
        crate::support::until("word of it", || channel.service_config().error().is_some()).await;
        sleep(Duration::from_millis(20)).await;
    }
    let status = channel.service_config();
    assert!(status.error().unwrap().starts_with("methodConfig[0].timeout: "), "{status:?}");
    assert!(in_force("0.05s"));
    assert!(timed(&channel, None).await.1 < Duration::from_millis(250));
    documents.send_replace("{}".into());
    crate::support::until("the empty document", || channel.service_config().text() == Some("{}")).await;
    assert!(timed(&channel, None).await.1 > Duration::from_millis(250), "the code's time is back");
    drop(documents);
    sleep(Duration::from_millis(20)).await;
    assert_eq!((channel.service_config().text(), channel.service_config().error()), (Some("{}"), None));
    assert_eq!(log.warned("service config refused, settings unchanged"), 2, "{}", log.text());
    assert_eq!(log.count("service config in force"), 2);
}

#[tokio::test]
async fn what_has_no_effect_is_told_by_the_status_and_the_log() {
    let (log, _guard) = Log::begin();
    let text = |fields: &str| -> Arc<str> { document(fields).into() };
    let (documents, updates) = watch::channel(text(r#""timeOut": "1s""#));
    let peer = Peer::start(Script::Greet).await;
    let channel = over(builder().service_config_updates(updates), [&peer.address]);
    let typo = "methodConfig[0].timeOut: is not known here, and is ignored";
    assert_eq!(channel.service_config().warnings(), [typo]);
    assert_eq!((log.warned("service config has warnings"), log.count(typo)), (1, 1), "{}", log.text());

    documents.send_replace(text(RETRY));
    let unused = "methodConfig[0].retryPolicy: not used, ";
    let tells = || channel.service_config().warnings().iter().any(|warning| warning.starts_with(unused));
    crate::support::until("word of the policy", tells).await;
    assert_eq!(channel.service_config().warnings().len(), 1);
    assert_eq!((log.count(unused), log.count(" WARN ")), (1, 1), "{}", log.text());

    documents.send_replace(text(r#""timeout": "1s""#));
    crate::support::until("a good one", || channel.service_config().warnings().is_empty()).await;
    documents.send_replace("broken".into());
    crate::support::until("word of the broken one", || channel.service_config().error().is_some()).await;
    assert_eq!(channel.service_config().error_source(), Some(&ServiceConfigSource::Updates));
    assert_eq!(log.count(" WARN "), 2, "{}", log.text());
}

#[test]
fn a_document_can_be_checked_before_it_is_put() {
    assert!(check_service_config(&document(r#""timeout": "1s""#)).unwrap().is_empty());
    let warnings = check_service_config(&document(r#""timeout": "0s""#)).unwrap();
    assert_eq!(warnings, ["methodConfig[0].timeout: is 0: every call fails"]);
    for (text, shown) in [
        ("{\"x\"", "invalid service config \"{\\\"x\\\"\": the document is not JSON: "),
        ("", "invalid service config \"\": the document is not JSON: "),
        (&document(r#""timeout": "soon""#), "invalid service config \"methodConfig[0].timeout\": is \"soon\": "),
    ] {
        let error = check_service_config(text).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().starts_with(shown), "{error}");
    }
    assert!(check_service_config(&"x".repeat(10_000)).unwrap_err().to_string().len() < 200);
}

#[tokio::test]
async fn a_file_is_followed() {
    let (log, _guard) = Log::begin();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service_config.json");
    let peer = Peer::start(Script::Silence).await;
    let channel = over(builder().timeout(Duration::from_secs(3)).service_config_file(&path), [&peer.address]);
    ready(&channel, 1).await;
    let status = channel.service_config();
    assert!(status.error().unwrap().contains("service_config.json") && status.text().is_none(), "{status:?}");
    let replace = |text: &str| {
        let other = folder.path().join("new");
        std::fs::write(&other, text).unwrap();
        std::fs::rename(other, &path).unwrap();
    };
    replace(&document(r#""timeout": "0.1s""#));
    crate::support::until("the file", || channel.service_config().error().is_none()).await;
    assert!(timed(&channel, None).await.1 < Duration::from_secs(2));
    replace("{");
    crate::support::until("word of the broken one", || channel.service_config().error().is_some()).await;
    std::fs::remove_file(&path).unwrap();
    crate::support::until("word of the missing one", || {
        channel.service_config().error().is_some_and(|error| error.contains("service_config.json"))
    })
    .await;
    assert!(timed(&channel, None).await.1 < Duration::from_secs(2), "the last good one stays in force");
    let refused = log.warned("service config refused, settings unchanged");
    let unreadable = log.warned("service config unreadable, settings unchanged");
    assert_eq!((refused, unreadable), (1, 2), "{}", log.text());
}

#[tokio::test]
async fn a_document_sets_the_policy_only_where_the_code_lets_it() {
    let peers = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
    let addresses = peers.iter().map(|peer| &peer.address);
    let first: Arc<str> = r#"{"loadBalancingConfig": [{"pick_first": {}}]}"#.into();
    let spread = async |channel: &BalancedChannel| {
        let before: Vec<usize> = peers.iter().map(|peer| peer.seen.calls()).collect();
        for _ in 0..20 {
            greet(channel).await.unwrap();
        }
        peers.iter().zip(before).filter(|(peer, before)| peer.seen.calls() > *before).count()
    };
    let channel = over(builder().service_config(&*first), addresses.clone());
    ready(&channel, 2).await;
    assert_eq!(spread(&channel).await, 2);

    let (documents, updates) = watch::channel(first);
    let channel = over(builder().policy_from_service_config().service_config_updates(updates), addresses);
    ready(&channel, 2).await;
    assert_eq!(spread(&channel).await, 1);
    for (text, servers) in [
        (r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#, 2),
        (r#"{"loadBalancingConfig": [{"outlier_detection_experimental": {"childPolicy": [{"pick_first": {}}]}}]}"#, 1),
        ("{}", 2),
    ] {
        documents.send_replace(text.into());
        crate::support::until(text, || channel.service_config().text() == Some(text)).await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(spread(&channel).await, servers, "{text}");
    }
}
