//! Headers that are passed on from the calls of a server to the calls that its handlers make.
//!
//! - `headers.rs`: [`RouteHeaders`], which headers those are.
//! - `context.rs`: [`RouteContext`], the headers of the call that a task works for.
//! - `server.rs`: the layer of a server, which keeps them while a handler runs.
//! - `client.rs`: the layer of a client, which puts them on its requests.

mod client;
mod context;
mod headers;
mod server;

pub use crate::balance::route::hops::client::{RouteClient, RouteClientLayer};
pub use crate::balance::route::hops::context::RouteContext;
pub use crate::balance::route::hops::headers::RouteHeaders;
pub use crate::balance::route::hops::server::{RouteBody, RouteServer, RouteServerLayer};
