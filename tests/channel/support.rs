//! What the tests of the channel share.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::{HelloReply, HelloRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Response, Status};
use tonic_etcd::policy::{Call, Pick, Picker, ReadySet};
use tonic_etcd::{
    BalancedChannel, BalancedChannelBuilder, CallError, Instance, Policy, RetryPolicy, ServedBy, ServerState,
};
use tower::discover::Change;

/// How long a condition may take before the test fails: far longer than it ever should.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const SAY_HELLO: &str = "/helloworld.Greeter/SayHello";

/// Any policy, where several are tried.
pub(crate) fn shared(policy: impl Policy) -> Arc<dyn Policy> {
    Arc::new(policy)
}

/// A set of servers that the test changes while the channel runs.
pub(crate) struct Set(mpsc::UnboundedSender<Result<Change<String, Instance>, Infallible>>);

impl Set {
    pub(crate) fn put(&self, key: &str, instance: Instance) {
        self.0.send(Ok(Change::Insert(key.to_owned(), instance))).unwrap();
    }

    pub(crate) fn add(&self, address: SocketAddr) {
        self.put(&address.to_string(), Instance::new(address).unwrap());
    }

    pub(crate) fn remove(&self, key: &(impl ToString + ?Sized)) {
        self.0.send(Ok(Change::Remove(key.to_string()))).unwrap();
    }
}

/// A channel over a set that is empty and may change.
pub(crate) fn changing(builder: BalancedChannelBuilder) -> (BalancedChannel, Set) {
    let (set, changes) = mpsc::unbounded_channel();
    (builder.build_with_discovery("greeter", UnboundedReceiverStream::new(changes)).unwrap(), Set(set))
}

/// A channel over these servers.
pub(crate) fn over<'a>(
    builder: BalancedChannelBuilder,
    addresses: impl IntoIterator<Item = &'a SocketAddr>,
) -> BalancedChannel {
    let insert = |address: &SocketAddr| Ok::<_, Infallible>(Change::Insert(*address, Instance::new(*address).unwrap()));
    let changes: Vec<_> = addresses.into_iter().map(insert).collect();
    builder.build_with_discovery("greeter", tokio_stream::iter(changes)).unwrap()
}

/// The first in the order of addresses.
#[derive(Debug)]
pub(crate) struct Lowest;

impl Policy for Lowest {
    fn picker(&self, _: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(Self)
    }
}

impl Picker for Lowest {
    fn pick(&self, _: &Call<'_>) -> Pick {
        Pick::Server(0)
    }
}

pub(crate) fn builder() -> BalancedChannelBuilder {
    BalancedChannel::builder().served_by(true)
}

pub(crate) fn repeating() -> BalancedChannelBuilder {
    builder().retry(RetryPolicy::new().repeatable(SAY_HELLO))
}

pub(crate) async fn greet(channel: &BalancedChannel) -> Result<Response<HelloReply>, Status> {
    GreeterClient::new(channel.clone()).say_hello(HelloRequest { name: "world".into() }).await
}

/// Greets, and gives who answered.
pub(crate) async fn greeted_by(channel: &BalancedChannel) -> String {
    let response = greet(channel).await.unwrap();
    assert_eq!(response.get_ref().message, "Hello world");
    response.extensions().get::<ServedBy>().unwrap().address().to_string()
}

/// The server that a status has in its source.
pub(crate) fn server_of(status: &Status) -> String {
    let error = CallError::find(status).unwrap_or_else(|| panic!("no source: {status:?}"));
    error.server().unwrap_or_else(|| panic!("no server: {error}")).to_string()
}

/// What a status has in its source, with addresses.
pub(crate) fn told(status: &Status) -> String {
    CallError::find(status).unwrap_or_else(|| panic!("no source: {status:?}")).to_string()
}

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until so many servers are ready.
pub(crate) async fn ready(channel: &BalancedChannel, count: usize) {
    let are = || states(channel).values().filter(|state| **state == ServerState::Ready).count() == count;
    until(&format!("{count} servers to be ready"), are).await;
}

pub(crate) fn states(channel: &BalancedChannel) -> BTreeMap<String, ServerState> {
    channel.servers().iter().map(|server| (server.address().to_string(), server.state())).collect()
}
