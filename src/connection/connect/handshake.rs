//! The HTTP/2 handshake: from a stream of bytes to a connection.
//!
//! h2 itself does not wait for the server's SETTINGS. This does, because a connection without them
//! proves nothing: the system of a frozen process accepts connections, and a load balancer may do
//! so without a server behind it. It starts with a limit of 0 streams, spawns the driver, and waits
//! for the state to become `Ready`, which it does once SETTINGS admit a stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use crate::connection::capacity::CapacityListener;
use crate::connection::connect::connector::Io;
use crate::connection::driver::Driver;
use crate::connection::driver::commands::commands;
use crate::connection::driver::read_tracking::ReadTrackingIo;
use crate::connection::exchange::header_sizes::{HeaderScanner, HeaderSizes};
use crate::connection::failure::Failure;
use crate::connection::handle::{Connection, Handle};
use crate::connection::options::Options;
use crate::connection::shared::Shared;
use crate::connection::state::ConnectionState;

/// h2 charges 256 bytes less its own size for each small DATA frame until it is read, and closes
/// the connection when that budget is used up. The windows already limit what is unread, so the
/// budget is unlimited: 64 streams whose windows of 2 MiB are full of frames of one byte would need
/// 32 GiB of it.
const DATA_FRAME_BUDGET: usize = usize::MAX;
/// How many streams that were reset here h2 remembers, to recognise what the server still sends on
/// them. Beyond it h2 takes such frames for a protocol error and closes the connection.
const REMEMBERED_RESETS: usize = 1024;

impl Connection {
    /// Sends the client's preface over a connected stream, and waits for the server's SETTINGS, for
    /// `within` at most.
    ///
    /// `capacity_listener` is told of streams that become available.
    ///
    /// # Errors
    /// When the SETTINGS do not come in time, or admit no stream; and when the connection fails.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it closes the connection: the driver's task ends with its only
    /// handle.
    pub(crate) async fn handshake(
        io: impl Io,
        options: &Options,
        within: Duration,
        capacity_listener: Arc<dyn CapacityListener>,
    ) -> Result<Self, Failure> {
        let headers = Arc::new(HeaderSizes::new(options));
        let handshake = Self::exchange_settings(io, options, headers.clone(), capacity_listener);
        timeout(within, handshake).await.unwrap_or_else(|_| {
            let missing = if headers.has_settings() { "its SETTINGS admit no stream" } else { "no HTTP/2 SETTINGS" };
            Err(Failure::not_connected(format!("accepted, but {missing} within {} ms", within.as_millis())))
        })
    }

    async fn exchange_settings(
        io: impl Io,
        options: &Options,
        headers: Arc<HeaderSizes>,
        capacity_listener: Arc<dyn CapacityListener>,
    ) -> Result<Self, Failure> {
        let (io, activity) = ReadTrackingIo::new(io, HeaderScanner::new(headers.clone()));
        let (send_request, connection) = h2::client::Builder::new()
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_frame_size(options.max_frame_size)
            .max_header_list_size(options.h2_header_limit())
            .enable_push(false)
            // No request before the server's SETTINGS. A limit above 0 then also shows that they
            // have come.
            .initial_max_send_streams(0)
            // h2 takes many small unread frames, and frames of calls that were cancelled long ago,
            // for attacks, and closes the connection with all its calls. Frames that come late for
            // a cancelled call count for the life of the connection (0.4.20,
            // `proto/streams/streams.rs`, `recv_data`). Servers of a fleet are trusted, and the
            // windows limit what they can send.
            .data_frame_budget(DATA_FRAME_BUDGET)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .handshake(io)
            // h2 makes a span here that lives as long as the connection, logs each frame in it, and
            // lets it follow from the caller's span. Without a subscriber it makes none.
            .with_subscriber(Dispatch::none())
            .await
            .map_err(|error| Failure::of_send_request(&error))?;
        let (sender, receiver) = commands();
        let shared = Arc::new(Shared::new(headers, capacity_listener, options.server_streams.clone()));
        let handle = Handle {
            send_request,
            shared,
            cancelled: Arc::default(),
            activity,
            max_exchanges: options.max_exchanges,
            commands: sender,
        };
        let driver = Driver::new(connection, &handle, receiver, options);
        let connection = Self(Arc::new(handle));
        let mut states = connection.states();
        tokio::spawn(driver);
        let state = states.wait_for(|state| *state != ConnectionState::Handshaking).await;
        match state.as_deref().map(ConnectionState::close_reason) {
            Ok(None) => Ok(connection),
            Ok(Some(reason)) => Err(Failure::not_connected(reason.to_string())),
            Err(_) => Err(Failure::not_connected("the connection was dropped")),
        }
    }
}
