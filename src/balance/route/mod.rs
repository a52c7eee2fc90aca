//! The routes of calls: which part of the servers a call goes to.
//!
//! A channel names its route keys. The values that servers carry for these keys partition the set of servers. Each call
//! asks for one value of each key, or for none; servers without a value are the default servers.
//!
//! | where | what |
//! |---|---|
//! | `request` | [`Route`], what a call asks for in its extensions |
//! | `split` | [`Split`], a share of the calls that ask for nothing |
//! | `config` | the keys, headers and splits of a channel, and their check |
//! | `values` | what a server carries for the route keys |
//! | `resolve` | extension, header and split → the values that a call wants |
//! | `hops` | layers that pass a header on from the calls of a server to the calls that its handlers make |
//!
//! The files marked so in their first line have neither clock nor I/O: the random number of a split is an argument.

pub(crate) mod config;
pub(crate) mod hops;
pub(crate) mod request;
pub(crate) mod resolve;
pub(crate) mod split;
pub(crate) mod values;

pub(crate) use crate::balance::route::config::RouteConfig;
pub use crate::balance::route::request::Route;
pub use crate::balance::route::split::Split;
