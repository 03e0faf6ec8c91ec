//! What stands in for the broker: it writes down what the cluster asks of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use zwerm_cluster::forward::{Inbound, Origin, Receiver, Record};
use zwerm_cluster::receipt::{Bell, Receipt, Ticket};
use zwerm_cluster::{Cluster, Local, NodeId, OutboxMessage, StartError};
use zwerm_wire::TopicFilter;

use crate::fixture::World;

/// Everything that one node was told.
#[derive(Default)]
pub struct Recorder {
    pub kicks: Mutex<Vec<(String, u64)>>,
    pub fenced: AtomicU32,
    pub delivered: Mutex<Vec<Record>>,
    /// What went to another node that never took it.
    pub returned: Mutex<Vec<Record>>,
    /// While set, deliveries are not accepted.
    pub withholds: AtomicBool,
    pub withheld: Mutex<Vec<Ticket>>,
}

impl Recorder {
    pub fn payloads(&self) -> Vec<String> {
        let delivered = self.delivered.lock();
        delivered.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()).collect()
    }
}

pub struct Door(Arc<Recorder>);

impl Local for Door {
    fn kick(&self, client_id: &str, epoch: u64) {
        self.0.kicks.lock().push((client_id.to_owned(), epoch));
    }

    fn fenced(&self) {
        self.0.fenced.fetch_add(1, Ordering::SeqCst);
    }

    fn returned(&self, record: Record) -> BoxFuture<'_, ()> {
        self.0.returned.lock().push(record);
        Box::pin(std::future::ready(()))
    }
}

impl Inbound for Door {
    fn receiver(&self) -> Box<dyn Receiver> {
        Box::new(Door(Arc::clone(&self.0)))
    }

    fn came(&self, origin: Origin, _: &TopicFilter) -> bool {
        self.0.delivered.lock().iter().any(|record| record.origin == Some(origin))
    }
}

impl Receiver for Door {
    fn deliver(&mut self, record: Record, _: Instant, bell: &Bell) -> Option<Receipt> {
        self.0.delivered.lock().push(record);
        if !self.0.withholds.load(Ordering::SeqCst) {
            return None;
        }
        let receipt = Receipt::new(bell.clone());
        self.0.withheld.lock().push(receipt.ticket());
        Some(receipt)
    }
}

/// What a test holds of each node.
pub struct App {
    pub recorder: Arc<Recorder>,
    pub outbox: Mutex<mpsc::Receiver<OutboxMessage>>,
}

/// What a node calls, and what the test holds of it.
fn parts() -> (Arc<Door>, impl FnOnce(&Cluster, mpsc::Receiver<OutboxMessage>) -> App) {
    let recorder = Arc::new(Recorder::default());
    (Arc::new(Door(Arc::clone(&recorder))), |_, outbox| App { recorder, outbox: Mutex::new(outbox) })
}

impl World<App> {
    pub async fn start(&mut self, node: NodeId) {
        let (door, app) = parts();
        self.start_with(node, door, app).await;
    }

    /// Starts a node that may refuse to.
    pub async fn try_start(&mut self, node: NodeId) -> Result<(), StartError> {
        let (door, app) = parts();
        self.try_start_with(node, door, app).await
    }

    /// Three nodes that are a cluster.
    pub async fn formed() -> Self {
        Self::formed_of(3).await
    }

    /// So many nodes that are a cluster.
    pub async fn formed_of(nodes: u64) -> Self {
        let mut world = Self::new(nodes);
        for node in 1..=nodes {
            world.start(node).await;
        }
        world.ready().await;
        world
    }

    pub fn recorder(&self, node: NodeId) -> &Recorder {
        &self.app(node).recorder
    }
}
