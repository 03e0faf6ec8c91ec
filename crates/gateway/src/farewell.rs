//! Closing a link so that the other side sees the last words.
//!
//! Knows no MQTT and no time: callers bound how long it may take. Start at [`say`].

use std::future::poll_fn;
use std::io;

use crate::link::Link;
use crate::output::Output;

/// Writes all that waits.
///
/// # Errors
/// The link is broken.
pub(crate) async fn write_all(link: &mut impl Link, output: &mut Output) -> io::Result<()> {
    loop {
        output.write(link)?;
        if output.is_empty() {
            return Ok(());
        }
        poll_fn(|context| link.poll_writable(context)).await?;
    }
}

/// Says that nothing more comes.
///
/// # Errors
/// The link is broken.
pub(crate) async fn finish(link: &mut impl Link) -> io::Result<()> {
    loop {
        match link.finish() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|context| link.poll_writable(context)).await?;
            }
            result => return result,
        }
    }
}

/// Reads and forgets until the other side closes too. Closing with bytes unread would make the system reset
/// the connection, and the client might never see why it was closed.
pub(crate) async fn listen_out(mut link: impl Link) {
    let mut ignored = bytes::BytesMut::new();
    loop {
        ignored.clear();
        ignored.reserve(1024);
        if poll_fn(|context| link.poll_readable(context)).await.is_err() {
            return;
        }
        match link.read(&mut ignored) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Writes what is left, says that nothing more comes, and hears the other side out.
pub(crate) async fn say(mut link: impl Link, mut output: Output) {
    if write_all(&mut link, &mut output).await.is_ok() && finish(&mut link).await.is_ok() {
        listen_out(link).await;
    }
}
