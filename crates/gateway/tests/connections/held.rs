//! Links that hold what they cannot write, as TLS and WebSocket do: the driver has it written.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use zwerm_gateway::{Link, MemoryLink};
use zwerm_wire::{Protocol, QoS};

use crate::client::{Client, Server, transient};

/// Takes all that is written, whatever the link below takes of it.
struct Holding {
    below: MemoryLink,
    held: BytesMut,
}

impl Link for Holding {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.below.poll_readable(context)
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.below.poll_writable(context)
    }

    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.below.read(buffer)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        pieces.iter().for_each(|piece| self.held.extend_from_slice(piece));
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(pieces.iter().map(|piece| piece.len()).sum()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        self.below.finish()
    }

    fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.held.is_empty() {
            let count = self.below.write(&[IoSlice::new(&self.held)])?;
            self.held.advance(count);
        }
        Ok(())
    }
}

#[tokio::test]
async fn what_a_link_holds_is_written_when_it_can_be() {
    let server = Server::start().await;
    let (near, below) = MemoryLink::pair(16);
    server.serve(Holding { below, held: BytesMut::new() });
    let (mut narrow, _) = Client::connect_over(near, transient(Protocol::V5, "narrow")).await;
    narrow.subscribe("t", QoS::AtLeastOnce).await;
    let (mut publisher, _) = Client::connect(&server, transient(Protocol::V5, "publisher")).await;
    let payload = "x".repeat(10_000);
    publisher.publish("t", &payload).await;
    assert_eq!(narrow.next_publish().await.payload, payload.as_bytes());
    // and so are the last words
    drop(publisher);
    server.stop.cancel();
    while narrow.next_or_end().await.is_some() {}
    drop(narrow);
    server.end().await;
}
