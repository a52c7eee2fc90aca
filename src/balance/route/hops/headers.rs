//! [`RouteHeaders`]: which headers are passed on.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::balance::route::config::unusable_header;
use crate::balance::route::hops::client::RouteClientLayer;
use crate::balance::route::hops::context::RouteContext;
use crate::balance::route::hops::server::RouteServerLayer;
use crate::balance::route::resolve::MAX_HEADER_VALUE;
use crate::error::Error;

/// The headers at most.
const MAX_HEADERS: usize = 8;

/// The headers that a server passes on, from the calls that it gets to the calls that its handlers make: so that a
/// route holds through several servers.
///
/// The server has a layer that keeps the headers of each incoming call, and each of its clients has a layer that puts
/// them on outgoing requests. [`BalancedChannelBuilder::route_header`] makes a channel route by them.
///
/// ```
/// # use greeter_proto::{greeter_client::GreeterClient, greeter_server::{Greeter, GreeterServer}};
/// # fn run(resolver: tonic_etcd::Resolver, handlers: impl Greeter) -> Result<(), Box<dyn std::error::Error>> {
/// use tonic_etcd::{BalancedChannel, RouteHeaders};
/// use tower::Layer;
///
/// let headers = RouteHeaders::new(["x-lane"])?;
/// let channel = BalancedChannel::builder()
///     .route_key("lane")
///     .route_header("lane", "x-lane")
///     .build(&resolver.resolve("greeter")?)?;
/// let greeter = GreeterClient::new(headers.client_layer().layer(channel)); // for the handlers
/// let router = tonic::transport::Server::builder()
///     .layer(headers.server_layer())
///     .add_service(GreeterServer::new(handlers));
/// # Ok(())
/// # }
/// ```
///
/// | what | rule |
/// |---|---|
/// | a header that the outgoing request has by itself | It stays: nothing is added to it. |
/// | a header that comes several times | The first value is passed on: the one that [`BalancedChannelBuilder::route_header`] reads. |
/// | a value of more than 256 bytes | It is not passed on. |
/// | a call without the headers | The calls of its handler have none either. |
/// | work that the handler moves to another task | It loses the headers, unless it takes them along: see [`RouteContext`]. |
///
/// A [`Route`](crate::Route) in a request's extensions is not sent, and holds for one hop alone. Where a route begins,
/// set the header.
///
/// **Security.** A server passes on what its callers send. At the edge, remove headers that outside callers must not
/// choose.
///
/// [`BalancedChannelBuilder::route_header`]: crate::BalancedChannelBuilder::route_header
#[derive(Clone, Debug)]
pub struct RouteHeaders {
    names: Arc<[HeaderName]>,
}

impl RouteHeaders {
    /// The headers with these names, at most 8; case does not count.
    ///
    /// # Errors
    /// [`Error::is_invalid_argument`] if there are more, or if one is no name of a header, or one of gRPC's own
    /// (`grpc-…`), or of binary values (`…-bin`), which no route is read from, or one that says how a request is sent:
    /// `connection`, `content-length`, `content-type`, `host`, `keep-alive`, `proxy-connection`, `te`,
    /// `transfer-encoding`, `upgrade` and `user-agent`. Those of a call that comes in are not those of one that goes out.
    pub fn new(names: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, Error> {
        let mut parsed: Vec<HeaderName> = Vec::new();
        for name in names {
            let name = name.as_ref().to_ascii_lowercase();
            if let Some(reason) = unusable_header(&name) {
                return Err(Error::invalid("route header", name, reason));
            }
            let header =
                name.parse().map_err(|_| Error::invalid("route header", name.clone(), "it is no name of a header"))?;
            if parsed.contains(&header) {
                continue;
            }
            if parsed.len() == MAX_HEADERS {
                return Err(Error::invalid(
                    "route header",
                    name,
                    format!("at most {MAX_HEADERS} headers are passed on"),
                ));
            }
            parsed.push(header);
        }
        Ok(Self { names: parsed.into() })
    }

    /// The layer for a server: [`tonic::transport::Server::layer`] takes it. It works around any HTTP service, axum's
    /// too.
    #[must_use = "a layer does nothing until a server has it"]
    pub fn server_layer(&self) -> RouteServerLayer {
        RouteServerLayer::new(self.clone())
    }

    /// The layer for a client: around a [`BalancedChannel`](crate::BalancedChannel), or any channel that generated
    /// clients take.
    #[must_use = "a layer does nothing until a client has it"]
    pub fn client_layer(&self) -> RouteClientLayer {
        RouteClientLayer::new(self.clone())
    }

    /// Reads the context from the headers of a request, as the layer of a server does: for work that comes by another
    /// way than a call, such as a message queue's.
    pub fn context(&self, headers: &HeaderMap) -> RouteContext {
        let is_short = |value: &&HeaderValue| value.len() <= MAX_HEADER_VALUE;
        let value = |name: &HeaderName| Some((name.clone(), headers.get(name).filter(is_short)?.clone()));
        RouteContext::of(self.names.iter().filter_map(value))
    }

    /// The names.
    pub(super) fn names(&self) -> &[HeaderName] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_kept_if_it_is_short() {
        let names = RouteHeaders::new(["X-Lane", "x-tenant", "x-lane"]).unwrap();
        assert_eq!(names.names(), ["x-lane", "x-tenant"]);
        let value = |length| HeaderValue::try_from("a".repeat(length)).unwrap();
        let mut headers = HeaderMap::new();
        assert!(names.context(&headers).is_empty());
        headers.append("x-lane", value(MAX_HEADER_VALUE));
        headers.append("x-lane", value(1));
        headers.append("x-other", value(1));
        let context = names.context(&headers);
        assert_eq!(context.value(&names.names()[0]), Some(&value(MAX_HEADER_VALUE)));
        assert_eq!(context.value(&names.names()[1]), None);
        assert_eq!(format!("{context:?}"), r#"{"x-lane"}"#, "values may be secrets");
        headers.insert("x-lane", value(MAX_HEADER_VALUE + 1));
        assert!(names.context(&headers).is_empty());
    }

    #[test]
    fn names_that_carry_no_route_are_refused() {
        let eight = ["a", "b", "c", "d", "e", "f", "g", "h"];
        RouteHeaders::new(eight.into_iter().chain(["A"])).unwrap();
        assert!(RouteHeaders::new(eight.into_iter().chain(["i"])).unwrap_err().to_string().contains("at most 8"));
        let of_protocol =
            ["Connection", "content-length", "content-type", "host", "keep-alive", "proxy-connection", "TE"];
        let of_protocol = of_protocol.into_iter().chain(["transfer-encoding", "upgrade", "user-agent"]);
        for name in ["", "x lane", "x-länge", "grpc-timeout", "lane-bin", ":path"].into_iter().chain(of_protocol) {
            assert!(RouteHeaders::new([name]).unwrap_err().is_invalid_argument(), "{name:?}");
        }
    }

    /// The names of settings that are let through are those that `http` takes.
    #[test]
    fn names_of_headers_are_those_of_http() {
        for byte in 0..=u8::MAX {
            let name = [b'x', byte.to_ascii_lowercase()];
            let Ok(text) = std::str::from_utf8(&name) else { continue };
            assert_eq!(unusable_header(text).is_none(), HeaderName::from_bytes(&name).is_ok(), "{text:?}");
        }
    }
}
