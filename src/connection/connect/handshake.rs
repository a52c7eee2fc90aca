//! From a stream of bytes to a connection: the client's preface, the server's SETTINGS.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use crate::connection::capacity::CapacityListener;
use crate::connection::driver::Driver;
use crate::connection::driver::commands::commands;
use crate::connection::driver::read_tracking::ReadTrackingIo;
use crate::connection::exchange::header_limits::{HeaderSizes, Scanned};
use crate::connection::failure::{Failure, Kind};
use crate::connection::options::Options;
use crate::connection::shared::{ConnectionState, Shared};
use crate::connection::{Connection, Handle};

/// h2 charges 256 bytes less its own size for each small DATA frame until it is read, and ends the connection when that is
/// used up. The streams' windows bound what is unread, so none of it is refused here: 64 streams with a window of 2 MiB full
/// of frames of one byte would need 32 GiB.
const DATA_FRAME_BUDGET: usize = usize::MAX;
/// Streams that were cancelled here, remembered so that what the server still sends of them is known.
const REMEMBERED_RESETS: usize = 1024;

impl Connection {
    /// Greets the server over a stream that is connected, and waits for its SETTINGS, all `within` so much time. `room` is told
    /// of each slot that becomes free.
    pub(crate) async fn greet<T>(
        io: T,
        options: &Options,
        within: Duration,
        room: Arc<dyn CapacityListener>,
    ) -> Result<Self, Failure>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let headers = Arc::new(HeaderSizes::new(options));
        match timeout(within, Self::handshake(io, options, headers.clone(), room)).await {
            Ok(result) => result,
            Err(_) if headers.are_settings_here() => {
                let why = format!("accepted, but its SETTINGS admit no stream within {} ms", within.as_millis());
                Err(Failure::new(Kind::NotSent, why))
            }
            Err(_) => Err(Failure::new(Kind::NotSent, silence(within))),
        }
    }

    async fn handshake<T>(
        io: T,
        options: &Options,
        headers: Arc<HeaderSizes>,
        room: Arc<dyn CapacityListener>,
    ) -> Result<Self, Failure>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (io, last_read) = ReadTrackingIo::new(Scanned::new(io, headers.clone()));
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_frame_size(options.max_frame_size)
            .max_header_list_size(options.h2_header_limit())
            .enable_push(false)
            // Until its SETTINGS have come the server takes nothing; this is also how their coming is seen.
            .initial_max_send_streams(0)
            // h2 takes many small frames that nobody reads, and frames of calls that were cancelled long ago, for attacks, and
            // ends the connection with all its calls. What comes late for a cancelled call counts for the life of the connection
            // (0.4.20, `proto/streams/streams.rs`, `recv_data`). Servers of a fleet are trusted; the windows bound what they can
            // send.
            .data_frame_budget(DATA_FRAME_BUDGET)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .handshake(io)
            // h2 makes a span here that lives as long as the connection, in which it says each frame, and which follows from
            // whatever span the connection was made in: without a subscriber it makes none.
            .with_subscriber(Dispatch::none())
            .await
            .map_err(|error| Failure::not_sent(&error))?;
        let (stage, mut stages) = watch::channel(ConnectionState::Greeting);
        let (commander, commands) = commands();
        let shared = Arc::new(Shared::new(stage, headers, room));
        let heard = last_read.clone();
        let driver = Driver::new(connection, send.clone(), shared.clone(), heard, commands, options);
        let connection = Self(Arc::new(Handle {
            send,
            shared,
            last_read,
            most_exchanges: options.most_exchanges,
            commands: commander,
        }));
        // Should the wait below be dropped, the driver ends with its handle.
        tokio::spawn(driver);
        let greeted = stages.wait_for(|stage| *stage != ConnectionState::Greeting).await.map(|stage| stage.clone());
        match greeted {
            Ok(ConnectionState::Ready) => Ok(connection),
            Ok(ConnectionState::Draining(end) | ConnectionState::Closed(end)) => {
                Err(Failure::new(Kind::NotSent, end.why))
            }
            Ok(ConnectionState::Greeting) | Err(_) => Err(Failure::new(Kind::NotSent, "the connection was dropped")),
        }
    }
}

fn silence(after: Duration) -> String {
    format!("accepted, but no HTTP/2 SETTINGS within {} ms", after.as_millis())
}
