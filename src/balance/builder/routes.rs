//! The route keys of a channel, the headers that calls name their values in, and shares of calls.

use std::sync::Arc;

use crate::balance::builder::BalancedChannelBuilder;
use crate::balance::route::Split;

impl BalancedChannelBuilder {
    /// Names a key that calls may be routed by: [`Route::to("lane", "blue")`](crate::Route::to) in a request's
    /// extensions. None by default. A key that is named twice counts once.
    ///
    /// **The servers are partitioned** by the values that they carry for all route keys together. A server carries the
    /// metadata of that name, as it is written ([`Instance::with_metadata`](crate::Instance::with_metadata)); for the
    /// keys `version` and `zone` its [version](crate::Instance::with_version) and [zone](crate::Instance::with_zone)
    /// count where the metadata have no such name. An empty value is none. The servers that carry no value for any key
    /// are the *default* servers.
    ///
    /// | the call | goes to |
    /// |---|---|
    /// | names a value for each key | the servers that carry exactly these values |
    /// | names values for some keys | the servers that carry these values, and none for the other keys |
    /// | names nothing | the default servers, never a canary (Dubbo's rule for tags), unless a [`split`](Self::split) draws it |
    ///
    /// A call names values by a [`Route`](crate::Route), or in a [header](Self::route_header); the route counts first,
    /// key by key. It keeps its values in all its attempts.
    ///
    /// **Where all servers carry a value**, such as a version, there are no default servers, and calls that name nothing fail: name a
    /// key that only canaries carry, or send all calls by [`Route`](crate::Route), header or [`split`](Self::split).
    ///
    /// **While no server of a partition is ready**, or each has failed the call, its calls go to the default servers if they say so
    /// ([`Route::or_default`](crate::Route::or_default), and always those of `route_header` and splits). Strict calls wait or
    /// fail as if no other server were registered. They fail with `UNAVAILABLE`, and the text has key and value.
    ///
    /// **At most 16 partitions** are connected beside the default servers, so that values that differ for each server
    /// do not cost a partition each. Servers of further ones get no calls. That is logged at WARN, and strict calls for
    /// them are told so.
    ///
    /// A key has 1 to 256 bytes without control characters, and a channel has at most 8 keys. Otherwise building the
    /// channel fails.
    ///
    /// ```
    /// # use greeter_proto::{HelloRequest, greeter_client::GreeterClient};
    /// # async fn call(resolver: tonic_etcd::Resolver) -> Result<(), Box<dyn std::error::Error>> {
    /// use tonic_etcd::{BalancedChannel, Route};
    ///
    /// let channel = BalancedChannel::builder().route_key("lane").build(&resolver.resolve("greeter")?)?;
    /// let mut request = tonic::Request::new(HelloRequest { name: "blue world".into() });
    /// request.extensions_mut().insert(Route::to("lane", "blue")); // servers with the metadata lane=blue alone
    /// GreeterClient::new(channel).say_hello(request).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn route_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.settings.routes.add_key(key.into());
        self
    }

    /// Reads the value of a route key from a header (metadata) of the request, such as `x-lane`, where the request has
    /// no [`Route`](crate::Route) with that key. A later header of the same key replaces the earlier one. No header is
    /// read by default.
    ///
    /// Such calls go to the default servers while no server that carries the value is ready
    /// ([`Route::or_default`](crate::Route::or_default)), because a header often comes from outside, by a handler that
    /// passes it on: nobody outside can make calls fail by it. [`strict_route_header`](Self::strict_route_header) is
    /// strict.
    ///
    /// The first value of the header counts. A value is printable ASCII of at most 256 bytes; any other one, and an
    /// empty one, is ignored, as if the request did not have the header. The header is sent on to the server as it is.
    /// [`RouteHeaders`](crate::RouteHeaders) has layers that pass it on through several servers.
    ///
    /// **Security.** Whoever can set the header chooses among the partitions. Remove it at the edge if outside callers
    /// must not.
    ///
    /// The key must be a [route key](Self::route_key) of the channel, and the header a name for text: neither `grpc-…`
    /// nor `…-bin`, nor one that says how a request is sent, such as `te` or `user-agent`
    /// ([`RouteHeaders::new`](crate::RouteHeaders::new) lists them). Otherwise building the channel fails.
    pub fn route_header(mut self, key: impl Into<Arc<str>>, header: impl AsRef<str>) -> Self {
        self.settings.routes.set_header(key.into(), header.as_ref(), true);
        self
    }

    /// As [`route_header`](Self::route_header), for calls that must go nowhere else: they wait or fail while no
    /// server that carries the value is ready. A call whose header is not empty, and yet has no value that could be
    /// read, fails with `INTERNAL`.
    ///
    /// A call that is strict by one of its keys is strict as a whole. A [`Route`](crate::Route) of the request that names the key counts
    /// in place of the header, also if it may go to the default servers.
    pub fn strict_route_header(mut self, key: impl Into<Arc<str>>, header: impl AsRef<str>) -> Self {
        self.settings.routes.set_header(key.into(), header.as_ref(), false);
        self
    }

    /// Sends shares of the calls that name no value by themselves to servers that carry one: [`Split`] has the rules.
    /// None by default; several splits add up.
    ///
    /// The key of the split must be a [route key](Self::route_key) of the channel, and the shares of all splits
    /// together at most 100 %. Otherwise building the channel fails.
    pub fn split(mut self, split: Split) -> Self {
        self.settings.routes.add_split(split);
        self
    }
}
