//! The TLS settings that a new connection is made with: always the same, or what files or a function of the user's give now.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use tracing::{Dispatch, dispatcher};

use crate::connection::connect::panics;
use crate::connection::connect::tls::Invalid;
use crate::connection::connect::tls::files::{Files, Reader};

/// Gives the present settings, or says why not.
pub(crate) type Function = Arc<dyn Fn() -> Result<Arc<ClientConfig>, String> + Send + Sync>;

/// Where the settings of each new connection come from. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Settings {
    Fixed(Arc<ClientConfig>),
    Changing(Arc<Mutex<Changing>>),
}

/// Settings that may change from one connection to the next. Who holds its lock asks for them.
pub(crate) struct Changing {
    source: Source,
    /// What was given last, when that was asked for.
    last: Option<(Instant, Result<Arc<ClientConfig>, String>)>,
    /// The last that was good.
    good: Option<Arc<ClientConfig>>,
    is_failing: bool,
}

enum Source {
    Files(Reader),
    /// With what it gave last, and what was made of that.
    Function(Function, Option<(Arc<ClientConfig>, Arc<ClientConfig>)>),
}

impl Settings {
    pub(crate) fn fixed(config: &ClientConfig) -> Self {
        Self::Fixed(over_http2(config.clone()))
    }

    pub(crate) fn of_function(function: Function) -> Self {
        Self::Changing(Arc::new(Mutex::new(Changing::new(Source::Function(function, None), None))))
    }

    /// Reads them for the first time.
    pub(crate) fn of_files(files: Files) -> Result<Self, Invalid> {
        let is_fixed = files.is_fixed();
        let mut reader = Reader::new(files);
        let config = reader.read()?;
        Ok(if is_fixed {
            Self::Fixed(config)
        } else {
            Self::Changing(Arc::new(Mutex::new(Changing::new(Source::Files(reader), Some(config)))))
        })
    }

    /// Whether the settings of the next connection may be others than those of the last.
    pub(crate) fn change(&self) -> bool {
        matches!(self, Self::Changing(_))
    }

    /// The settings for a connection that is made now. Asked for by one at a time; who had to wait shares what was asked for after
    /// it began to wait, so that a thousand connections at once do not read the same files a thousand times.
    pub(crate) async fn present(&self) -> Result<Arc<ClientConfig>, String> {
        let changing = match self {
            Self::Fixed(config) => return Ok(config.clone()),
            Self::Changing(changing) => changing,
        };
        let wanted = Instant::now();
        let mut changing = changing.clone().lock_owned().await;
        if let Some((asked, given)) = &changing.last
            && *asked >= wanted
        {
            return given.clone();
        }
        // The lock goes with it: what hangs is not begun again by whoever comes next.
        let (log, span) = (dispatcher::get_default(Dispatch::clone), tracing::Span::current());
        let asking = spawn_blocking(move || {
            dispatcher::with_default(&log, || {
                // Whatever the user's function leaves half done is its own; what is held here is whole.
                let ask = AssertUnwindSafe(|| span.in_scope(|| changing.ask()));
                catch_unwind(ask).unwrap_or_else(|panic| Err(panicked(panic)))
            })
        });
        asking.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Changing {
    fn new(source: Source, good: Option<Arc<ClientConfig>>) -> Self {
        Self { source, last: None, good, is_failing: false }
    }

    fn ask(&mut self) -> Result<Arc<ClientConfig>, String> {
        let asked = Instant::now();
        let asked_for = match &mut self.source {
            Source::Files(reader) => reader.read().map_err(|(what, why)| format!("{what}: {why}")),
            Source::Function(function, known) => function().map(|given| match known {
                // Sessions can then be resumed.
                Some((before, made)) if Arc::ptr_eq(before, &given) => made.clone(),
                _ => known.insert((given.clone(), over_http2((*given).clone()))).1.clone(),
            }),
        };
        let given = match (asked_for, &self.good) {
            (Ok(config), _) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(parent: None, "TLS settings can be read again");
                }
                self.good = Some(config.clone());
                Ok(config)
            }
            (Err(error), Some(good)) => {
                if std::mem::replace(&mut self.is_failing, true) {
                    tracing::debug!(parent: None, error, "TLS settings cannot be read");
                } else {
                    tracing::warn!(parent: None, error, "TLS settings cannot be read; using the last ones");
                }
                Ok(good.clone())
            }
            (Err(error), None) => Err(error),
        };
        self.last = Some((asked, given.clone()));
        given
    }
}

pub(crate) fn over_http2(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn panicked(panic: Box<dyn Any + Send>) -> String {
    format!("the function that gives them panicked: {}", panics::text(panic))
}
