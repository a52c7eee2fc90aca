//! Reads and writes cache files. Everything here blocks.
//!
//! A file is replaced as a whole: readers see the old one or the new one, also after a crash. Only
//! its head is written in place, when the contents stay. Several processes may use one folder: each
//! has temporary files of its own, and the last one to finish wins. That none brings an older state is
//! the caller's part.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::resolver::cache::file::HEAD;

/// The largest file that is read or written, in bytes. Ten thousand instances take some 3 MB.
const MAX_SIZE: u64 = 256 << 20;
/// Temporary files that are older were left behind by a process that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(3_600);
/// The ending of temporary files.
const TEMPORARY: &str = ".cache-tmp";
/// Tries to find a name for a temporary file that nobody has.
const NAME_TRIES: usize = 8;

/// The folder of the cache files.
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    /// The files of a folder, which is made when the first one is written.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The path of a file.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The bytes of a file; `None` if there is no such file.
    ///
    /// # Errors
    /// When it cannot be read, is no plain file, or is larger than 256 MiB.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        // Looked at first: opening a pipe would wait for its writer.
        match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("it is no plain file")),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        check_size(bytes.len())?;
        Ok(Some(bytes))
    }

    /// Writes the head of these bytes into a file that has the same contents. `false` if there is no
    /// such file, its contents are others, or others may read it: then nothing was written.
    pub(super) fn confirm(&self, name: &str, bytes: &[u8]) -> bool {
        let path = self.path(name);
        let (head, contents) = bytes.split_at(HEAD.min(bytes.len()));
        let confirm = || -> io::Result<bool> {
            let metadata = fs::metadata(&path)?;
            if !metadata.is_file() || !is_private(&metadata) || metadata.len() != bytes.len() as u64 {
                return Ok(false);
            }
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            // Compared with what is there, not with a checksum: the disk may have damaged it.
            let mut known = Vec::with_capacity(bytes.len());
            (&file).take(MAX_SIZE).read_to_end(&mut known)?;
            if known.get(HEAD..) != Some(contents) {
                return Ok(false);
            }
            file.rewind()?;
            file.write_all(head)?; // one write, so that no reader sees a part of it
            Ok(true)
        };
        // Whatever is wrong, the whole file is written next, and tells.
        confirm().unwrap_or(false)
    }

    /// Replaces a file.
    ///
    /// # Errors
    /// When the folder or the file cannot be written. Then the old file stays.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        check_size(bytes.len())?;
        self.make_directory()?;
        let (temporary, file) = self.temporary(name)?;
        let written = write_and_flush(file, bytes).and_then(|()| fs::rename(&temporary, self.path(name)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary); // it is of no use, and the first error is what counts
        }
        written?;
        flush_directory(&self.directory);
        Ok(())
    }

    /// Removes temporary files that were left behind an hour ago or earlier.
    pub(super) fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let is_old = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age > LEFT_BEHIND);
            if entry.file_name().to_string_lossy().ends_with(TEMPORARY)
                && entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.modified().is_ok_and(is_old))
            {
                let _ = fs::remove_file(entry.path()); // another process may have done it
            }
        }
    }

    /// Makes the folder where it is missing, for its owner alone.
    fn make_directory(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&self.directory)
    }

    /// A new file that nobody else has, for its owner alone.
    fn temporary(&self, name: &str) -> io::Result<(PathBuf, File)> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut tries = 0;
        loop {
            let path = self.path(&format!("{name}.{:016x}{TEMPORARY}", fastrand::u64(..)));
            match options.open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < NAME_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Refuses what is too large.
fn check_size(size: usize) -> io::Result<()> {
    if size as u64 > MAX_SIZE {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_SIZE >> 20)));
    }
    Ok(())
}

/// Whether the file is its owner's alone, as a new one is. A copy may not be.
fn is_private(metadata: &fs::Metadata) -> bool {
    #[cfg(unix)]
    let of_others = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077;
    #[cfg(not(unix))]
    let (of_others, _) = (0, metadata);
    of_others == 0
}

