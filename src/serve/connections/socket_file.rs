//! The file of a Unix socket: it goes when its listener does, if it is ours.

use std::fs::{remove_file, symlink_metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The file of a socket that this process has bound.
pub struct SocketFile {
    path: PathBuf,
    /// Device and number. No other file gets them while the socket is open.
    id: (u64, u64),
}

impl SocketFile {
    /// None where there is no file, or it is not ours.
    pub(crate) fn of(listener: &UnixListener) -> Option<Self> {
        let address = listener.local_addr().ok()?;
        let path = std::path::absolute(address.as_pathname()?).ok()?;
        let id = id(&path)?;
        is_ours(listener).then_some(Self { path, id })
    }

    /// Removes it, unless another stands there by now. Its listener is still open.
    pub(crate) fn remove(self) {
        if id(&self.path) != Some(self.id) {
            return;
        }
        let path = self.path.display();
        match remove_file(&self.path) {
            Ok(()) => tracing::debug!(%path, "removed the file of the socket"),
            Err(error) => tracing::warn!(%path, %error, "the file of the socket could not be removed"),
        }
    }
}

fn id(path: &Path) -> Option<(u64, u64)> {
    symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Whether this process has made the socket listen, and was not given it.
fn is_ours(listener: &UnixListener) -> bool {
    match listening_process(listener) {
        Ok(Some(process)) => u32::try_from(process).is_ok_and(|process| process == std::process::id()),
        _ => std::env::var_os("LISTEN_FDS").is_none(),
    }
}

/// Linux keeps who listens as the peer of a socket that listens (`unix(7)`, `SO_PEERCRED`).
fn listening_process(listener: &UnixListener) -> io::Result<Option<i32>> {
    let socket = std::os::unix::net::UnixStream::from(listener.as_fd().try_clone_to_owned()?);
    Ok(UnixStream::from_std(socket)?.peer_cred()?.pid())
}
