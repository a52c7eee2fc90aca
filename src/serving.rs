//! [`Serve`](crate::Serve) beside what people put beside it: how each is done.
//!
//! # Health and reflection
//!
//! Both are services like any other. With the feature `tonic-health`, [`Serve::health`](crate::Serve) lets the reporter decide
//! whether the server is in the directory. Who watches the server as a whole, or a name that was given by
//! [`Serve::health_name`](crate::Serve), is told `NOT_SERVING` before GOAWAY comes. The reporter does not say which other names it
//! knows: those stay as they are. A watch and a reflection stream are calls in flight, and keep the drain until their clients end them.
//!
//! ```no_run
//! # #[cfg(feature = "tonic-health")]
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, greeter: impl greeter_proto::greeter_server::Greeter, listener: tokio::net::TcpListener,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # use greeter_proto::greeter_server::GreeterServer;
//! # use tonic::transport::Server;
//! # let shutdown = std::future::pending();
//! let greeter = GreeterServer::new(greeter);
//! let (reporter, health) = tonic_health::server::health_reporter();
//! reporter.set_service_status("helloworld.Greeter", tonic_health::ServingStatus::Serving).await;
//! let reflection = tonic_reflection::server::Builder::configure()
//!     .register_encoded_file_descriptor_set(greeter_proto::DESCRIPTORS) // tonic's `include_file_descriptor_set!`
//!     .build_v1()?;
//! let router = Server::builder().add_service(health).add_service(reflection).add_service(greeter);
//! let serve = registrar.service("greeter").health(&reporter).health_name("helloworld.Greeter");
//! serve.serve(router, listener, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Routes of one's own
//!
//! tonic's `Routes` are an axum router. One with routes for probes or metrics beside them is served as well;
//! `accept_http1` lets clients that speak HTTP/1.1 in. [`ServeControl::is_ready`](crate::ServeControl::is_ready) is the flag for a
//! readiness probe.
//!
//! ```no_run
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, greeter: impl greeter_proto::greeter_server::Greeter, listener: tokio::net::TcpListener,
//! # ) -> Result<(), tonic_etcd::Error> {
//! # use greeter_proto::greeter_server::GreeterServer;
//! # use tonic::transport::Server;
//! # let shutdown = std::future::pending();
//! use axum::http::StatusCode;
//! use tonic::service::Routes;
//!
//! let serve = registrar.service("greeter");
//! let control = serve.control();
//! let ready = move || async move { if control.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE } };
//! let services = Routes::new(GreeterServer::new(greeter)).into_axum_router();
//! let routes = Routes::from(services.route("/ready", axum::routing::get(ready)));
//! let router = Server::builder().accept_http1(true).add_routes(routes);
//! serve.serve(router, listener, shutdown).await
//! # }
//! ```
//!
//! # Browsers
//!
//! ```no_run
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, greeter: impl greeter_proto::greeter_server::Greeter, listener: tokio::net::TcpListener,
//! # ) -> Result<(), tonic_etcd::Error> {
//! # use greeter_proto::greeter_server::GreeterServer;
//! # use tonic::transport::Server;
//! # let shutdown = std::future::pending();
//! let mut server = Server::builder().accept_http1(true).layer(tonic_web::GrpcWebLayer::new());
//! let router = server.add_service(GreeterServer::new(greeter));
//! registrar.service("greeter").serve(router, listener, shutdown).await
//! # }
//! ```
//!
//! # Several services, several listeners
//!
//! [`Serve::service`](crate::Serve::service) names a further service of the same server. A listener takes a
//! [`Serve`](crate::Serve) of its own; all of one [`Registrar`](crate::Registrar) share its lease. Clients of this host can reach
//! a Unix socket, others cannot, and they call one only where
//! [`ResolverBuilder::unix_sockets`](crate::ResolverBuilder::unix_sockets) allows it.
//!
//! ```no_run
//! # #[cfg(unix)]
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, greeter: impl greeter_proto::greeter_server::Greeter + Clone,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # use greeter_proto::greeter_server::GreeterServer;
//! # use tonic::transport::Server;
//! use tokio::net::{TcpListener, UnixListener};
//!
//! let (tcp, unix) = (registrar.service("greeter").service("team/greeter"), registrar.service("greeter"));
//! let controls = [tcp.control(), unix.control()];
//! tokio::spawn(async move {
//!     tokio::signal::ctrl_c().await.unwrap_or_default();
//!     controls.iter().for_each(|control| control.stop());
//! });
//! let router = || Server::builder().add_service(GreeterServer::new(greeter.clone()));
//! tokio::try_join!(
//!     tcp.serve(router(), TcpListener::bind("0.0.0.0:50051").await?, std::future::pending()),
//!     unix.serve(router(), UnixListener::bind("/run/greeter.sock")?, std::future::pending()),
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! The file of a Unix socket goes with its server: [`Listener`](crate::Listener) says when.
//!
//! # TLS and certificates of clients
//!
//! TLS is the router's matter; [`Serve::https`](crate::Serve::https) makes clients use it. Under tonic's TLS
//! [`Serve::count_calls`](crate::Serve::count_calls) keeps clients that are gone from holding up the end.
//!
//! ```no_run
//! # #[cfg(feature = "_tls")]
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, greeter: impl greeter_proto::greeter_server::Greeter, listener: tokio::net::TcpListener,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # use greeter_proto::greeter_server::GreeterServer;
//! # use tonic::transport::Server;
//! # let shutdown = std::future::pending();
//! use tonic::transport::{Certificate, Identity, ServerTlsConfig};
//!
//! let read = |path| std::fs::read_to_string(path);
//! let tls = ServerTlsConfig::new()
//!     .identity(Identity::from_pem(read("server.pem")?, read("server.key")?))
//!     .client_ca_root(Certificate::from_pem(read("clients.pem")?)); // whoever shows none of these is refused
//! let serve = registrar.service("greeter").https().advertise("greeter.example.org");
//! let mut server = Server::builder().tls_config(tls)?.layer(serve.count_calls());
//! serve.serve(server.add_service(GreeterServer::new(greeter)), listener, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Clients show their certificate by `ClientTls::identity`, in `BalancedChannelBuilder::tls`.
//!
//! # systemd
//!
//! With socket activation systemd listens, and passes the listener: connections wait while the server restarts. The crate `listenfd`
//! takes it without unsafe code of one's own. `examples/systemd.rs` is the whole of it, for TCP and Unix sockets. The address is found
//! as with a listener of one's own; systemd's `[::]` takes IPv4 too unless `BindIPv6Only=ipv6-only` says otherwise.
//!
//! ```no_run
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, greeter: impl greeter_proto::greeter_server::Greeter,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # use greeter_proto::greeter_server::GreeterServer;
//! # use tonic::transport::Server;
//! # let shutdown = std::future::pending();
//! let passed = listenfd::ListenFd::from_env().take_tcp_listener(0)?.ok_or("no listener was passed")?;
//! passed.set_nonblocking(true)?;
//! let listener = tokio::net::TcpListener::from_std(passed)?;
//! let router = Server::builder().add_service(GreeterServer::new(greeter));
//! registrar.service("greeter").serve(router, listener, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Two signals
//!
//! The first one drains. At a second one the future is dropped: all connections are closed at once, and what is still registered
//! is deregistered in the background, for as long as the runtime lives.
//!
//! ```no_run
//! # #[cfg(unix)]
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, greeter: impl greeter_proto::greeter_server::Greeter, listener: tokio::net::TcpListener,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # use greeter_proto::greeter_server::GreeterServer;
//! # use tonic::transport::Server;
//! use tokio::signal::unix::{SignalKind, signal};
//!
//! let mut terminate = signal(SignalKind::terminate())?;
//! let router = Server::builder().add_service(GreeterServer::new(greeter));
//! let serve = registrar.service("greeter");
//! let control = serve.control();
//! tokio::select! {
//!     ended = serve.serve(router, listener, std::future::pending()) => ended?,
//!     () = async {
//!         terminate.recv().await;
//!         control.stop();
//!         terminate.recv().await;
//!     } => {}
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is waited for at the end
//!
//! A call in flight, from its complete head to the end of its answer, keeps its connection for as long as
//! [`Serve::drain`](crate::Serve::drain) allows. A connection without one ends by itself when its client has answered the PING that
//! comes with GOAWAY, and is closed after 0.75 s where it does not: one that never spoke, is in its TLS handshake, has sent half of a
//! request, or whose client is gone. A stream is a call in flight. Under tonic's own TLS the calls are known only by
//! [`Serve::count_calls`](crate::Serve::count_calls); without it a client that is gone is waited for. What a client that is further
//! than 0.75 s away sent before it saw GOAWAY is lost with its connection.
