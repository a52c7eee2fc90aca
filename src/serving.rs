//! How to use [`Serve`](crate::Serve) with health, reflection, axum, tonic-web, TLS, several listeners, systemd and
//! signals, and what it waits for at the end.
//!
//! # Health and reflection
//!
//! Both are services like any other. With the feature `tonic-health`, [`Serve::health`](crate::Serve) lets the reporter
//! decide whether the server is in the directory. At shutdown, clients that watch the whole server, or a name of
//! [`Serve::health_name`](crate::Serve), are told `NOT_SERVING` before GOAWAY is sent. Other names that you set on the
//! reporter keep their status. A health watch and a reflection stream are calls in flight: if their clients do not end
//! them, the shutdown takes the whole of [`Serve::drain_timeout`](crate::Serve::drain_timeout). If clients watch the health, as Go
//! clients with health checking do, lower that limit. The channels of this crate
//! ([`health_check`](crate::BalancedChannelBuilder::health_check)) do not delay it: they end their watch as soon as GOAWAY comes.
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
//! # A health check of your own
//!
//! [`Serve::healthy_when`](crate::Serve::healthy_when) repeats a check, and takes the server out of the directory while
//! the check fails. One failure is enough; one success brings the server back. Check only what no other server depends
//! on: if the check covers a database that all servers share, its failure takes all of them out at once, and calls fail
//! with "none is registered".
//!
//! ```no_run
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, router: tonic::transport::server::Router, listener: tokio::net::TcpListener,
//! # ) -> Result<(), tonic_etcd::Error> {
//! # let shutdown = std::future::pending();
//! use std::time::Duration;
//!
//! async fn disk_is_writable() -> std::io::Result<()> {
//!     tokio::task::spawn_blocking(|| std::fs::write("/var/lib/greeter/probe", b"")).await?
//! }
//!
//! let serve = registrar.service("greeter").healthy_when(Duration::from_secs(1), disk_is_writable);
//! serve.serve(router, listener, shutdown).await
//! # }
//! ```
//!
//! # Your own routes
//!
//! tonic's `Routes` are an axum router (0.8, the release that tonic 0.14 is built on), so routes for probes or metrics
//! can be added. `accept_http1` accepts clients that speak HTTP/1.1.
//! [`ServeControl::is_ready`](crate::ServeControl::is_ready) is the flag for a readiness probe. tonic's response to a
//! path that no service has is HTTP status 200 with `grpc-status: 12`: a probe with a mistyped path always passes.
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
//! gRPC-Web needs tonic-web's layer. It also needs `accept_http1`, except from browsers that come over TLS with HTTP/2. A page
//! of another origin needs a CORS layer too.
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
//! [`Serve::service`](crate::Serve::service) also registers the server under another name: for a second service in its
//! router, for example. Each listener needs a [`Serve`](crate::Serve) of its own; all of them share the lease of the
//! [`Registrar`](crate::Registrar). A Unix socket is registered only if every endpoint of etcd is a
//! loopback address or a name for loopback addresses only, or if [`Serve::advertise`](crate::Serve::advertise) names it,
//! as here. Only clients on this host can reach it, and they call it only if
//! [`ResolverBuilder::unix_sockets`](crate::ResolverBuilder::unix_sockets) allows that.
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
//! let tcp = registrar.service("greeter").service("team/greeter");
//! let unix = registrar.service("greeter").advertise("unix:/run/greeter.sock");
//! let controls = [tcp.control(), unix.control()];
//! let stop = move || controls.iter().for_each(|control| control.stop());
//! let at_signal = stop.clone();
//! tokio::spawn(async move {
//!     tokio::signal::ctrl_c().await.unwrap_or_default(); // SIGINT; "Two signals" below has SIGTERM
//!     at_signal();
//! });
//! let router = || Server::builder().add_service(GreeterServer::new(greeter.clone()));
//! let tcp = tcp.serve(router(), TcpListener::bind("0.0.0.0:50051").await?, std::future::pending());
//! let unix = unix.serve(router(), UnixListener::bind("/run/greeter.sock")?, std::future::pending());
//! // If one server ends, the other one leaves and stops too. `try_join!` would drop it with its connections.
//! let (tcp, unix) = tokio::join!(async { (tcp.await, stop()).0 }, async { (unix.await, stop()).0 });
//! tcp.and(unix)?;
//! # Ok(())
//! # }
//! ```
//!
//! The file of a Unix socket is removed when its server stops: [`Listener`](crate::Listener) has the details.
//!
//! # TLS and certificates of clients
//!
//! TLS is set on tonic's server builder. [`Serve::https`](crate::Serve::https) registers an `https` address. Advertise
//! a name that the certificate holds and that belongs to this host only: the address is also the key, and of two
//! servers with one key only the last one is registered. With tonic's TLS,
//! [`Serve::count_calls`](crate::Serve::count_calls) keeps dead connections from delaying the shutdown.
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
//!     .client_ca_root(Certificate::from_pem(read("clients.pem")?)); // clients without such a certificate are refused
//! let serve = registrar.service("greeter").https().advertise("host-1.greeter.example.org");
//! let mut server = Server::builder().tls_config(tls)?.layer(serve.count_calls());
//! serve.serve(server.add_service(GreeterServer::new(greeter)), listener, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Clients set their certificate with `ClientTls::identity_files`, in `BalancedChannelBuilder::tls`.
//!
//! In a fleet with Go clients leave out [`Serve::https`](crate::Serve::https): etcd's Go resolver does not understand addresses with
//! a scheme. Rust clients with `BalancedChannelBuilder::tls` call every server over TLS, whatever its record says.
//!
//! # Renewing a server's certificates
//!
//! tonic's `ServerTlsConfig` is fixed while the server lives. To renew certificates, do the TLS handshake yourself and
//! pass the streams to [`Serve::serve_with_incoming`](crate::Serve::serve_with_incoming), as here. Each connection gets
//! the certificates that the files hold when it is accepted; open connections stay.
//! [`Serve::count_calls`](crate::Serve::count_calls) is not needed: frames of such streams can be read.
//!
//! ```no_run
//! # #[cfg(feature = "_tls")]
//! # async fn serve(
//! #     registrar: tonic_etcd::Registrar, router: tonic::transport::server::Router, listener: tokio::net::TcpListener,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # let shutdown = std::future::pending();
//! use std::{error::Error, io, sync::Arc, time::Duration};
//! use tokio_rustls::TlsAcceptor;
//! use tonic_etcd::rustls::ServerConfig;
//! use tonic_etcd::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
//!
//! fn acceptor() -> Result<TlsAcceptor, Box<dyn Error>> {
//!     let chain = CertificateDer::pem_file_iter("server.pem")?.collect::<Result<_, _>>()?;
//!     let key = PrivateKeyDer::from_pem_file("server.key")?;
//!     let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
//!     config.alpn_protocols = vec![b"h2".to_vec()];
//!     Ok(TlsAcceptor::from(Arc::new(config)))
//! }
//!
//! let mut last = acceptor()?;
//! let (accepted, incoming) = tokio::sync::mpsc::channel(16);
//! tokio::spawn(async move {
//!     loop {
//!         let socket = tokio::select! {
//!             () = accepted.closed() => break, // the server stops
//!             socket = listener.accept() => socket,
//!         };
//!         let Ok((socket, _)) = socket else {
//!             tokio::time::sleep(Duration::from_millis(100)).await; // as with too many open files, which passes
//!             continue;
//!         };
//!         let _ = socket.set_nodelay(true);
//!         match acceptor() {
//!             Ok(acceptor) => last = acceptor,
//!             // Files that are being replaced may not fit together: the last ones serve meanwhile.
//!             Err(error) => eprintln!("certificates not read: {error}"),
//!         }
//!         let (accepted, handshake) = (accepted.clone(), last.accept(socket));
//!         tokio::spawn(async move {
//!             if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(10), handshake).await {
//!                 let _ = accepted.send(Ok::<_, io::Error>(stream)).await; // fails once the server has ended
//!             }
//!         });
//!     }
//! });
//! let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
//! let serve = registrar.service("greeter").https().advertise("host-1.greeter.example.org:50051");
//! serve.serve_with_incoming(router, incoming, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # systemd
//!
//! With socket activation, systemd listens and passes the listener to the server, so connections wait while the server
//! restarts. The crate `listenfd` receives the listener without unsafe code of yours. `examples/systemd.rs` is a whole
//! server, for TCP and Unix sockets. The address to register is found as for any listener. A listener of systemd on
//! `[::]` accepts IPv4 too unless `BindIPv6Only=ipv6-only` is set.
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
//! At the first signal the server leaves the directory and drains. At the second one the future is dropped: all
//! connections are closed at once, and what is still registered is deregistered in the background. That needs the
//! runtime, so wait for [`Registrar::close`](crate::Registrar::close) before `main` returns.
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
//! registrar.close(std::time::Duration::from_secs(1)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is waited for at the end
//!
//! - A connection with a call in flight is kept for up to [`Serve::drain_timeout`](crate::Serve::drain_timeout). A call is in flight
//!   from the end of its request headers to the end of its response. That holds for streaming calls too.
//! - A connection without a call ends when its client has acknowledged the PING that comes with GOAWAY. If that does
//!   not come, the connection is closed after 0.75 s. This happens to clients that have sent nothing, are in their TLS
//!   handshake, have sent half of a request's headers, or are gone.
//! - With tonic's own TLS, calls are known only with [`Serve::count_calls`](crate::Serve::count_calls). Without it, a
//!   connection whose client is gone is kept for the whole of [`Serve::drain_timeout`](crate::Serve::drain_timeout).
//! - A client whose round trip is longer than 0.75 s may lose a call that it sent before it saw
//!   GOAWAY.
