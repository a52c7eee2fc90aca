//! A server that takes no stream at first.

use tokio::io::{AsyncWriteExt, duplex};

use super::*;

/// Its SETTINGS have come, and say that it takes none: it is not said that none came.
#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_stream_has_sent_its_settings() {
    let (ours, mut theirs) = duplex(1 << 16);
    theirs.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]).await.unwrap();
    let options = Options::default();
    let room = std::sync::Arc::<tokio::sync::Notify>::default();
    let failure = Connection::handshake(ours, &options, Duration::from_secs(5), room).await.err().unwrap();
    assert!(!failure.to_string().contains("no HTTP/2 SETTINGS"), "{failure}");
}
