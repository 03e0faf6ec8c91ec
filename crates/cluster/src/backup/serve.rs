//! One node's part in a backup: holds the shards that it leads still, takes their states, lets them go on, and gives what
//! they were.
//!
//! A shard is held still for [`HOLD`] at most, whatever becomes of who asked. While the states are read, messages that the
//! shard forgets are kept ([`Pin`](super::Pin)), as long as the stream lasts. Knows no other node. Start at
//! [`serve_backup`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::BoxStream;
use prost::Message as _;
use tokio::sync::{OwnedRwLockWriteGuard, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt as _;
use zwerm_machine::Shard;
use zwerm_machine::records::{Tick, shard_command};
use zwerm_raft::{Group, ProposeError};
use zwerm_store::Batch;
use zwerm_store::keyspace::{KeySpace, Pinned as PinnedSpace};

use super::PAGE_BYTES;
use super::proto::{Messages, Numbered};
use crate::cluster::Shared;
use crate::formation::put_synced;
use crate::ledger::group_of;
use crate::replica::ShardView;
use crate::transport::proto::backup_reply::Reply;
use crate::transport::proto::backup_request::Step;
use crate::transport::proto::{
    BackupHeld, BackupRead, BackupRefused, BackupReply, BackupRequest, BackupTaken,
};

/// A shard takes no proposals for no longer. Less than an attempt to propose waits.
pub(super) const HOLD: Duration = Duration::from_secs(2);
/// Replies that wait to be sent; then the reading waits.
const REPLIES: usize = 2;
/// Numbers of messages looked up at a time.
const NUMBERS: usize = 4_096;
/// How long it is waited for that what was kept is forgotten; after that the next start of the node does it.
const RELEASE: Duration = Duration::from_secs(600);
const RELEASE_LOOK: Duration = Duration::from_millis(50);
const FORMAT: u8 = 1;

/// Answers one backup's requests until they end.
pub(crate) fn serve_backup(
    shared: &Arc<Shared>,
    requests: BoxStream<'static, BackupRequest>,
) -> mpsc::Receiver<BackupReply> {
    let (sender, receiver) = mpsc::channel(REPLIES);
    let serving = Arc::clone(shared);
    shared.spawn(async move {
        let mut serving = Serving { shared: &serving, requests, replies: Replies(sender), held: Vec::new() };
        if let Err(Stop::Refused(refused)) = serving.run().await {
            tracing::debug!(reason = refused.reason, "a backup is refused");
            drop(serving.replies.put(Reply::Refused(refused)).await);
        }
        serving.end().await;
    });
    receiver
}

/// Why a backup goes no further here.
enum Stop {
    /// Nobody listens any more, or asks.
    Gone,
    Refused(BackupRefused),
}

fn refused(reason: impl Into<String>) -> Stop {
    Stop::Refused(BackupRefused { reason: reason.into(), ..BackupRefused::default() })
}

fn later(reason: impl Into<String>) -> Stop {
    Stop::Refused(BackupRefused { reason: reason.into(), later: true, ..BackupRefused::default() })
}

fn not_led(shard: u32, leader: Option<u64>) -> Stop {
    Stop::Refused(BackupRefused {
        reason: format!("the leader of shard {shard} has changed"),
        later: true,
        not_led: shard + 1,
        leader: leader.unwrap_or_default(),
    })
}

fn unproposed(shard: u32, error: &ProposeError) -> Stop {
    match error {
        ProposeError::NotLeader { leader } => not_led(shard, *leader),
        other => later(format!("shard {shard}: {other}")),
    }
}

/// A shard, from when it is held still to when it is read.
struct Held {
    shard: u32,
    group: Group,
    view: Arc<ShardView>,
    /// The log index that was applied when nothing was under way any more.
    at: u64,
    /// While it is held still.
    still: Option<OwnedRwLockWriteGuard<()>>,
    /// Once it is taken.
    state: Option<Arc<Shard>>,
    pinned: Pinned,
}

/// Messages are kept while this lives; nobody else may have that.
struct Pinned {
    view: Arc<ShardView>,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.view.pin().keep_below(0);
    }
}

