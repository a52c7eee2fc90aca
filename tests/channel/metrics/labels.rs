//! Labels that are recorded only where they are asked for.

use tonic_etcd::{Instance, metrics::Metrics};

use super::{ATTEMPTS, CALLS, METHOD, SENT, STARTED, TARGET, recorder};
use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, ready, until};

fn labels(status: &str, more: &str) -> String {
    format!(r#"grpc.method="{METHOD}",grpc.target="{TARGET}",grpc.status="{status}"{more}"#)
}

#[tokio::test]
async fn the_zone_and_the_server_of_an_attempt_are_labels_where_they_are_asked_for() {
    type Ask = fn(Metrics) -> Metrics;
    let cases: [(Ask, bool, bool); 4] = [
        (|metrics| metrics, false, false),
        (Metrics::locality_label, true, false),
        (Metrics::server_label, false, true),
        (|metrics| metrics.locality_label().server_label(), true, true),
    ];
    for (ask, locality, server) in cases {
        let (recorder, metrics) = recorder();
        let peer = Peer::start(Script::Greet).await;
        let (channel, set) = changing(builder().metrics(ask(metrics)).timeout(std::time::Duration::from_millis(300)));
        let text = |zone: &str, address: &str| {
            let zone = if locality { format!(",grpc.lb.locality={zone:?}") } else { String::new() };
            let server = if server { format!(",tonic_etcd.server={address:?}") } else { String::new() };
            format!("{zone}{server}")
        };
        greet(&channel).await.unwrap_err();
        assert_eq!(recorder.series(ATTEMPTS), [labels("DEADLINE_EXCEEDED", &text("", ""))]);
        set.put("one", Instance::new(peer.address).unwrap().with_zone("a"));
        ready(&channel, 1).await;
        greet(&channel).await.unwrap();
        let address = peer.address.to_string();
        for instrument in [ATTEMPTS, SENT] {
            let expected = [labels("DEADLINE_EXCEEDED", &text("", "")), labels("OK", &text("a", &address))];
            assert_eq!(recorder.series(instrument), expected);
        }
        assert_eq!(recorder.count(ATTEMPTS, &[]), 2, "each attempt once");
        assert_eq!(recorder.series(CALLS), [labels("DEADLINE_EXCEEDED", ""), labels("OK", "")]);
        assert_eq!(recorder.series(STARTED), [format!(r#"grpc.method="{METHOD}",grpc.target="{TARGET}""#)]);
        let open = recorder.series("grpc.subchannel.open_connections");
        assert_eq!(open, [format!("grpc.target={TARGET:?}{}", text("a", &address))]);
        super::check(&channel, &recorder);
        // Its series go with the server.
        let bound = recorder.live();
        set.remove("one");
        until("the server to go", || channel.servers().is_empty()).await;
        if locality || server {
            until("its series to go", || recorder.live() < bound).await;
        }
        assert_eq!(recorder.values("grpc.subchannel.open_connections", &[]).value, 0.0);
    }
}
