//! Just enough of an HTTP client to ask etcd how it is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// etcd answers `/health` by itself within a second or two; a frozen one never does.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Asks for `path`; `None` when nobody answers, or not in HTTP.
///
/// HTTP/1.0 on purpose: the answer then ends with the connection and is never chunked.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<Response> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(TIMEOUT)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn status_and_body() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.0 503 Busy\r\nA: b\r\n\r\nlater\r\n\r\n!").unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let answer = super::get(address, "/health").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "later\r\n\r\n!"));
        assert!(server.join().unwrap().starts_with("GET /health HTTP/1.0\r\n"));
        assert!(super::get(address, "/health").is_none(), "nobody listens any more");
    }
}
