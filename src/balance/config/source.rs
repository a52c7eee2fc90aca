//! Where the text of a service config comes from.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt, pending};

use crate::balance::config::ServiceConfigSource;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The source that the builder names.
#[derive(Clone, Default)]
pub(crate) enum ConfigSource {
    #[default]
    None,
    Code(Arc<str>),
    File(PathBuf),
    Updates(watch::Receiver<Arc<str>>),
    /// What comes with the servers.
    Directory,
}

/// A text that has come, or why none has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigText {
    pub(crate) source: ServiceConfigSource,
    /// `None`: there is no document.
    pub(crate) text: Result<Option<Arc<str>>, TextError>,
}

/// Why there is no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TextError {
    /// The document is refused.
    Invalid(String),
    /// It cannot be read.
    Unreadable(String),
}

/// Texts, one after the other. One that is equal to the last may come again.
pub(crate) type ConfigTexts = Pin<Box<dyn Stream<Item = ConfigText> + Send>>;

impl ConfigSource {
    /// Whether the builder names a source.
    pub(crate) fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// The text that is there now, if there is a source.
    pub(crate) fn first(&self) -> Option<ConfigText> {
        let (source, text) = match self {
            Self::None | Self::Directory => return None,
            Self::Code(text) => (ServiceConfigSource::Code, Ok(Some(text.clone()))),
            Self::File(path) => (name_of(path), read(path)),
            Self::Updates(texts) => (ServiceConfigSource::Updates, Ok(Some(texts.borrow().clone()))),
        };
        Some(ConfigText { source, text })
    }

    /// The texts that follow.
    pub(crate) fn following(self) -> ConfigTexts {
        match self {
            Self::None | Self::Code(_) | Self::Directory => Box::pin(pending()),
            Self::File(path) => Box::pin(follow(path)),
            Self::Updates(texts) => {
                let of = |text| ConfigText { source: ServiceConfigSource::Updates, text: Ok(Some(text)) };
                // The last one stays in force when the sender is gone.
                Box::pin(WatchStream::from_changes(texts).map(of).chain(pending()))
            }
        }
    }
}

fn name_of(path: &std::path::Path) -> ServiceConfigSource {
    ServiceConfigSource::File(path.display().to_string().into())
}

fn read(path: &std::path::Path) -> Result<Option<Arc<str>>, TextError> {
    let text = std::fs::read_to_string(path);
    let unreadable = |error: io::Error| TextError::Unreadable(format!("{}: {error}", path.display()));
    text.map(|text| Some(text.into())).map_err(unreadable)
}

/// Reads the file again and again. Reading is short, but may wait for a disk: it is done beside the runtime's tasks.
fn follow(path: PathBuf) -> impl Stream<Item = ConfigText> + Send {
    let source = name_of(&path);
    let look = move |()| {
        let path = path.clone();
        async move {
            sleep(LOOK).await;
            let text = tokio::task::spawn_blocking(move || read(&path)).await;
            text.unwrap_or_else(|error| Err(TextError::Unreadable(error.to_string())))
        }
    };
    let looks = tokio_stream::iter(std::iter::repeat(())).then(look);
    looks.map(move |text| ConfigText { source: source.clone(), text })
}
