//! The spans of calls and of their attempts: names, fields, how to turn them on, and what they cost.
//!
//! The spans are those of gRFC A72 (OpenTelemetry tracing), made with [`tracing`](https://docs.rs/tracing): this crate
//! depends on no telemetry crate. Each call of a [`BalancedChannel`](crate::BalancedChannel) has one span, and each of
//! its attempts has one within it: the first, retries, hedges, and attempts in place of others that no server has
//! processed. A call that finds no server has no span of an attempt; the [metrics](crate::metrics) count one all the same.
//!
//! # Turning them on
//!
//! Both have the level DEBUG and the target `tonic_etcd::call`, so that they can be told from the crate's DEBUG
//! messages:
//!
//! ```text
//! RUST_LOG=info,tonic_etcd::call=debug
//! ```
//!
//! `tracing-opentelemetry` makes spans of OpenTelemetry of them; it takes name, kind and status from the fields that
//! begin with `otel.`. `examples/opentelemetry` in this crate's repository does that, and sends the trace context to
//! the servers (`cargo xtask example opentelemetry`). `tracing_subscriber::fmt()` shows them around the messages that
//! belong to a call (`call failed, repeating it`).
//!
//! # The span `call`
//!
//! | field | value |
//! |---|---|
//! | `otel.name` | `Sent.` and the method: `Sent.helloworld.Greeter.SayHello`. The method is the path of the request, whoever makes the call |
//! | `otel.kind` | `client` |
//! | `service` | the service of the channel, as in the crate's log messages |
//! | `grpc.status` | at the end: gRPC's name of the code, such as `OK` or `UNAVAILABLE`, as A66 has it in metrics |
//! | `otel.status_code` | at the end: `OK`, or `ERROR` for each other code |
//! | `otel.status_description` | at the end of a failed call: the text of its status, if it has one. Texts of this channel name no address, unless [`addresses_in_statuses`](crate::BalancedChannelBuilder::addresses_in_statuses) asks for it; those of servers are as they sent them |
//!
//! Its parent is the span that is current where the channel is called, which is the caller's. It begins there and ends
//! with the response: when the trailers have been read, with the failure that the caller gets, or when the future or
//! the body of the response is dropped. Such a call ends with `CANCELLED`, unless the channel knows its status already,
//! because it held the response back ([`RetryPolicy::repeatable`](crate::RetryPolicy::repeatable)). The caller's span
//! stays open for as long: who keeps a streamed response keeps both.
//!
//! # The span `attempt`
//!
//! | field | value |
//! |---|---|
//! | `otel.name` | `Attempt.` and the method: `Attempt.helloworld.Greeter.SayHello` |
//! | `otel.kind` | `client` |
//! | `server` | the address of the server, as in the crate's log messages |
//! | `attempt` | the number of the attempt, from 1. It counts transparent retries and hedges |
//! | `previous-rpc-attempts` | how many attempts went before that a server may have processed, as the header `grpc-previous-rpc-attempts`: the failed ones, and those in flight |
//! | `transparent-retry` | whether it takes the place of an attempt that no server has processed (gRFC A6) |
//! | `grpc.status`, `otel.status_code` | at the end, as above |
//!
//! Its parent is the span of its call. It begins when a server is picked and the request is about to be sent: the wait
//! for a server is a part of the call alone. It ends with the attempt:
//!
//! | the attempt | ends with |
//! |---|---|
//! | has a status of the server | that status |
//! | was not processed | `UNAVAILABLE` |
//! | lost against another one, was given up after its time, or was cancelled with its call | `CANCELLED` |
//! | failed in another way | the code that its call would end with |
//!
//! # What is left out
//!
//! - A72's events: each message that is sent or received, the end of name resolution, and the end of a delayed pick.
//! - The trace context in the request. Tower layers and interceptors around the channel put it there, as always. They
//!   run before the channel, so the server's span becomes a child of the caller's span, beside that of the call, and each
//!   attempt carries the same context.
//! - Connections and health checks: they belong to no call.
//!
//! A call keeps the subscriber that it was made under, wherever it is polled: that subscriber gets its attempts and events. A
//! subscriber that panics at the end of a span loses the record of that end, and the call goes on.
//!
//! The spans are never entered, so that none is current while code of users runs, and what a subscriber tells of the
//! time in which they were entered (`busy_ns`) is 0. Interceptors run before the call's span begins. The request's
//! stream is polled in the span of whoever polls the call. Connectors run in background tasks, without a span.
//!
//! # What they cost
//!
//! Where nothing records them (no subscriber, or none at DEBUG), a call has one look at tracing's level, which is an
//! atomic, and allocates nothing for them. An enabled span is one allocation of this crate, and what the subscriber
//! makes of it. With the feature `release_max_level_info` of the crate `tracing` they are compiled out.
