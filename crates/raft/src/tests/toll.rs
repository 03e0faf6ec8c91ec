//! A network on which pages of records pass as long as there are permits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::Semaphore;

use crate::proto::{self, request};
use crate::{GroupId, Network, NetworkError, NodeId};

/// Counts the pages of all nodes and stops them.
pub(super) struct Tolls {
    permits: Semaphore,
    pages: AtomicUsize,
}

impl Tolls {
    /// Everything passes.
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self { permits: Semaphore::new(Semaphore::MAX_PERMITS), pages: AtomicUsize::new(0) })
    }

    /// Lets so many more pages pass.
    pub(super) fn limit(&self, pages: usize) {
        self.permits.forget_permits(Semaphore::MAX_PERMITS);
        self.permits.add_permits(pages);
    }

    /// Pages that arrived here so far, those that wait included.
    pub(super) fn pages(&self) -> usize {
        self.pages.load(Ordering::SeqCst)
    }
}

/// A node's socket with a toll before it.
pub(super) struct Toll {
    pub(super) socket: Arc<dyn Network>,
    pub(super) tolls: Arc<Tolls>,
}

fn is_page(request: &Bytes) -> bool {
    let request = proto::Request::decode(request.clone()).unwrap();
    matches!(request.request, Some(request::Request::Records(page)) if !page.from.is_empty())
}

impl Network for Toll {
    fn call(
        &self,
        target: NodeId,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, NetworkError>> {
        async move {
            if is_page(&request) {
                self.tolls.pages.fetch_add(1, Ordering::SeqCst);
                self.tolls.permits.acquire().await.unwrap().forget();
            }
            self.socket.call(target, group, request).await
        }
        .boxed()
    }
}
