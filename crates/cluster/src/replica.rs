//! The replicated machines as Raft applies them, and the views that everybody else reads.
//!
//! After each batch a clone (O(1)) of the machine is published; readers never wait for `apply`. Knows
//! no proposals and no leaders. Start at [`ControlView`] and [`ShardView`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zwerm_machine::level::Level;
use zwerm_machine::records::{ControlCommand, ShardBatch};
use zwerm_machine::{Control, Effects, Shard};
use zwerm_raft::{GroupId, Machine, Names, Records};
use zwerm_routing::RouteTable;
use zwerm_store::keyspace::{KeySpace, Pinned};
use zwerm_store::{Batch, Engine, MessageLog, StoreError};

use crate::backup::{Gate, Pin};
use crate::levels::Ceiling;
use crate::queue::{Interests, MessageStore};

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

    /// The feature level of the cluster.
    #[must_use]
    pub fn level(&self) -> Level {
        self.state.load().level()
    }

    /// The last log index applied, now and at every change.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}

/// Called with a new state and the log index that it is of.
pub(crate) type OnControl = Box<dyn Fn(&Control, u64) + Send + Sync>;

/// [`Control`] under Raft.
pub(crate) struct ControlReplica {
    ceiling: Ceiling,
    machine: Control,
    view: Arc<ControlView>,
    before: OnControl,
    after: OnControl,
    touched: bool,
    /// Something came that this program cannot apply: no further state is shown.
    failed: Option<String>,
}

impl ControlReplica {
    /// `before` is called before anybody can see a new state, `after` when everybody can.
    pub(crate) fn new(ceiling: Ceiling, view: Arc<ControlView>, before: OnControl, after: OnControl) -> Self {
        Self { ceiling, machine: Control::new(), view, before, after, touched: false, failed: None }
    }

    fn publish(&mut self, index: u64) {
        if std::mem::take(&mut self.touched) {
            (self.before)(&self.machine, index);
            let generation = self.machine.routes().generation();
            if self.view.generation.load(Ordering::Relaxed) != generation {
                self.view.routes.store(Arc::new(self.machine.routes().clone()));
                self.view.generation.store(generation, Ordering::Release);
            }
            self.view.state.store(Arc::new(self.machine.clone()));
            (self.after)(&self.machine, index);
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
        let command = ControlCommand::decode(command).unwrap_or_default();
        if let Err(error) = self.ceiling.admit(command.level, command.needs()) {
            self.failed.get_or_insert(error.to_string());
        }
        // Behind what it cannot apply nothing is: the state would be another than that of the others.
        if self.failed.is_some() {
            return Bytes::new();
        }
        self.touched = true;
        self.machine.apply(&command).encode_to_vec().into()
    }

    fn applied(&mut self, index: u64) -> Result<(), String> {
        if let Some(reason) = &self.failed {
            return Err(reason.clone());
        }
        self.publish(index);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let machine = self.machine.clone();
        Box::new(move || machine.encode_snapshot())
    }

    fn restore(&mut self, snapshot: Bytes, index: u64) -> Result<(), String> {
        let machine = Control::decode_snapshot(&snapshot).map_err(|error| error.to_string())?;
        self.ceiling.admit(machine.level(), Some(1)).map_err(|error| error.to_string())?;
        self.machine = machine;
        self.touched = true;
        self.publish(index);
        Ok(())
    }
}

/// One shard's state as this node has applied it, the messages that it names, and who waits for them.
#[derive(Debug)]
pub struct ShardView {
    state: ArcSwap<Shard>,
    messages: Arc<MessageStore>,
    interests: Arc<Interests>,
    applied: watch::Sender<u64>,
    retired: CancellationToken,
    gate: Gate,
    pin: Pin,
}

impl ShardView {
    pub(crate) fn new(messages: MessageStore) -> Self {
        Self {
            state: ArcSwap::default(),
            messages: Arc::new(messages),
            interests: Arc::default(),
            applied: watch::Sender::new(0),
            retired: CancellationToken::new(),
            gate: Gate::default(),
            pin: Pin::default(),
        }
    }

    /// Proposals that this node makes as the shard's leader go through it.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What a backup keeps of the messages.
    pub(crate) fn pin(&self) -> &Pin {
        &self.pin
    }

    /// This node gives the shard up: whoever reads here is told to read elsewhere.
    pub(crate) fn retire(&self) {
        self.retired.cancel();
        self.interests.wake_all();
    }

    /// Cancelled when this node gives the shard up.
    pub(crate) fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// The messages that the state names; some that it names may be gone by now.
    pub(crate) fn messages(&self) -> &Arc<MessageStore> {
        &self.messages
    }

    /// Who waits for queues to grow.
    pub(crate) fn interests(&self) -> &Arc<Interests> {
        &self.interests
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

    fn publish(&self, state: Shard, index: u64) {
        self.state.store(Arc::new(state));
        self.applied.send_replace(index);
    }
}

/// Bytes of commands applied after which messages are written, if the batch is not over before. What is written
/// early is named by nobody yet, and what is deleted early is waited for: see `queue/local.rs`.
const COMMIT_BYTES: usize = 4 << 20;

/// Records of messages that are looked at together when what a backup kept is deleted.
const SWEPT: usize = 64;

/// [`Shard`] under Raft.
pub(crate) struct ShardReplica {
    ceiling: Ceiling,
    group: u32,
    machine: Shard,
    view: Arc<ShardView>,
    log: MessageLog,
    engine: Arc<dyn Engine>,
    /// Bytes of commands whose messages are not written yet.
    uncommitted: usize,
    /// Since the last commit: what a backup keeps, as it was then. All entries of one batch see the same: what the first
    /// ones forgot for good, a backup that began meanwhile does not name, for it reads behind the whole batch.
    kept_below: Option<u64>,
    /// Whose queues changed since the last view.
    touched: Vec<Arc<str>>,
    /// The engine failed, or something came that this program cannot apply: no further state is shown.
    failed: Option<String>,
}

impl fmt::Debug for ShardReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardReplica").field("group", &self.group).finish_non_exhaustive()
    }
}

