//! Answers of whoever is no gRPC server.

use std::time::Duration;

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{SimpleRequest, StreamingOutputCallRequest};
use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tonic_etcd::BalancedChannel;

use super::scripted::{Answer, Scripted};
use crate::support::{PATIENCE, builder, over, ready, told};

const PAGE: &str = "<html>\n<title>Welcome to \"nginx\"</title>";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    headers
}

fn page(status: u16, pairs: &[(&str, &str)], body: &str) -> Answer {
    Answer::Http { status, headers: headers(pairs), body: body.to_owned().into(), ends: true }
}

async fn call(channel: &BalancedChannel) -> Result<(), Status> {
    TestServiceClient::new(channel.clone()).unary_call(SimpleRequest::default()).await.map(drop)
}

async fn answered(answer: Answer) -> Result<(), Status> {
    let scripted = Scripted::start(answer).await;
    let channel = over(builder(), [&scripted.address]);
    ready(&channel, 1).await;
    let answered = call(&channel).await;
    assert_eq!(scripted.calls(), 1);
    answered
}

fn says(status: &Status, code: Code, parts: &[&str]) {
    assert_eq!(status.code(), code, "{status:?}");
    for part in parts {
        assert!(status.message().contains(part), "no {part:?} in {:?}", status.message());
    }
}

/// F50: HTTP 200 with `text/html`, no content type, and what only looks like gRPC's.
#[tokio::test]
async fn pages_are_told_as_what_they_are() {
    let escaped = "body \"<html>\\n<title>Welcome to \\\"nginx\\\"</title>\"";
    let status = answered(page(200, &[("content-type", "text/html")], PAGE)).await.unwrap_err();
    says(&status, Code::Unknown, &["HTTP 200 OK", "content type \"text/html\"", escaped]);
    let status = answered(page(200, &[], PAGE)).await.unwrap_err();
    says(&status, Code::Unknown, &["HTTP 200 OK", "no content type", escaped]);
    for other in ["application/grpc-web", "application/grpcish", "application/json"] {
        let status = answered(page(200, &[("content-type", other)], PAGE)).await.unwrap_err();
        says(&status, Code::Unknown, &["HTTP 200 OK", other, escaped]);
    }
    let status = answered(page(200, &[("content-type", "text/html")], "")).await.unwrap_err();
    says(&status, Code::Unknown, &["HTTP 200 OK", "text/html", "no body"]);
}

/// F50: gRPC's table holds for other statuses, with the same text.
#[tokio::test]
async fn other_http_statuses_keep_their_codes() {
    for (http, code) in [
        (400, Code::Internal),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (429, Code::Unavailable),
        (431, Code::Internal),
        (500, Code::Unknown),
        (502, Code::Unavailable),
        (503, Code::Unavailable),
        (504, Code::Unavailable),
    ] {
        let status = answered(page(http, &[("content-type", "text/plain")], "upstream gone")).await.unwrap_err();
        says(&status, code, &[&format!("HTTP {http}"), "text/plain", "body \"upstream gone\""]);
    }
}

/// F50: what has a status is gRPC whatever its content type; and the content types of gRPC are.
#[tokio::test]
async fn what_is_grpc_is_read_as_such() {
    for (http, content_type) in [(200, "text/html"), (200, "application/json"), (503, "text/plain")] {
        let told = [("content-type", content_type), ("grpc-status", "5"), ("grpc-message", "as told")];
        let status = answered(page(http, &told, "")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "as told"));
    }
    // An empty message; without trailers tonic takes that for an end.
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        let status = answered(page(200, &[("content-type", content_type)], "\0\0\0\0\0")).await;
        assert!(status.as_ref().map_or_else(|status| !status.message().contains("HTTP"), |()| true), "{status:?}");
    }
    let early = page(200, &[("content-type", "text/html"), ("grpc-status", "0")], "\0\0\0\0\0");
    answered(early).await.unwrap();
}

/// F50: the first 256 bytes.
#[tokio::test]
async fn long_pages_are_cut() {
    let status = answered(page(200, &[("content-type", "text/html")], &"ü".repeat(10_000))).await.unwrap_err();
    assert!(status.message().contains(&format!("\"{}\"", "ü".repeat(128))), "{status:?}");
}

/// F50: it is waited for at most 1 s, and never past the deadline; a body without an end is told of as far as it came.
#[tokio::test]
async fn pages_are_waited_for_briefly() {
    let endless = |body: &'static str| Answer::Http {
        status: 200,
        headers: headers(&[("content-type", "text/html")]),
        body: body.into(),
        ends: false,
    };
    for body in ["", "part of a page"] {
        let scripted = Scripted::start(endless(body)).await;
        let channel = over(builder(), [&scripted.address]);
        ready(&channel, 1).await;
        let began = Instant::now();
        let status = tokio::time::timeout(PATIENCE, call(&channel)).await.expect("it ends").unwrap_err();
        says(&status, Code::Unknown, &["HTTP 200 OK", "text/html", if body.is_empty() { "no body" } else { body }]);
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        let mut request = Request::new(StreamingOutputCallRequest::default());
        request.set_timeout(Duration::from_millis(200));
        let began = Instant::now();
        let status = TestServiceClient::new(channel.clone()).streaming_output_call(request).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        says(&status, Code::Unknown, &["HTTP 200 OK"]);
    }
}

/// F51 for the texts of F50: the addresses in pages are left out, at the beginning of a line and as Go writes a connection too.
/// Their source has the page as it came.
#[tokio::test]
async fn addresses_in_pages_are_not_told() {
    for (text, without) in [
        ("read tcp 10.244.1.5:43210->10.96.0.1:443: read: reset", "read tcp [address]->[address]: read: reset"),
        ("upstreams:\n10.244.1.5\ndb:5432\nfe80::1\n", "upstreams:\\n[address]\\n[address]\\n[address]\\n"),
        ("upstream:\t10.244.1.5\r\n", "upstream:\\t[address]\\r\\n"),
        ("2026/11/28 06:38:19 nginx/1.25.3: 3:4 gone", "2026/11/28 06:38:19 nginx/1.25.3: 3:4 gone"),
    ] {
        let status = answered(page(502, &[("content-type", "text/plain")], text)).await.unwrap_err();
        says(&status, Code::Unavailable, &[&format!("body \"{without}\"")]);
        let source = told(&status);
        assert!(source.contains(&text.escape_debug().to_string()), "{source}");
    }
    let status = answered(page(502, &[("content-type", "text/plain; by=10.0.0.5:80")], "")).await.unwrap_err();
    says(&status, Code::Unavailable, &["content type \"text/plain; by=[address]\", no body"]);
}
