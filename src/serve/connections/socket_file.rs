//! The file of a Unix socket, which is removed with its listener if this process has bound it.

use std::fs::{remove_file, symlink_metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The file of a Unix socket that this process has bound. Public only because the sealed
/// [`Listener`] trait names it.
///
/// [`Listener`]: crate::Listener
pub struct SocketFile {
    /// Absolute, so that a change of the working directory does no harm.
    path: PathBuf,
    /// Device and inode number. No other file gets them while the socket is open.
    id: (u64, u64),
}

impl SocketFile {
    /// Returns `None` if there is no file, or another process has bound it.
    pub(crate) fn of(listener: &UnixListener) -> Option<Self> {
        let address = listener.local_addr().ok()?;
        let path = std::path::absolute(address.as_pathname()?).ok()?;
        let id = id(&path)?;
        is_ours(listener).then_some(Self { path, id })
    }

    /// Removes the file, unless another one is at the path by now. To be called while the listener
    /// is open, which keeps the inode number from being used again.
    pub(crate) fn remove(self) {
        if id(&self.path) != Some(self.id) {
            return;
        }
        let path = self.path.display();
        match remove_file(&self.path) {
            Ok(()) => tracing::debug!(%path, "socket file removed"),
            Err(error) => tracing::warn!(%path, %error, "socket file not removed"),
        }
    }
}

/// The device and inode number at the path. A symbolic link counts as itself: it is not the
/// socket's file.
fn id(path: &Path) -> Option<(u64, u64)> {
    symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Whether this process has bound the socket, and was not given it.
fn is_ours(listener: &UnixListener) -> bool {
    match listening_process(listener) {
        Ok(Some(process)) => u32::try_from(process).is_ok_and(|process| process == std::process::id()),
        _ => std::env::var_os("LISTEN_FDS").is_none(),
    }
}

/// The process that listens: Linux returns it as the peer of a listening socket (`unix(7)`,
/// `SO_PEERCRED`).
fn listening_process(listener: &UnixListener) -> io::Result<Option<i32>> {
    let socket = std::os::unix::net::UnixStream::from(listener.as_fd().try_clone_to_owned()?);
    Ok(UnixStream::from_std(socket)?.peer_cred()?.pid())
}
