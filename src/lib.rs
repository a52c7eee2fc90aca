//! Service discovery, load balancing and registration for [tonic](https://docs.rs/tonic), with etcd as the directory.
//!
//! - A **client** resolves the name of a service to its live servers. [`Resolver`] watches the prefix of the service in etcd.
//!   [`BalancedChannel`] connects to each server it finds, and sends each call to a connected one.
//! - A **server** registers itself. [`Registrar`] puts an [`Instance`] into etcd under a lease and keeps it there while the
//!   [`Registration`] is held. [`Serve`] runs a tonic server around that: it serves, registers, deregisters, drains and stops.
//!
//! # A client
//!
//! ```no_run
//! # use greeter_proto::{HelloRequest, greeter_client::GreeterClient};
//! # async fn client() -> Result<(), Box<dyn std::error::Error>> {
//! let resolver = tonic_etcd::Resolver::connect_lazy(["http://127.0.0.1:2379"])?;
//! let mut greeter = GreeterClient::new(resolver.channel("greeter")?);
//! greeter.say_hello(HelloRequest { name: "world".into() }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`BalancedChannel::builder`] sets deadlines, retries, TLS, the load balancing [`Policy`] and more. The documentation of
//! [`BalancedChannel`] says what happens to a call in each situation.
//!
//! [`EtcdOptions`] names several members of etcd, a user, TLS and timeouts:
//!
//! ```no_run
//! # fn connect() -> Result<(), tonic_etcd::Error> {
//! use tonic_etcd::{EtcdOptions, Resolver};
//!
//! let etcd = EtcdOptions::new(["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"])
//!     .user("reader", "its password");
//! let resolver = Resolver::connect_lazy(etcd)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Resolver::resolve`] gives the [`Resolution`] of a service: the present [`Snapshot`], its state and its last error, a stream of
//! changes for any tower balancer ([`Resolution::discover`]), and tonic's own balanced channel
//! ([`Resolution::balance_channel`]).
//!
//! ```no_run
//! # async fn show(resolver: tonic_etcd::Resolver) -> Result<(), Box<dyn std::error::Error>> {
//! let mut greeters = resolver.resolve("greeter")?;
//! let mut snapshot = greeters.ready(std::time::Duration::from_secs(5)).await?;
//! loop {
//!     println!("{:?}: {:?}", greeters.state(), snapshot.instances().collect::<Vec<_>>());
//!     snapshot = greeters.changed().await?;
//! }
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
//! let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
//! let shutdown = async move { drop(terminate.recv().await) }; // Ctrl-C too: see `examples/greeter_server.rs`
//! let registrar = tonic_etcd::Registrar::connect_lazy(["http://127.0.0.1:2379"])?;
//! registrar.service("greeter").serve(router, listener, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Serve`] registers the server once it accepts connections. At shutdown it deregisters first, waits for 1 s so that clients
//! can see that, and then finishes the calls in flight. The page [`serving`] shows it beside health checks, reflection, axum, tonic-web,
//! TLS, several listeners, systemd and signals.
//!
//! A program that starts and stops its server itself uses [`Registrar::register`]. Keep this order: listen, register, …, deregister, wait a
//! second, stop. Keep the [`Registration`] in a variable with a name, because a registration that is dropped deregisters. Before
//! `main` returns, wait for [`Registration::deregister`], or for [`Registrar::close`], which ends all registrations. A
//! registration that is still there when the runtime ends stays in etcd until its lease ends (15 s by default), and clients try
//! the server until then.
//!
//! ## The address that is registered
//!
//! The first of these that applies:
//!
//! 1. the address given to [`Serve::advertise`];
//! 2. the environment variable `TONIC_ETCD_ADVERTISE`: `host` or `host:port`, several separated by commas;
//! 3. the address that the server listens on, unless that is `0.0.0.0` or `[::]`. If it is a link-local address, `serve` fails;
//! 4. if the server listens on all interfaces: the environment variable `POD_IP`, the first of its addresses whose family the
//!    server listens on. Set it in the pod's manifest from `status.podIP`. If it holds no such address, or that address is
//!    link-local, `serve` fails;
//! 5. if `POD_IP` is not set: the address of the interface that reaches etcd.
//!
//! A loopback address or a Unix socket is registered only if every endpoint of etcd is a loopback address or a name for loopback
//! addresses only, or if 1. or 2. names it.
//! Otherwise `serve` fails, because no client on another host could call it.
//!
//! ## Who owns a key
//!
//! Each key has the lease of its registrar, and its value has the id of the instance, if one is set. [`Conflict`] decides what
//! happens if another instance holds a key. By default the last registration wins, so that a server that crashed is back at once. A
//! key is not a lock: a server that is cut off from etcd believes that it is registered until its lease would have ended, and
//! another registration may overwrite the key at any time.
//!
//! # When etcd is unavailable
//!
//! [`Resolver::connect_lazy`], [`Resolver::resolve`], [`Registrar::connect_lazy`] and [`Registrar::register`] return immediately.
//! They never fail because etcd is unavailable, only for an invalid argument,
//! outside a tokio runtime, or after [`Registrar::close`]. They connect in the background and retry until it succeeds. [`Resolver::connect`],
//! [`Registrar::connect`], [`Resolution::ready`] and [`Registration::ready`] wait, for programs that want to fail early.
//!
//! The last snapshot stays in use while etcd is unavailable. [`ResolutionState`] tells whether it is current or stale, whether
//! etcd has confirmed that there is no readable record, or whether etcd has not answered yet. [`Resolution::last_error`] gives the reason.
//!
//! A program that starts while etcd is down knows no server. With [`ResolverBuilder::cache`] it starts with the instances that
//! etcd held when a program with the same folder last heard of it, at most an hour ago, and its calls go to them after 300 ms.
//!
//! The first retry follows immediately. Later ones wait 100 ms to 0.8 s during the first minute of an outage and up to 5 s after
//! it, always with jitter.
//!
//! | event | what happens |
//! |---|---|
//! | a watch breaks | It is resumed at the revision after the last event. |
//! | etcd has compacted that revision, was wiped, or was restored from a snapshot | The prefix is listed again, and the differences are reported as changes. After a wipe the revision is lower, and the snapshot is empty until the servers have registered again. With three or more servers, channels keep calling them: see the next row. |
//! | etcd has lost most instances at once, or one after the other within 30 s | The snapshot is what etcd holds. The lost instances are doubtful for 60 s ([`MassLoss`], [`ResolutionState::Doubtful`]): a [`BalancedChannel`] keeps the connections to their servers that answer a PING within a second ([`ServerState::Held`]). |
//! | a watch is silent for 5 s | etcd is asked for a progress notification; a watch stream that does not answer within 3 s is replaced. |
//! | a member of etcd is down, frozen or a learner | Requests go to another member. |
//! | one request is slow | No connection, lease or watch ends because of it, as long as anything else is received over the connection. |
//! | a lease is lost | The registrar requests another one and puts its keys again. It retries until it succeeds. |
//! | a key is deleted or overwritten by hand | The registrar puts it again: immediately, or within a minute if its role may not watch the key. |
//! | a put without a response is still on its way when its registration leaves | The registrar moves its other registrations to a new lease and revokes the old one. So etcd refuses the put whenever it arrives ([`Registration::deregister`] has the exceptions). |
//!
//! # When a server is unavailable
//!
//! | event | what happens |
//! |---|---|
//! | a server is not connected | It is not picked. |
//! | a server provably did not process a call (it was not sent, its stream was refused, or it is above the last stream id of a GOAWAY) | The call is sent again, usually to another server, whether or not its method is declared repeatable. [`BalancedChannel`] has the limits. |
//! | a connection is lost while a call is in flight | The call fails with `UNAVAILABLE`, unless [`RetryPolicy`] declares its method repeatable. [`CallError`] names the server. |
//! | servers are overloaded | Calls wait, fail or are sent again, as the servers limit their load: see "When servers are overloaded" at [`BalancedChannel`]. |
//! | a server fails its calls, or holds them until the callers give up | It gets fewer calls under `LeastRequest` and `PeakEwma`. [`OutlierDetection`], if it is set, takes it out entirely for a while. |
//! | a server says that it does not serve | With [`BalancedChannelBuilder::health_check`], or `healthCheckConfig` of a service config, it gets no new calls until it says that it serves ([`ServerState::Unhealthy`]); calls in flight go on. Without them the channel does not ask, and the server should leave etcd by itself, as `Serve::health` lets it do. |
//! | a server is frozen | Its calls end when [`KeepAlive`] detects it (usually after 20 s + 10 s; up to five minutes later if its streams were silent before), or at their deadlines. New calls stop when `KeepAlive` detects it, or, if its registrar is frozen with it, when its lease ends (15 s by default). A shorter `KeepAlive`, a shorter [`RegistrarBuilder::ttl`] and `OutlierDetection` with deadlines make that sooner. |
//! | a server deregisters | It gets no new calls, unless its loss is doubtful ([`MassLoss`]) and no listed server is connected: then it gets them until it sends GOAWAY. Calls in flight go on to their end. |
//!
//! [`BalancedChannel::servers`] shows the state of each server.
//!
//! [`Resolution::state`] tells whether the set is stale: a program that built its channel by [`Resolver::channel`] gets the
//! resolution of the same service from [`Resolver::resolve`], which shares the watch.
//!
//! Give each call a deadline ([`tonic::Request::set_timeout`] or [`BalancedChannelBuilder::timeout`]). Without one, a call waits
//! without limit for a server that has accepted it and does not answer. The deadline covers waiting, attempts and streamed
//! responses; [`MethodConfig::no_timeout`] and [`CallTimeout`] exempt long streams from the time that the code sets, but not from a
//! `timeout` of gRPC's [service config](BalancedChannelBuilder::service_config).
//!
//! # What is stored in etcd
//!
//! By default etcd's own gRPC naming, which etcd's Go client reads and writes: one key for each server address, below the name of
//! the service: `greeter/10.0.0.5:50051` = `{"Op":0,"Addr":"10.0.0.5:50051","Metadata":null}`. Plain values (`host:port`,
//! `http://host:port`, `https://host:port`) are read too. The formats are in the module [`codec`]. Implement
//! [`codec::Codec`] for a format of your own.
//! [`Target`] says how services are named. Targets are read as Go reads them.
//!
//! A record that cannot be read, or whose address cannot be called (`0.0.0.0`, multicast), is reported once and left out. The
//! other records are not affected. Unix sockets named in etcd are called only if [`ResolverBuilder::unix_sockets`] allows it.
//!
//! Weights and flags are read in the spellings that [`codec::GrpcNaming`] lists (`"Weight":9`, `"9"`, `9.0`). A weight of 0 means "not set", because Go writes it
//! for a field that is not set. A server that is to get no new calls sets `draining`. A server without a weight counts as the mean of
//! the others (gRFC A58).
//!
//! Keys of `shop/payments` belong to `shop` too, as in Go: a client of `shop` calls the servers of both. Both sides log a warning.
//!
//! A Go client of a service whose name has a slash must set its authority (`grpc.WithAuthority("greeter")`): it sends the name with
//! its slashes escaped, and tonic servers refuse that with `PROTOCOL_ERROR`.
//!
//! If authentication is on in etcd, a resolver needs the permission `read` on the prefix with its slash (`greeter/`), and a
//! registrar `readwrite`. With `write` only, a registrar works too. It then cannot see that another registrar has overwritten its
//! key, and deletes that key when it deregisters.
//!
//! Channels that take their [service config](BalancedChannelBuilder::service_config_from_etcd) from etcd also need `read` on
//! `tonic-etcd/config/`, or on the one key of their service; operators who write the documents need `readwrite` there.
//!
//! ```text
//! etcdctl role grant-permission client --prefix=true read greeter/
//! etcdctl role grant-permission client --prefix=true read tonic-etcd/config/
//! etcdctl role grant-permission operator --prefix=true readwrite tonic-etcd/config/
//! ```
//!
//! # Certificates that are renewed
//!
//! `ClientTls` takes paths or a function, for etcd and for servers alike. Each new connection uses the certificates that are there
//! then. Open connections stay, also beyond the end of their certificates. If files cannot be read, or do not belong together, the
//! last good ones stay in use, and a warning is logged once. A Kubernetes secret that is mounted as a volume (not with `subPath`)
//! needs nothing else. To replace a certificate authority: trust both authorities everywhere, then roll out the new certificates,
//! then remove the old authority. [`serving`] shows a server whose own certificates are renewed.
//!
//! # Members of etcd that change
//!
//! `EtcdOptions::srv` and `etcd-srv://` targets (feature `srv`) find the members by DNS SRV records, as `etcdctl --discovery-srv` does.
//! [`EtcdOptions::learn_members`] asks etcd for its members and uses them beside the given endpoints, so that a cluster in which
//! every member is replaced is not lost.
//!
//! # Without etcd
//!
//! [`BalancedChannelBuilder::build_with_discovery`] makes the same channel from any `tower::discover` stream of instances.
//!
//! # Logging
//!
//! The crate logs with [`tracing`](https://docs.rs/tracing). Without a subscriber, such as `tracing_subscriber::fmt::init()`, nobody
//! sees its warnings. Membership changes are INFO. Failures are WARN, each kind once until it recovers. A panic in a
//! discovery stream or in a policy is ERROR. The page [`log_messages`] lists
//! them, with what to do. A subscriber may call this crate while it handles an event. `fmt::init()` with
//! the feature `env-filter` of `tracing-subscriber` shows only errors until `RUST_LOG` is set, for example to `info`.
//!
//! Events of background work have no parent span and carry the service as a field. Events of a call belong to the
//! call's span or, where that is not enabled, to the span of its caller.
//!
//! # Tracing
//!
//! Each call has a span, and each of its attempts has one within it, with names and attributes by gRFC A72: at DEBUG,
//! of the target `tonic_etcd::call`. The page [`spans`] lists their fields, and shows how they get to OpenTelemetry.
//!
//! # What a program can do for the cost of a call
//!
//! - Turn on `release_max_level_info` of the crate `tracing` in the program. Otherwise each call pays for spans of `h2` that
//!   nobody records.
//! - Choose a faster allocator than the system's: a call makes some twenty allocations, those of `h2` and tonic included
//!   (`cargo xtask bench call -- allocations`).
//! - Ask for [`ServedBy`] only where it is read ([`ReportServer`]).
//!
//! # Runtimes
//!
//! A `current_thread` runtime runs background tasks only inside `block_on`. A resolver that is used from several runtimes has its own
//! watches, connection and token on each. A registrar works on the runtime of its first registration. When nothing is registered any more, or
//! when that runtime has ended, the runtime of the next registration takes its place. [`Resolution::ready`] and [`Registration::ready`] return an error if that runtime does not run.
//!
//! # Panics in user code
//!
//! | a panic in | affects |
//! |---|---|
//! | a codec | the record |
//! | an endpoint configuration | the server |
//! | a connector, a certificate verifier | the attempt to connect |
//! | the function of `ClientTls::rustls_with` | nothing, if it has returned a configuration before: that one stays in use (logged at WARN). Otherwise the attempt to connect |
//! | the function of [`Filter::new`] | the instance: it does not match (logged at ERROR) |
//! | a discovery stream | its channel keeps the servers that it has, and polls the stream no more (logged at ERROR) |
//! | [`policy::Policy::picker`] | the present set of servers: least request picks from it (logged at ERROR) |
//! | [`policy::Picker`], or a function that changes an instance | its caller. A function that is given to [`ServeControl::update`] before the server has registered runs later, without a caller: its panic is logged |
//!
//! With `panic = "abort"` each of them ends the process.
//!
//! # Building
//!
//! The build of `etcd-client` runs `protoc` and needs its well-known protos: on Debian and Ubuntu
//! `apt install protobuf-compiler libprotobuf-dev`, with Homebrew `brew install protobuf`. The environment variable `PROTOC` names
//! one that is not on `PATH`.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `tls-ring`, `tls-aws-lc` | TLS to etcd and to servers, with one of the two cryptography providers |
//! | `tls-native-roots`, `tls-webpki-roots` | root certificates (needs `tls-ring` or `tls-aws-lc`) |
//! | `tonic-health` | `Serve::health`: the server's health service decides whether it is in the directory |
//! | `srv` | `EtcdOptions::srv` and `etcd-srv://` targets: DNS SRV records name the members of etcd |
//! | `unstable-etcd-client` | `Resolver::new` and others take an `etcd_client::Client`. Exempt from semantic versioning: etcd-client changes its API often |
//!
//! No feature is on by default, and features are additive. Without a TLS feature, `https` endpoints of etcd are refused and `https`
//! servers are not called. With one, a [`BalancedChannel`] calls `https` servers if `BalancedChannelBuilder::tls` or `tls_for_https`
//! is set. If both providers are enabled, ring is used.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod address_index;
mod backoff;
mod balance;
pub mod codec;
mod connection;
mod error;
mod etcd;
#[cfg(any(test, tonic_etcd_fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod instance;
pub mod log_messages;
pub mod metrics;
mod panics;
mod progress;
mod registrar;
mod resolver;
mod secret;
mod serve;
mod service_config;
pub mod serving;
pub mod spans;
mod target;
mod timers;
mod zone;

