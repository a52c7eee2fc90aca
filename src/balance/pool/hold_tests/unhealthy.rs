//! Servers that are held and are asked for their health.

use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use super::*;

/// A server with the health service.
async fn start(servers: &Servers) -> (SocketAddr, HealthReporter) {
    let (reporter, health) = health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(health);
    let server = server.add_service(GreeterServer::new(servers.patient.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, reporter)
}

#[tokio::test]
async fn a_held_server_that_is_unhealthy_gets_no_call_and_stays() {
    let servers = Servers::new();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder().health_check("greeter"));
    let (address, reporter) = start(&servers).await;
    reporter.set_service_status("greeter", ServingStatus::Serving).await;
    feed.insert(0, address);
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    for status in [ServingStatus::Serving, ServingStatus::NotServing] {
        reporter.set_service_status("greeter", status).await;
        let state = if status == ServingStatus::Serving { ServerState::Ready } else { ServerState::Unhealthy };
        until("its health to be seen", || count(&channel, state) == 1).await;
        feed.doubt([0], Doubt::Sudden);
        sleep(Duration::from_millis(100)).await;
        reporter.set_service_status("greeter", ServingStatus::NotServing).await;
        until("it to be unhealthy", || count(&channel, ServerState::Unhealthy) == 1).await;
        let calls = servers.patient.calls.load(Ordering::SeqCst);
        assert_eq!(greet(&channel, "").await.unwrap_err().code(), tonic::Code::Unavailable);
        sleep(Duration::from_millis(1_200)).await;
        assert_eq!(count(&channel, ServerState::Unhealthy), 1, "it has answered the PING");
        assert_eq!(servers.patient.calls.load(Ordering::SeqCst), calls);
        reporter.set_service_status("greeter", ServingStatus::Serving).await;
        until("it to be held and healthy", || count(&channel, ServerState::Held) == 1).await;
        greet(&channel, "").await.unwrap();
        feed.insert_again(0);
        until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    }
}
