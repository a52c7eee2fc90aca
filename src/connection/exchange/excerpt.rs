//! Reads the beginning of a response's body, for error texts.

use h2::RecvStream;

/// Reads until `buffer` has `max` bytes or the body ends. Cancel safe: what was read is in
/// `buffer`.
pub(crate) async fn read_prefix(stream: &mut RecvStream, buffer: &mut Vec<u8>, max: usize) {
    while buffer.len() < max
        && let Some(Ok(data)) = stream.data().await
    {
        // h2 counts received data against the window until it is released.
        drop(stream.flow_control().release_capacity(data.len()));
        buffer.extend(data.iter().take(max - buffer.len()));
    }
}