pub use address::Address;
pub use balance::policy;
pub use balance::policy::{Policy, set::testing};
pub use balance::{
    AttemptStats, BalancedChannel, BalancedChannelBuilder, CallError, CallTimeout, ChannelStats, ConnectionStats,
    ConnectivityState, ConnectivityStates, Filter, MethodConfig, MethodStats, OutlierDetection, ReportServer,
    ResponseBody, ResponseFuture, RetryPolicy, Route, RouteBody, RouteClient, RouteClientLayer, RouteContext,
    RouteHeaders, RouteServer, RouteServerLayer, SelectionReason, ServedBy, ServerState, ServerStatus,
    ServiceConfigSource, ServiceConfigStatus, SlowStart, Split, WaitForReady, check_service_config,
};
#[cfg(feature = "_tls")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
pub use connection::ClientTls;
pub use connection::{ConnectorIo, KeepAlive};
pub use error::Error;
/// `etcd_client::Client`, of the release that this crate works with. Exempt from semver: its crate breaks its API often.
#[cfg(feature = "unstable-etcd-client")]
#[cfg_attr(docsrs, doc(cfg(feature = "unstable-etcd-client")))]
pub use etcd::EtcdClient;
pub use etcd::EtcdOptions;
pub use instance::Instance;
pub use registrar::{
    Conflict, Registrar, RegistrarBuilder, RegistrarHealth, RegistrarStats, Registration, RegistrationOptions,
    RegistrationState, RegistrationStates,
};
pub use resolver::{
    ChangeStream, MassLoss, Resolution, ResolutionState, ResolutionStats, Resolver, ResolverBuilder, ServerKey,
    Snapshot, SnapshotEntry,
};
pub use serve::{CountCalls, CountCallsLayer, Departure, Listener, Serve, ServeControl, ServeState, ServeStates};
pub use target::Target;
/// rustls, in the release that [`ClientTls`] takes configurations of.
#[cfg(feature = "_tls")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
pub use tokio_rustls::rustls;

/// The README's code, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
