//! The in-memory twin of TCP: nodes of one process dial each other through pipes.
//!
//! Knows no gRPC. Start at [`MemoryNet::listen`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Dial, Incoming, PeerStream};

/// Bytes in flight in one direction of one pipe.
const PIPE_BYTES: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

/// A network of its own; clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct MemoryNet {
    listeners: Arc<Mutex<BTreeMap<String, mpsc::Sender<PeerStream>>>>,
}

impl MemoryNet {
    /// A network without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens on an address, taking it over from whoever listened there before.
    #[must_use]
    pub fn listen(&self, address: &str) -> Incoming {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.listeners.lock().insert(address.to_owned(), sender);
        Box::pin(ReceiverStream::new(receiver).map(Ok))
    }
}

impl Dial for MemoryNet {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<PeerStream>> {
        let listener = self.listeners.lock().get(&address).cloned();
        Box::pin(async move {
            let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, address.clone());
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            listener.ok_or_else(refused)?.send(PeerStream::new(far)).await.map_err(|_| refused())?;
            Ok(PeerStream::new(near))
        })
    }
}
