//! Where the TLS configuration of each new connection comes from: always the same one, or what
//! files or a function of the user's give at that time.
//!
//! A source that changes has one of three results for each connection:
//! - valid: the new configuration is used, and kept;
//! - invalid, and an earlier one was valid: that one is used. Logged at WARN the first time, then
//!   at DEBUG until one is valid again;
//! - invalid from the start: the attempt to connect fails with the reason.
//!
//! A function that panics has given an invalid one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use tracing::{Dispatch, dispatcher};

use crate::connection::connect::panics::panic_message;
use crate::connection::connect::tls::config::{InvalidTls, with_http2_alpn};
use crate::connection::connect::tls::files::{FileReader, PemFiles};

/// A function of the user's that gives the present configuration.
pub(super) type ConfigFunction = Arc<dyn Fn() -> Result<Arc<ClientConfig>, String> + Send + Sync>;

/// Gives the configuration of each new connection. Cheap to clone.
#[derive(Clone)]
pub(super) enum ConfigSource {
    Fixed(Arc<ClientConfig>),
    /// Whoever holds the lock asks for the configuration.
    Reloading(Arc<Mutex<ReloadingConfig>>),
}

/// A configuration that may change from one connection to the next.
pub(super) struct ReloadingConfig {
    origin: Origin,
    /// The last result, and when it was asked for.
    last: Option<(Instant, Result<Arc<ClientConfig>, String>)>,
    /// The last valid configuration. It stays in use while newer ones are invalid.
    valid: Option<Arc<ClientConfig>>,
    /// The last result was invalid, and that is logged.
    is_failing: bool,
}

/// What is asked.
enum Origin {
    Files(FileReader),
    /// The function, and the last configuration that it gave with the one that was made of it.
    Function(ConfigFunction, Option<(Arc<ClientConfig>, Arc<ClientConfig>)>),
}

impl ConfigSource {
    /// Always this configuration, with HTTP/2's ALPN.
    pub(super) fn of_config(config: &ClientConfig) -> Self {
        Self::Fixed(with_http2_alpn(config.clone()))
    }

    /// Does not call the function yet.
    pub(super) fn of_function(function: ConfigFunction) -> Self {
        Self::reloading(Origin::Function(function, None), None)
    }

    /// Reads the files for the first time. Blocks.
    pub(super) fn of_files(files: PemFiles) -> Result<Self, InvalidTls> {
        let has_files = files.has_any();
        let mut reader = FileReader::new(files);
        let config = reader.read()?;
        Ok(if has_files { Self::reloading(Origin::Files(reader), Some(config)) } else { Self::Fixed(config) })
    }

    /// A source that is asked for each connection.
    fn reloading(origin: Origin, valid: Option<Arc<ClientConfig>>) -> Self {
        let config = ReloadingConfig { origin, last: None, valid, is_failing: false };
        Self::Reloading(Arc::new(Mutex::new(config)))
    }

    /// Whether the next connection may have another configuration than the last.
    pub(super) fn changes(&self) -> bool {
        matches!(self, Self::Reloading(_))
    }

    /// The configuration for a connection that is made now.
    ///
    /// One caller at a time asks for it. A caller that had to wait shares a result that was asked
    /// for after it began to wait, so that a thousand connections at once do not read the same
    /// files a thousand times.
    ///
    /// # Cancel safety
    /// A dropped future leaves the blocking work running, and the lock with it: the next caller
    /// waits for it.
    pub(super) async fn current(&self) -> Result<Arc<ClientConfig>, String> {
        let reloading = match self {
            Self::Fixed(config) => return Ok(config.clone()),
            Self::Reloading(reloading) => reloading,
        };
        let requested = Instant::now();
        let mut reloading = reloading.clone().lock_owned().await;
        if let Some((asked, result)) = &reloading.last
            && *asked >= requested
        {
            return result.clone();
        }
        // The lock moves into the blocking task: a function that hangs must not be called again by
        // the next caller. The caller's subscriber and span do too, so that events of the user's
        // function belong to them.
        let (subscriber, span) = (dispatcher::get_default(Dispatch::clone), tracing::Span::current());
        let reload =
            spawn_blocking(move || dispatcher::with_default(&subscriber, || span.in_scope(|| reloading.reload())));
        reload.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl ReloadingConfig {
    /// Asks for the present configuration; falls back to the last valid one. Blocks.
    fn reload(&mut self) -> Result<Arc<ClientConfig>, String> {
        let asked = Instant::now();
        let present = match &mut self.origin {
            Origin::Files(reader) => reader.read().map_err(|invalid| invalid.to_string()),
            Origin::Function(function, last) => call(function).map(|given| match last {
                // The same one: TLS sessions can be resumed only with the configuration that made
                // them.
                Some((before, made)) if Arc::ptr_eq(before, &given) => made.clone(),
                _ => last.insert((given.clone(), with_http2_alpn((*given).clone()))).1.clone(),
            }),
        };
        let result = match (present, &self.valid) {
            (Ok(config), _) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(parent: None, "TLS settings valid again");
                }
                self.valid = Some(config.clone());
                Ok(config)
            }
            (Err(error), Some(valid)) => {
                if std::mem::replace(&mut self.is_failing, true) {
                    tracing::debug!(parent: None, error, "TLS settings invalid");
                } else {
                    tracing::warn!(parent: None, error, "TLS settings invalid, keeping the last valid ones");
                }
                Ok(valid.clone())
            }
            (Err(error), None) => Err(error),
        };
        self.last = Some((asked, result.clone()));
        result
    }
}

/// Calls the user's function. Its panic is an error, as one that it returns.
fn call(function: &ConfigFunction) -> Result<Arc<ClientConfig>, String> {
    // Unwind safe: the function may be called again after an error, and so after a panic.
    let panicked = |panic| Err(format!("the function that gives them panicked: {}", panic_message(panic)));
    catch_unwind(AssertUnwindSafe(|| function())).unwrap_or_else(panicked)
}
