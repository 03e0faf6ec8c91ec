//! The replicated machines as Raft applies them, and the views that everybody else reads.
//!
//! After each batch a clone (O(1)) of the machine is published; readers never wait for `apply`. Knows
//! no proposals and no leaders. Start at [`ControlView`] and [`ShardView`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;
use zwerm_machine::records::{
    ControlCommand, ControlReply, Ignored, Message, Refusal, ShardBatch, ShardReplies, control_reply,
};
use zwerm_machine::{Control, Shard};
use zwerm_raft::Machine;
use zwerm_routing::RouteTable;

/// The control group's state as this node has applied it.
#[derive(Debug)]
pub struct ControlView {
    state: ArcSwap<Control>,
    routes: ArcSwap<RouteTable>,
    generation: AtomicU64,
    applied: watch::Sender<u64>,
}

impl ControlView {
    pub(crate) fn new() -> Self {
        Self {
            state: ArcSwap::default(),
            routes: ArcSwap::default(),
            generation: AtomicU64::new(0),
            applied: watch::Sender::new(0),
        }
    }

    /// Nodes, placement and the rest.
    #[must_use]
    pub fn state(&self) -> Arc<Control> {
        self.state.load_full()
    }

    /// The routes of all nodes.
    #[must_use]
    pub fn routes(&self) -> Guard<Arc<RouteTable>> {
        self.routes.load()
    }

    /// Changes whenever [`routes`](Self::routes) changes; cheaper to ask.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The last log index applied, now and at every change.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}

/// Called with a new state.
pub(crate) type OnControl = Box<dyn Fn(&Control) + Send + Sync>;

/// [`Control`] under Raft.
pub(crate) struct ControlReplica {
    machine: Control,
    view: Arc<ControlView>,
    before: OnControl,
    after: OnControl,
    touched: bool,
}

impl ControlReplica {
    /// `before` is called before anybody can see a new state, `after` when everybody can.
    pub(crate) fn new(view: Arc<ControlView>, before: OnControl, after: OnControl) -> Self {
        Self { machine: Control::new(), view, before, after, touched: false }
    }

    fn publish(&mut self, index: u64) {
        if std::mem::take(&mut self.touched) {
            (self.before)(&self.machine);
            let generation = self.machine.routes().generation();
            if self.view.generation.load(Ordering::Relaxed) != generation {
                self.view.routes.store(Arc::new(self.machine.routes().clone()));
                self.view.generation.store(generation, Ordering::Release);
            }
            self.view.state.store(Arc::new(self.machine.clone()));
            (self.after)(&self.machine);
        }
        self.view.applied.send_replace(index);
    }
}

impl fmt::Debug for ControlReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlReplica").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Machine for ControlReplica {
    fn apply(&mut self, _index: u64, command: Bytes) -> Bytes {
        self.touched = true;
        let reply = match ControlCommand::decode(command) {
            Ok(command) => self.machine.apply(&command),
            Err(_) => ControlReply {
                reply: Some(control_reply::Reply::Ignored(Ignored {
                    reason: Refusal::UnknownCommand.into(),
                })),
            },
        };
        reply.encode_to_vec().into()
    }

    fn applied(&mut self, index: u64) -> Result<(), String> {
        self.publish(index);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let machine = self.machine.clone();
        Box::new(move || machine.encode_snapshot())
    }

    fn restore(&mut self, snapshot: Bytes, index: u64) -> Result<(), String> {
        self.machine = Control::decode_snapshot(&snapshot).map_err(|error| error.to_string())?;
        self.touched = true;
        self.publish(index);
        Ok(())
    }
}

/// One shard's state as this node has applied it.
#[derive(Debug)]
pub struct ShardView {
    state: ArcSwap<Shard>,
    /// The messages that the shard names, until they are in the engine.
    messages: Mutex<BTreeMap<u64, Arc<Message>>>,
    applied: watch::Sender<u64>,
}

impl ShardView {
    pub(crate) fn new() -> Self {
        Self { state: ArcSwap::default(), messages: Mutex::default(), applied: watch::Sender::new(0) }
    }

    /// A message that the shard names.
    pub(crate) fn message(&self, number: u64) -> Option<Arc<Message>> {
        self.messages.lock().get(&number).cloned()
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> Arc<Shard> {
        self.state.load_full()
    }

    /// The last log index applied, now and at every change.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}

/// [`Shard`] under Raft.
#[derive(Debug)]
pub(crate) struct ShardReplica {
    machine: Shard,
    view: Arc<ShardView>,
}

impl ShardReplica {
    pub(crate) fn new(view: Arc<ShardView>) -> Self {
        Self { machine: Shard::new(), view }
    }

    fn publish(&mut self, index: u64) {
        let effects = self.machine.take_effects();
        let mut messages = self.view.messages.lock();
        messages.extend(effects.stored.into_iter().map(|(number, message)| (number, Arc::new(message))));
        for number in effects.forgotten {
            messages.remove(&number);
        }
        drop(messages);
        self.view.state.store(Arc::new(self.machine.clone()));
        self.view.applied.send_replace(index);
    }
}

impl Machine for ShardReplica {
    fn apply(&mut self, _index: u64, command: Bytes) -> Bytes {
        // A batch that cannot be read answers nothing: the proposer sees fewer replies than commands.
        let replies = match ShardBatch::decode(command) {
            Ok(batch) => self.machine.apply_batch(&batch),
            Err(_) => ShardReplies::default(),
        };
        replies.encode_to_vec().into()
    }

    fn applied(&mut self, index: u64) -> Result<(), String> {
        self.publish(index);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let machine = self.machine.clone();
        Box::new(move || machine.encode_snapshot())
    }

    fn restore(&mut self, snapshot: Bytes, index: u64) -> Result<(), String> {
        self.machine = Shard::decode_snapshot(&snapshot).map_err(|error| error.to_string())?;
        self.publish(index);
        Ok(())
    }
}
