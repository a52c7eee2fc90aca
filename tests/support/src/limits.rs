//! The limit on open file descriptors.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open file descriptors to the hard one, for this process and the children
/// it starts from now on; a fleet in one process needs more than the usual 1024.
///
/// Returns the soft limit that now holds; `None` is unlimited. A limit that cannot be raised stays.
pub fn raise_fd_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Refused where a sandbox says so: the old limit then stays, and is what is returned.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_becomes_hard() {
        assert_eq!(raise_fd_limit(), getrlimit(Resource::Nofile).maximum);
    }
}
