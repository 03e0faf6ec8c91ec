//! Where the payloads of `zwerm pub` come from: one, several times, or a line each from a stream.
//!
//! Knows no MQTT. Start at [`Source::next`].

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, sleep_until};

/// Largest line, in bytes: the largest payload that MQTT can carry.
const LARGEST_LINE: usize = 256 << 20;

/// Payloads, one after the other.
#[derive(Debug)]
pub(super) enum Source<R> {
    /// The same one several times.
    Repeated {
        /// What.
        payload: Bytes,
        /// How many are left.
        left: u32,
        /// When the next one is due.
        due: Instant,
        /// Time between two.
        pause: Duration,
    },
    /// One per line.
    Lines {
        /// Where from.
        reader: R,
        /// Read and not yet given out.
        buffer: BytesMut,
        /// There will be no more.
        ended: bool,
    },
}

impl<R: AsyncRead + Unpin> Source<R> {
    /// `payload`, `times` times.
    pub(super) fn repeated(payload: Bytes, times: u32, pause: Duration) -> Self {
        Self::Repeated { payload, left: times, due: Instant::now(), pause }
    }

    /// Every line of `reader`, without its line feed; the last one needs none.
    pub(super) fn lines(reader: R) -> Self {
        Self::Lines { reader, buffer: BytesMut::new(), ended: false }
    }

    /// The next payload, `None` at the end. Cancel-safe: what was read stays in the buffer.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        match self {
            Self::Repeated { left: 0, .. } => Ok(None),
            Self::Repeated { payload, left, due, pause } => {
                sleep_until(*due).await;
                *due += *pause;
                *left -= 1;
                Ok(Some(payload.clone()))
            }
            Self::Lines { reader, buffer, ended } => loop {
                if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line = buffer.split_to(end).freeze();
                    buffer.advance(1);
                    return Ok(Some(line));
                }
                if *ended {
                    let rest = buffer.split().freeze();
                    return Ok((!rest.is_empty()).then_some(rest));
                }
                if buffer.len() > LARGEST_LINE {
                    return Err(std::io::Error::other("a line of more than 256 MiB"));
                }
                *ended = reader.read_buf(buffer).await? == 0;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8]) -> Vec<Bytes> {
        let mut source = Source::lines(text);
        let mut lines = Vec::new();
        while let Some(line) = source.next().await.unwrap() {
            lines.push(line);
        }
        lines
    }

    #[tokio::test]
    async fn lines_are_bytes_and_the_last_one_needs_no_line_feed() {
        assert_eq!(all(b"a\n\n\xff\xfe\nend").await, [&b"a"[..], b"", b"\xff\xfe", b"end"]);
        assert_eq!(all(b"a\n").await, [&b"a"[..]]);
        assert!(all(b"").await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_keep_their_pause() {
        let start = Instant::now();
        let mut source = Source::<&[u8]>::repeated(Bytes::from_static(b"x"), 3, Duration::from_secs(2));
        let mut count = 0;
        while source.next().await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!((count, start.elapsed()), (3, Duration::from_secs(4)));
    }
}
