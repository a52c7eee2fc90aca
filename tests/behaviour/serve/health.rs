//! What the server's health service says decides.

use std::time::Duration;

use greeter_proto::greeter_server::GreeterServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::{Endpoint, Server};
use tonic_etcd::{Error, Registrar, Serve, ServeControl, ServeState};
use tonic_health::ServingStatus::{NotServing, Serving};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::{HealthReporter, health_reporter};

use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::{Me, gone, registrar, there};
use crate::support::{PATIENCE, World, until};

struct Served {
    reporter: HealthReporter,
    keys: [String; 2],
    control: ServeControl,
    task: JoinHandle<Result<(), Error>>,
    health: HealthClient<tonic::transport::Channel>,
}

impl Served {
    /// A server of two services with health.
    async fn start(registrar: &Registrar, say: impl FnOnce(Serve, &HealthReporter) -> Serve) -> Self {
        let (reporter, health) = health_reporter();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = say(registrar.service("s").propagation_delay(Duration::ZERO), &reporter);
        let control = serve.control();
        let router = Server::builder().add_service(health).add_service(GreeterServer::new(Me::default()));
        let task = tokio::spawn(serve.serve(router, listener, std::future::pending()));
        let health = HealthClient::new(Endpoint::try_from(format!("http://{address}")).unwrap().connect_lazy());
        let keys = ["s", "other"].map(|service| format!("{service}/{address}"));
        Self { reporter, keys, control, task, health }
    }

    async fn serving(&self) {
        let serving = async || matches!(self.control.state(), ServeState::Serving).then_some(());
        until("serving", serving).await;
    }

    async fn said_of(&mut self, name: &str) -> ServingStatus {
        let request = HealthCheckRequest { service: name.into() };
        self.health.check(request).await.unwrap().into_inner().status()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_is_there_while_it_serves_and_none_while_the_server_does_not() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let mut served = Served::start(&registrar, |serve, reporter| {
        let serve = serve.health(reporter).health_of::<GreeterServer<Me>>();
        serve.service("other").health_name("other.Other").propagation_delay(Duration::from_millis(300))
    })
    .await;
    let [greeter, other] = served.keys.clone();
    served.serving().await;
    // Nobody has said yet that they serve.
    assert!(world.contents("").await.is_empty());
    served.reporter.set_serving::<GreeterServer<Me>>().await;
    there(&world, &greeter).await;
    assert!(world.lease_of(&other).await.is_none());
    let lease = registrar.lease_id();
    served.reporter.set_service_status("other.Other", Serving).await;
    there(&world, &other).await;
    served.control.ready(PATIENCE).await.unwrap();

    served.reporter.set_not_serving::<GreeterServer<Me>>().await;
    gone(&world, &greeter).await;
    assert!(world.lease_of(&other).await.is_some() && !served.control.is_ready());
    let why = served.control.registrations().iter().find_map(|(_, state)| state.why().map(ToString::to_string));
    assert!(why.as_ref().is_some_and(|why| why.contains("said not to serve")), "{why:?}");
    served.reporter.set_service_status("", NotServing).await;
    gone(&world, &other).await;
    served.reporter.set_service_status("", Serving).await;
    there(&world, &other).await;
    served.reporter.set_serving::<GreeterServer<Me>>().await;
    there(&world, &greeter).await;
    assert_eq!(registrar.lease_id(), lease);
    // What it forgets does not serve, until it is told of it again.
    served.reporter.clear_service_status("other.Other").await;
    gone(&world, &other).await;
    served.reporter.set_service_status("other.Other", Serving).await;
    there(&world, &other).await;

    // Nothing serves once it has left, and not before.
    assert_eq!(served.said_of("").await, ServingStatus::Serving);
    served.control.stop();
    gone(&world, &greeter).await;
    assert_eq!(served.said_of("helloworld.Greeter").await, ServingStatus::Serving, "clients may still call");
    served.task.await.unwrap().unwrap();
    let health = tonic_health::server::HealthService::from_health_reporter(served.reporter.clone());
    for name in ["", "helloworld.Greeter", "other.Other"] {
        use tonic_health::pb::health_server::Health as _;
        let request = tonic::Request::new(HealthCheckRequest { service: name.into() });
        let said = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(said, ServingStatus::NotServing, "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_names_the_server_as_a_whole_decides() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let mut served = Served::start(&registrar, |serve, reporter| serve.health(reporter).service("other")).await;
    served.control.ready(PATIENCE).await.unwrap();
    assert_eq!(world.contents("").await.len(), 2);
    served.reporter.set_service_status("", NotServing).await;
    for key in &served.keys {
        gone(&world, key).await;
    }
    // That it is not said to serve does not mean that it does not.
    served.reporter.clear_service_status("").await;
    for key in &served.keys {
        there(&world, key).await;
    }
    served.control.stop();
    served.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_health_service_is_refused() {
    let world = World::start().await;
    let served = Served::start(&registrar(&world), |serve, _| serve.health_of::<GreeterServer<Me>>()).await;
    let error = served.task.await.unwrap().unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().contains("Serve::health"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_are_services_beside_ones_own() {
    let world = World::start().await;
    let (reporter, health) = health_reporter();
    reporter.set_serving::<GreeterServer<Me>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(greeter_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .unwrap();
    let router =
        Server::builder().add_service(health).add_service(reflection).add_service(GreeterServer::new(Me::default()));
    let serve = registrar(&world).service("s").health(&reporter).health_of::<GreeterServer<Me>>();
    let serve = serve.propagation_delay(Duration::ZERO).drain_timeout(PATIENCE * 2);
    let control = serve.control();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let task = tokio::spawn(serve.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();

    // Found by etcd, as all of its services are.
    let channel = world.resolver().channel("s").unwrap();
    let ask = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let list = tokio_stream::iter([ask(MessageRequest::ListServices(String::new()))]);
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(list).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| &*service.name).collect();
    for name in ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "helloworld.Greeter"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let mut health = HealthClient::new(channel);
    let request = HealthCheckRequest { service: "helloworld.Greeter".into() };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    // Who watches is told before GOAWAY comes, and is a call in flight until it goes.
    control.stop();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    drop((watch, answers));
    task.await.unwrap().unwrap();
}