struct Serving<'a> {
    shared: &'a Arc<Shared>,
    requests: BoxStream<'static, BackupRequest>,
    replies: Replies,
    held: Vec<Held>,
}

/// Where answers go.
struct Replies(mpsc::Sender<BackupReply>);

impl Replies {
    async fn put(&self, reply: Reply) -> Result<(), Stop> {
        self.0.send(BackupReply { reply: Some(reply) }).await.map_err(|_| Stop::Gone)
    }
}

impl Serving<'_> {
    async fn run(&mut self) -> Result<(), Stop> {
        let Some(Step::Hold(hold)) = self.next().await? else { return Err(out_of_turn()) };
        let until = Instant::now() + HOLD;
        let holding = hold.shards.iter().map(|shard| hold_still(self.shared, *shard, until));
        let mut missed = None;
        for held in join_all(holding).await {
            match held {
                Ok(held) => self.held.push(held),
                Err(stop) => missed = Some(stop),
            }
        }
        missed.map_or(Ok(()), Err)?;
        self.replies.put(Reply::Held(BackupHeld {})).await?;
        let next = timeout_at(until, self.next()).await;
        let Some(Step::Cut(_)) = next.map_err(|_| later("the cut came too late"))?? else {
            return Err(out_of_turn());
        };
        let taken = join_all(self.held.iter_mut().map(Held::take)).await;
        let messages = taken.into_iter().sum::<Result<u64, Stop>>()?;
        self.replies.put(Reply::Taken(BackupTaken { messages })).await?;
        while let Some(step) = self.next().await? {
            let Step::Read(BackupRead { shard }) = step else { return Err(out_of_turn()) };
            let held = self.held.iter().find(|held| held.shard == shard);
            let held = held.ok_or_else(|| refused(format!("shard {shard} is not held")))?;
            held.read(self.shared, &self.replies).await?;
            self.replies.put(Reply::End(BackupRead { shard })).await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Step>, Stop> {
        match self.requests.next().await {
            None => Ok(None),
            Some(request) => request.step.map(Some).ok_or_else(out_of_turn),
        }
    }

    /// Lets everything go, and has what was kept forgotten.
    async fn end(self) {
        let Self { shared, requests, replies, held } = self;
        // Whoever listens need not wait for the rest.
        drop((requests, replies));
        let releasing = held.into_iter().map(|held| release(shared, held));
        join_all(releasing).await;
    }
}

fn out_of_turn() -> Stop {
    refused("a request that makes no sense now; the node that asked has another version")
}

/// Holds one shard still: nothing is proposed by this node, which leads, and nothing that was is under way.
async fn hold_still(shared: &Shared, shard: u32, until: Instant) -> Result<Held, Stop> {
    let group = shared.host.group(group_of(shard));
    let (Some(group), Some(view)) = (group, shared.shard_view(shard)) else {
        return Err(not_led(shard, None));
    };
    if !group.is_leader() {
        return Err(not_led(shard, group.leader().filter(|leader| *leader != shared.own.id)));
    }
    let Some(turn) = view.pin().turn() else {
        return Err(later(format!("another backup reads shard {shard}")));
    };
    let pinned = Pinned { view: Arc::clone(&view), _turn: turn };
    let engine = Arc::clone(&shared.engine);
    let mark = PinnedSpace::key(group_of(shard).0);
    put_synced(engine, &shared.config.raft.disk_work, mark, vec![FORMAT]).await.map_err(refused)?;
    let silence = async {
        let still = view.gate().close().await;
        // Before the states are taken nothing that they name may go; which numbers that are is known then.
        view.pin().keep_below(u64::MAX);
        // Behind whatever was committed: a proposal that was not waited for to its end may be.
        group.linearize().await.map_err(|error| unproposed(shard, &error))?;
        Ok(still)
    };
    let still = timeout_at(until, silence).await;
    let still = still.map_err(|_| later(format!("shard {shard} does not come to rest")))??;
    let at = *view.applied().borrow();
    Ok(Held { shard, group, view, at, still: Some(still), state: None, pinned })
}

impl Held {
    /// Takes the state and lets the shard go on; how many messages it names. That this node leads now, and that nothing
    /// was applied since it began to hold still, means that nothing was committed by anybody in between.
    async fn take(&mut self) -> Result<u64, Stop> {
        let state = self.view.state();
        self.group.linearize().await.map_err(|error| unproposed(self.shard, &error))?;
        if *self.view.applied().borrow() != self.at {
            return Err(later(format!("shard {} did not hold still", self.shard)));
        }
        self.view.pin().keep_below(state.next_message());
        self.still = None;
        let messages = state.named_messages();
        self.state = Some(state);
        Ok(messages)
    }

    /// Gives the state and the messages that it names.
    async fn read(&self, shared: &Shared, replies: &Replies) -> Result<(), Stop> {
        let shard = self.shard;
        let state = self.state.as_ref().ok_or_else(out_of_turn)?;
        let encoding = Arc::clone(state);
        let encoded = shared.config.raft.disk_work.run(move || encoding.encode_snapshot()).await;
        let mut encoded = Bytes::from(encoded.map_err(|error| refused(error.to_string()))?);
        while !encoded.is_empty() {
            let part = encoded.split_to(encoded.len().min(PAGE_BYTES));
            replies.put(Reply::State(part)).await?;
        }
        let mut from = 0;
        loop {
            let numbers: Vec<u64> = state.message_numbers(from).take(NUMBERS).collect();
            if numbers.is_empty() {
                return Ok(());
            }
            let found = self.view.messages().load_records(numbers.clone(), PAGE_BYTES).await;
            let found = found.map_err(|error| refused(format!("shard {shard}: {error}")))?;
            let is_whole = found.iter().map(|(number, _)| number).eq(numbers.iter().take(found.len()));
            let Some((last, _)) = found.last().filter(|_| is_whole) else {
                // The replica was given up and deleted, or took a snapshot of another.
                return Err(later(format!("shard {shard} was moved away while it was read")));
            };
            from = last + 1;
            let messages = found.into_iter().map(|(number, message)| Numbered { number, message });
            let page = Messages { messages: messages.collect() };
            replies.put(Reply::Messages(page.encode_to_vec().into())).await?;
        }
    }
}

/// Ends what a backup keeps of a shard.
async fn release(shared: &Shared, held: Held) {
    let Held { shard, view, pinned, still, state, .. } = held;
    drop((still, state));
    view.pin().keep_below(0);
    let until = Instant::now() + RELEASE;
    let mut left = view.pin().deferred();
    while left > 0 {
        // Applied by every replica: what was kept is forgotten with the next entries, and there may be none.
        if let Some(client) = shared.shard_client(shard) {
            // Who cannot be told now is told again.
            let _told = client.tell(shard_command::Command::Tick(Tick {})).await;
        }
        let now = view.pin().deferred();
        if Instant::now() > until || view.retired().is_cancelled() {
            tracing::warn!(
                shard,
                messages = now,
                "what a backup kept on the disk is deleted at the next start"
            );
            return;
        }
        if now >= left {
            tokio::time::sleep(RELEASE_LOOK).await;
        }
        left = now;
    }
    let (engine, mark) = (Arc::clone(&shared.engine), PinnedSpace::key(group_of(shard).0));
    let unmark = move || {
        let mut batch = Batch::new();
        batch.delete(mark);
        engine.commit(batch)
    };
    if let Ok(Err(error)) = shared.config.raft.disk_work.run(unmark).await {
        tracing::debug!(shard, %error, "the mark of a backup stays");
    }
    // Only now another backup may begin.
    drop(pinned);
}