impl ShardReplica {
    pub(crate) fn new(
        ceiling: Ceiling,
        group: GroupId,
        engine: Arc<dyn Engine>,
        view: Arc<ShardView>,
    ) -> Self {
        Self {
            ceiling,
            group: group.0,
            machine: Shard::new(),
            view,
            log: MessageLog::new(group.0, Arc::clone(&engine)),
            engine,
            uncommitted: 0,
            kept_below: None,
            touched: Vec::new(),
            failed: None,
        }
    }

    /// Takes over what one log entry left to do.
    fn take_effects(&mut self) {
        let Effects { stored, forgotten, touched } = self.machine.take_effects();
        self.log.store(stored.iter().map(|(number, message)| (*number, message.encode_to_vec().into())));
        let kept_below = *self.kept_below.get_or_insert_with(|| self.view.pin.below());
        for number in &forgotten {
            if *number < kept_below {
                self.view.pin.defer(*number);
            } else {
                self.log.forget(*number);
            }
        }
        self.view.messages.remember(stored, &forgotten);
        self.touched.extend(touched);
    }

    /// Deletes what a backup kept and did not release before the process ended. What is forgotten by entries that are
    /// applied after this snapshot is forgotten again then.
    fn sweep_pinned(&self) -> Result<(), StoreError> {
        let mark = Pinned::key(self.group);
        if self.view.pin.below() > 0 || self.engine.get(&mark)?.is_none() {
            return Ok(());
        }
        let (mut keys, names) = (MessageLog::keys(self.group), self.names());
        loop {
            let page = self.engine.scan(&keys.start, &keys.end, SWEPT, false)?;
            let Some((last, _)) = page.last() else { break };
            keys.start = [last.as_ref(), &[0]].concat();
            let mut batch = Batch::new();
            page.into_iter().filter(|(key, value)| !names(key, value)).for_each(|(key, _)| batch.delete(key));
            if !batch.is_empty() {
                self.engine.commit(batch)?;
            }
        }
        let mut batch = Batch::new();
        batch.delete(mark);
        self.engine.commit(batch)
    }

    fn commit(&mut self) {
        self.uncommitted = 0;
        let kept_below = self.kept_below.take().unwrap_or_else(|| self.view.pin.below());
        if kept_below == 0 {
            self.view.pin.release().into_iter().for_each(|number| self.log.forget(number));
        }
        let machine = &self.machine;
        if let Err(error) = self.log.commit(|number| number < kept_below || machine.names_message(number)) {
            tracing::error!(
                group = self.group,
                error = &error as &dyn std::error::Error,
                "messages cannot be written; the shard stops on this node"
            );
            self.failed = Some(format!("messages cannot be written: {error}"));
        }
    }
}

impl Machine for ShardReplica {
    fn apply(&mut self, _index: u64, command: Bytes) -> Bytes {
        self.uncommitted += command.len();
        // What cannot be read is a command that is not known: no leader of this version lets either into the log.
        let batch = ShardBatch::decode(command);
        let (stamped, needs) = batch.as_ref().map_or((0, None), |batch| (batch.level, batch.needs()));
        if let Err(error) = self.ceiling.admit(stamped, needs) {
            self.failed.get_or_insert(error.to_string());
        }
        let replies = match batch {
            Ok(batch) if self.failed.is_none() => self.machine.apply_batch(&batch),
            _ => return Bytes::new(),
        };
        self.take_effects();
        if self.uncommitted >= COMMIT_BYTES {
            self.commit();
        }
        replies.encode_to_vec().into()
    }

    fn applied(&mut self, index: u64) -> Result<(), String> {
        if self.failed.is_none() {
            self.commit();
        }
        if let Some(reason) = &self.failed {
            return Err(reason.clone());
        }
        self.view.publish(self.machine.clone(), index);
        self.touched.sort_unstable();
        self.touched.dedup();
        self.view.interests.wake(&self.touched);
        self.touched.clear();
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let machine = self.machine.clone();
        Box::new(move || machine.encode_snapshot())
    }

    fn restore(&mut self, snapshot: Bytes, index: u64) -> Result<(), String> {
        self.machine = Shard::decode_snapshot(&snapshot).map_err(|error| error.to_string())?;
        self.sweep_pinned().map_err(|error| error.to_string())?;
        self.view.publish(self.machine.clone(), index);
        self.view.interests.wake_all();
        Ok(())
    }

    fn records(&self) -> Option<Records> {
        let (group, view) = (self.group, Arc::clone(&self.view));
        let next = move || MessageLog::key_from(group, view.state().next_message());
        Some(Records { keys: MessageLog::keys(group), next: Arc::new(next) })
    }

    fn names(&self) -> Names {
        let (machine, kept_below) = (self.machine.clone(), self.view.pin.below());
        Box::new(move |key, value| {
            let is_new = |number: u64| number >= machine.next_message();
            let is_named = |number| number < kept_below || is_new(number) || machine.names_message(number);
            // What cannot be read stays for people to look at.
            MessageLog::numbers(key, value).map_or(true, |numbers| numbers.into_iter().any(is_named))
        })
    }
}