/// Writes a file and waits until the disk has it, so that the renamed file is never empty.
fn write_and_flush(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the new name last. Not every file system can; then a crash may bring back the old file.
fn flush_directory(directory: &Path) {
    #[cfg(unix)]
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    #[cfg(not(unix))]
    let _ = directory;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::cache::file::{Contents, Stamp, decode, encode};

    const NAME: &str = "s%2F.cache";

    fn file(value: &[u8], confirmed_ms: u64) -> Vec<u8> {
        let records = vec![(b"s/1".as_slice(), value)];
        encode(stamp(confirmed_ms), &Contents { codec: "detect", prefix: b"s/", records }).unwrap()
    }

    fn stamp(confirmed_ms: u64) -> Stamp {
        Stamp { confirmed_ms, revision: 1 }
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn files_are_replaced_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("a/b"));
        assert_eq!(store.read(NAME).unwrap(), None);
        store.sweep(); // there is no folder yet
        for value in [b"h:1".as_slice(), b"h:2"] {
            store.write(NAME, &file(value, 1)).unwrap();
            assert_eq!(store.read(NAME).unwrap().unwrap(), file(value, 1));
        }
        assert_eq!(names(&folder.path().join("a/b")), [NAME]);
    }

    #[cfg(unix)]
    #[test]
    fn files_and_folder_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("cache"));
        store.write(NAME, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.path(NAME)), 0o600);
        assert_eq!(mode(&folder.path().join("cache")), 0o700);
        store.write(NAME, &file(b"h:1", 1)).unwrap();
        fs::set_permissions(store.path(NAME), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!store.confirm(NAME, &file(b"h:1", 2)), "a copy that others can read is replaced");
    }

    #[test]
    fn a_confirmation_changes_the_head_alone_and_only_of_the_same_contents() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        assert!(!store.confirm(NAME, &file(b"h:1", 2)), "there is no file");
        store.write(NAME, &file(b"h:1", 1)).unwrap();
        assert!(store.confirm(NAME, &file(b"h:1", 2)));
        let bytes = store.read(NAME).unwrap().unwrap();
        assert_eq!(bytes, file(b"h:1", 2));
        assert_eq!(decode(&bytes).unwrap().0, stamp(2));
        store.write(NAME, &file(b"h:2", 3)).unwrap();
        assert!(!store.confirm(NAME, &file(b"h:1", 4)), "another process has written other contents");
        assert_eq!(store.read(NAME).unwrap().unwrap(), file(b"h:2", 3));
        let mut damaged = file(b"h:2", 3);
        damaged[HEAD + 3] ^= 1;
        store.write(NAME, &damaged).unwrap();
        assert!(!store.confirm(NAME, &file(b"h:2", 4)), "damaged contents are not confirmed");
        assert_eq!(store.read(NAME).unwrap().unwrap(), damaged);
    }

    #[test]
    fn what_is_no_file_is_neither_read_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        fs::create_dir(store.path(NAME)).unwrap();
        assert!(store.read(NAME).unwrap_err().to_string().contains("no plain file"));
        assert!(!store.confirm(NAME, &file(b"h:1", 1)));
        assert!(store.write(NAME, b"x").is_err());
        assert_eq!(names(folder.path()), [NAME], "no temporary file is left");
    }

    #[test]
    fn only_old_temporary_files_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        for (name, is_old) in
            [("old.cache.1.cache-tmp", true), ("new.cache.1.cache-tmp", false), ("old.cache", true), ("other", true)]
        {
            let file = File::create(folder.path().join(name)).unwrap();
            if is_old {
                file.set_modified(SystemTime::now() - 2 * LEFT_BEHIND).unwrap();
            }
        }
        store.sweep();
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, ["new.cache.1.cache-tmp", "old.cache", "other"]);
    }

    /// Two processes that share a folder: each reader sees a whole file.
    #[test]
    fn writers_that_share_a_folder_never_show_a_part_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for value in [vec![b'a'; 40_000], vec![b'b'; 60_000]] {
                let store = Store::new(folder.path().into());
                scope.spawn(move || {
                    for round in 0..20 {
                        store.write(NAME, &file(&value, round)).unwrap();
                    }
                });
            }
            let store = Store::new(folder.path().into());
            for _ in 0..200 {
                if let Some(bytes) = store.read(NAME).unwrap() {
                    decode(&bytes).unwrap();
                }
            }
        });
        assert_eq!(names(folder.path()), [NAME]);
    }
}
