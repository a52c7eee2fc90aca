//! From [`EtcdOptions`] to a connection to one member.
//!
//! The steps and their time limits: TCP and TLS share the connect timeout; the HTTP/2 SETTINGS that
//! follow have the request timeout. Nothing is asked of etcd yet: the token is checked with the
//! first request.
//!
//! Keep-alive PINGs are sent while a stream is open. They may be sent in quick succession here
//! (`unthrottled`), because etcd permits them every 5 s.

use std::sync::Arc;

use http::uri::Scheme;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection::{self, Destination, KeepAlive, PeerAddress, Transport};
use crate::etcd::failure::{Class, Failure};
use crate::etcd::link::{LinkService, MemberLink};
use crate::etcd::members::endpoint::Endpoint;
use crate::etcd::options::EtcdOptions;
use crate::etcd::token::Token;

/// The window of a connection, in bytes: the largest there is. Each stream has its own window, so
/// that one unread stream does not stop the others.
const WINDOW: u32 = i32::MAX as u32;

impl EtcdOptions {
    /// Connects to this member. Requests over the link carry `token`.
    ///
    /// # Errors
    /// Why there is no connection. An endpoint that etcd itself has named may be out of reach, or
    /// have another name in its certificate, so that its failures are transient.
    pub(crate) async fn connect(
        &self,
        member: usize,
        endpoint: &Endpoint,
        token: Token,
    ) -> Result<MemberLink, Failure> {
        let connected = self.connect_service(member, endpoint, token).await;
        connected.map_err(|failure| {
            let failure = failure.at(&endpoint.text).while_doing("connecting to etcd");
            // An endpoint that etcd has named may be out of reach, or have another name in its certificate.
            if endpoint.is_learned { failure.into_transient() } else { failure }
        })
    }

    /// Connects: TCP, TLS, HTTP/2 SETTINGS.
    ///
    /// The time that this took gives the first estimate of the latency. It is two round trips, so
    /// half of it is one.
    ///
    /// # Errors
    /// Why there is no connection. Where certificates are renewed on disk, a bad one is transient:
    /// the next attempt may find another one.
    async fn connect_service(&self, member: usize, endpoint: &Endpoint, token: Token) -> Result<MemberLink, Failure> {
        let Endpoint { text, secure, authority, .. } = endpoint;
        let transport = self.transport(*secure)?;
        let address = PeerAddress::Tcp(authority.host().to_owned(), authority.port());
        let options = connection::Options {
            connect_timeout: self.connect_timeout,
            settings_timeout: Some(self.request_timeout),
            connection_window: WINDOW,
            keep_alive: Some(KeepAlive::new(self.keep_alive.0, self.keep_alive.1).unthrottled()),
            ..connection::Options::default()
        };
        let (room, began) = (Arc::<Notify>::default(), Instant::now());
        let connection = transport.connect(&Destination { address, secure: *secure }, &options, room.clone()).await;
        let connection = connection.map_err(|failure| {
            let failure = Failure::connect_failed(failure.to_string());
            // The next attempt may find another certificate on disk.
            if self.tls_changes() { failure.into_transient() } else { failure }
        })?;
        let round_trip = began.elapsed() / 2;
        let scheme = if *secure { Scheme::HTTPS } else { Scheme::HTTP };
        let invalid = |error: http::uri::InvalidUri| Failure::new(Class::Permanent, error.to_string());
        let authority = authority.as_str().parse().map_err(invalid)?;
        let service = LinkService { connection, room, scheme, authority, token };
        MemberLink::from_connection(member, text.clone(), service, round_trip).await.map_err(Failure::from)
    }

    /// Whether the next connection may have other TLS settings than this one: they are read from
    /// files, or given by a function.
    #[cfg(feature = "_tls")]
    fn tls_changes(&self) -> bool {
        matches!(self.built_tls(), Ok(Some(tls)) if tls.changes())
    }

    #[cfg(not(feature = "_tls"))]
    #[expect(clippy::unused_self, reason = "with TLS there are settings")]
    fn tls_changes(&self) -> bool {
        false
    }

    /// The transport to a member, with TLS where it is `https`.
    ///
    /// # Errors
    /// When the TLS settings cannot be used. The options were checked before: what is wrong has
    /// changed since, such as a file.
    #[cfg(feature = "_tls")]
    fn transport(&self, secure: bool) -> Result<Transport, Failure> {
        match self.built_tls() {
            Ok(tls) => Ok(Transport { connector: None, tls: tls.clone().filter(|_| secure) }),
            Err(invalid) => Err(Failure::new(Class::Permanent, invalid.to_string())),
        }
    }

    #[cfg(not(feature = "_tls"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "with TLS there are settings, and they may be wrong"
    )]
    fn transport(&self, _secure: bool) -> Result<Transport, Failure> {
        Ok(Transport::default())
    }
}
