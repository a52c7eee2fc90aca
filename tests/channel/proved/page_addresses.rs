//! Pages of proxies that name the servers behind them.

use greeter_proto::testing::SimpleRequest;
use greeter_proto::testing::test_service_client::TestServiceClient;
use http::HeaderMap;

use crate::field::scripted::{Answer, Scripted};
use crate::support::{builder, over, ready};

/// F51 for the texts of F50: what Go's proxies say, and an address at the beginning of a line.
#[tokio::test]
async fn no_address_of_a_page_is_told() {
    for (page, addresses) in [
        ("read tcp 10.244.1.5:43210->10.96.0.1:443: read: connection reset by peer", &["10.244.1.5", "10.96.0.1"][..]),
        ("upstreams:\n10.244.1.5\n10.96.0.1\n", &["10.244.1.5", "10.96.0.1"][..]),
        ("upstreams:\t10.244.1.5\r\n", &["10.244.1.5"][..]),
    ] {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, "text/plain".parse().unwrap())]);
        let answer = Answer::Http { status: 502, headers, body: page.into(), ends: true };
        let scripted = Scripted::start(answer).await;
        let channel = over(builder(), [&scripted.address]);
        ready(&channel, 1).await;
        let call = TestServiceClient::new(channel.clone()).unary_call(SimpleRequest::default()).await;
        let status = call.unwrap_err();
        let told: Vec<_> = addresses.iter().filter(|address| status.message().contains(**address)).collect();
        assert!(told.is_empty(), "{told:?} stand in {:?}", status.message());
    }
}
