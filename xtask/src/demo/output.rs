//! What the examples print, as data.

use std::net::SocketAddr;

/// One line of the client while it runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Answered by this server.
    Ok(SocketAddr),
    Failed,
}

/// The client's last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
}

/// `ok 127.0.0.1:PORT Hello world` or `failed CODE: text`.
pub(crate) fn call(line: &str) -> Option<Call> {
    if let Some(rest) = line.strip_prefix("ok ") {
        let (address, greeting) = rest.split_once(' ')?;
        return (!greeting.is_empty()).then(|| address.parse().ok().map(Call::Ok))?;
    }
    let (code, _text) = line.strip_prefix("failed ")?.split_once(": ")?;
    (!code.is_empty()).then_some(Call::Failed)
}

/// `client: calls=N failed=N`.
pub(crate) fn total(line: &str) -> Option<Total> {
    let (calls, failed) = line.strip_prefix("client: calls=")?.split_once(" failed=")?;
    Some(Total { calls: calls.parse().ok()?, failed: failed.parse().ok()? })
}

/// `listening on 127.0.0.1:PORT`.
pub(crate) fn listening(line: &str) -> Option<SocketAddr> {
    line.strip_prefix("listening on ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        assert_eq!(call("ok 127.0.0.1:5000 Hello world"), Some(Call::Ok(([127, 0, 0, 1], 5000).into())));
        assert_eq!(call("failed Unavailable: no server: none is left"), Some(Call::Failed));
        for malformed in ["", "ok", "ok 127.0.0.1:5000", "ok there Hello", "failed", "failed x", "OK 1.1.1.1:1 Hello"] {
            assert_eq!(call(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn ends() {
        assert_eq!(total("client: calls=3000 failed=2"), Some(Total { calls: 3000, failed: 2 }));
        assert_eq!(total("client: calls=3000"), None);
        assert_eq!(listening("listening on 127.0.0.1:81"), Some(([127, 0, 0, 1], 81).into()));
        assert_eq!(listening("listening on port 81"), None);
    }
}
