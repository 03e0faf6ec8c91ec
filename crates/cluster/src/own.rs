//! Who this node is, and which incarnation of it.
//!
//! An incarnation ends when the process ends or when the cluster declares the node down; numbers are
//! never used twice: the high bits count starts, the low ones count risings. Start at [`Own`].

use tokio::sync::watch;

use crate::NodeId;

/// Bits of an incarnation that count risings within one start.
const RISING_BITS: u32 = 20;

/// In which start of its process a node is, of its incarnation.
pub(crate) fn start_of(incarnation: u64) -> u64 {
    incarnation >> RISING_BITS
}

/// This node.
#[derive(Debug)]
pub struct Own {
    /// Random, lives on the volume.
    pub id: NodeId,
    /// For people.
    pub name: String,
    /// The first incarnation of this process: names its sequence spaces.
    pub boot_incarnation: u64,
    current: watch::Sender<u64>,
    draining: watch::Sender<bool>,
}

impl Own {
    pub(crate) fn new(id: NodeId, name: String, start: u64) -> Self {
        let boot_incarnation = start << RISING_BITS;
        let current = watch::Sender::new(boot_incarnation);
        Self { id, name, boot_incarnation, current, draining: watch::Sender::new(false) }
    }

    /// Whether this node sends its clients and leaderships to others.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.send_replace(draining);
    }

    /// Resolves while this node drains. Cancel safe.
    pub(crate) async fn drains(&self) {
        // The sender is `self`: the wait ends only by a change.
        drop(self.draining.subscribe().wait_for(|draining| *draining).await);
    }

    /// The incarnation now.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        *self.current.borrow()
    }

    /// Ends incarnation `dead`, if it is the current one.
    pub(crate) fn rise(&self, dead: u64) {
        self.current.send_if_modified(|current| {
            let rises = *current == dead;
            *current += u64::from(rises);
            rises
        });
    }

    /// Resolves when `incarnation` is no longer the current one. Cancel safe.
    pub(crate) async fn risen(&self, incarnation: u64) {
        // The sender is `self`: the wait ends only by a change.
        drop(self.current.subscribe().wait_for(|current| *current != incarnation).await);
    }
}
