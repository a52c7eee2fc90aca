//! etcd as the directory of a [tonic](https://docs.rs/tonic) fleet.
//!
//! - **Clients** turn a service's name into its live servers: [`Resolver`] watches the service's prefix in etcd, and
//!   [`BalancedChannel`] calls the servers that it finds: only those that are connected, the less busy ones first, and another
//!   one where a server has not processed a call. [`Resolution`] also gives the current [`Snapshot`], a stream of changes for any
//!   tower balancer ([`Resolution::discover`]), and tonic's own balanced channel ([`Resolution::balance_channel`]).
//! - **Servers** register themselves: [`Registrar`] puts an [`Instance`] under a lease, and keeps it there for as long as
//!   its [`Registration`] is held; [`Serve`] is the whole life of a tonic server around that.
//!
//! # A client
//!
//! ```no_run
//! # use greeter_proto::{HelloRequest, greeter_client::GreeterClient};
//! # async fn client() -> Result<(), Box<dyn std::error::Error>> {
//! let resolver = tonic_etcd::Resolver::connect(["http://127.0.0.1:2379"]).await?;
//! let mut greeter = GreeterClient::new(resolver.channel("greeter").await?);
//! greeter.say_hello(HelloRequest { name: "world".into() }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A server
//!
//! ```no_run
//! # use greeter_proto::greeter_server::{Greeter, GreeterServer};
//! # async fn server(greeter: impl Greeter) -> Result<(), Box<dyn std::error::Error>> {
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:50051").await?;
//! let router = tonic::transport::Server::builder().add_service(GreeterServer::new(greeter));
//! let shutdown = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
//! let registrar = tonic_etcd::Registrar::connect(["http://127.0.0.1:2379"]).await?;
//! registrar.service("greeter").serve(router, listener, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Serve`] registers when the server is ready, takes it out of the directory before it stops, and ends in time. [`serving`] shows it
//! beside health, reflection, axum, tonic-web, TLS, several listeners, systemd and signals. Where a
//! server has a life of its own, [`Registrar::register`] is the part about etcd: listen before you register, and deregister
//! before you stop. Keep the registration in a variable with a name: one that is dropped deregisters. That happens in the
//! background, and only while the tokio runtime lives: before `main` returns, wait for [`Registration::deregister`] or, for all
//! registrations at once, for [`Registrar::close`].
//!
//! Keys carry who has put them: the lease, and the instance's id where it has one. [`Conflict`] says what is done where
//! another instance holds a key.
//!
//! # When etcd is away
//!
//! Nothing here fails because etcd is away. [`Resolver::connect`], [`Resolver::resolve`], [`Registrar::connect`] and
//! [`Registrar::register`] fail for bad arguments alone, and go on in the background; [`Resolution::ready`] and
//! [`Registration::ready`] are for those who want to fail early. What was resolved stays: [`State`] tells what is
//! current from what is stale, confirmed empty or not yet resolved, and [`Resolution::last_error`] says why. Retries begin
//! at once, then wait 100 ms to 0.8 s for the first minute of an outage and up to 5 s after it, always with jitter.
//!
//! # When a server is away
//!
//! [`BalancedChannel`] never picks a server that is not connected. A call that no server can have processed goes to
//! another one by itself. One that may have been processed fails with `UNAVAILABLE`, and [`CallError`] names the server, unless
//! [`RetryPolicy`] says that its method may be repeated. A server that fails its calls, or holds them until their callers give up,
//! gets few further ones ([`Policy::LeastRequest`]); [`Ejection`], where it is set, leaves it out. A frozen server holds its calls
//! until [`KeepAlive`] finds it out, its lease ends, or their deadlines do. [`BalancedChannel::servers`] shows what is known of each
//! server.
//!
//! Give calls a deadline ([`tonic::Request::set_timeout`] or [`BalancedChannelBuilder::timeout`]): it covers waiting, attempts and
//! streamed answers. [`BalancedChannelBuilder::method_timeout`] and [`CallTimeout`] exempt long streams.
//!
//! # Without etcd
//!
//! [`BalancedChannelBuilder::discover`] makes the same channel of any `tower::discover` stream of instances.
//!
//! # What it logs
//!
//! Everything worth knowing goes to [`tracing`](https://docs.rs/tracing): membership changes at INFO, what fails at WARN, once
//! for each kind of failure. A program sees it with a subscriber, such as `tracing_subscriber::fmt::init()`, which may use any
//! handle of this crate while it is told an event.
//!
//! There are no spans. What goes on in the background outlives the call that began it: its events have no parent, whatever span it
//! was begun in, and the service as a field. Those of a call stand in the caller's span.
//!
//! # Runtimes
//!
//! A tokio runtime does its work only while it is driven; one with `current_thread` is driven inside `block_on` alone. What is
//! resolved on a runtime is watched on it, and a resolver that is used from several runtimes has watches, a connection and a token
//! on each. A registrar does its work on the runtime that registered first, and on the next one once that has ended.
//! Where a runtime does not run, [`Resolution::ready`] and [`Registration::ready`] say so. A client of your own
//! ([`Resolver::new`]) stays on the runtime on which it was made.
//!
//! # What stands in etcd
//!
//! By default etcd's own gRPC naming, one key per server address under `NAME/`, which etcd's Go client reads and writes
//! too; plain `host:port` values are read as well. [`codec`] is where formats are, and where yours can be.
//! [`Target`] says how names are written.
//!
//! A record that nobody can read or call costs nobody else anything: it is reported once, and left out. That is so with addresses
//! such as `0.0.0.0` and multicast, and with Unix sockets unless [`ResolverBuilder::unix_sockets`] allows them.
//!
//! # Code of yours that panics
//!
//! A panic in a codec, a configuration of endpoints, a discovery, a connector or a verifier of certificates costs the record, the
//! server, or the attempt to connect that it was run for; everything else goes on, and a warning or an error says so. One in a
//! [`Picker`] or in a function that changes an instance is its caller's. With `panic = "abort"` any of them ends the process.
//!
//! # Building
//!
//! The build of `etcd-client` runs `protoc` and needs the well-known protos: on Debian and Ubuntu
//! `apt install protobuf-compiler libprotobuf-dev`, with Homebrew `brew install protobuf`; the environment variable
//! `PROTOC` names one that is not on `PATH`.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `tls-ring`, `tls-aws-lc` | TLS to etcd and to servers, with that cryptography |
//! | `tls-native-roots`, `tls-webpki-roots` | root certificates, beside one of those |
//! | `tonic-health` | `Serve::health`: the server's health service decides whether it is in the directory |
//! | `srv` | `EtcdOptions::srv` and `etcd-srv://` targets: the members of etcd are found by DNS SRV records |
//!
//! None is on by default: `https` endpoints are then refused, and `https` servers are not called. With one of them
//! `BalancedChannelBuilder::tls` says how servers are verified, and `ClientTls` how certificates are given that are renewed.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod backoff;
mod balance;
pub mod codec;
mod connection;
mod domain;
mod error;
mod etcd;
mod inet;
mod instance;
mod nested;
mod panics;
mod registrar;
mod resolver;
mod secret;
mod serve;
pub mod serving;
mod target;
mod turns;

pub use address::Address;
pub use balance::{
    BalancedChannel, BalancedChannelBuilder, Call, CallError, CallTimeout, Connectivity, ConnectivityStream, Ejection,
    Picker, Policy, ReadyServer, ResponseBody, ResponseFuture, RetryPolicy, ServedBy, ServerState, ServerStatus,
    WaitForReady,
};
#[cfg(feature = "_tls")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
pub use connection::ClientTls;
pub use connection::KeepAlive;
pub use error::Error;
/// `etcd_client::Client`, of the release that this crate works with.
pub use etcd::Client as EtcdClient;
pub use etcd::EtcdOptions;
pub use instance::Instance;
pub use registrar::{
    Conflict, Registrar, RegistrarBuilder, RegistrarHealth, Registration, RegistrationOptions, RegistrationState,
    RegistrationStates,
};
pub use resolver::{Discover, Entry, Resolution, Resolver, ResolverBuilder, ServerKey, Snapshot, State};
pub use serve::{CountCalls, Departure, Listener, Serve, ServeControl, ServeState, ServeStates};
pub use target::Target;

/// The README's code, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
