//! Asks the leaders of all shards for their part and writes the archive.
//!
//! The states are of one moment: every leader said that its shard holds still before any was told to take its state.
//! Knows what nodes answer, not what is in it. Start at [`Cluster::backup`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use futures::stream::BoxStream;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::PAGE_BYTES;
use super::format::{EncodedMessages, Writer};
use super::proto::{GroupEnd, Head};
use super::serve::{HOLD, serve_backup};
use crate::cluster::Shared;
use crate::ledger::group_of;
use crate::transport::proto::backup_reply::Reply;
use crate::transport::proto::backup_request::Step;
use crate::transport::proto::{BackupCut, BackupHold, BackupRead, BackupRefused, BackupReply, BackupRequest};
use crate::{Cluster, NodeId};

/// How long it is tried to bring all shards to rest.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(500);
/// A node that says nothing for so long has failed; so has a reader that takes nothing.
const STALL: Duration = Duration::from_secs(60);
/// Chunks that wait to be read; then the reading of the shards waits.
const CHUNKS: usize = 2;

/// Why a backup does not begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is nothing yet.
    #[error("this node belongs to no cluster yet")]
    NotFormed,
    /// A node will not do it, however often it is asked.
    #[error("a backup is refused: {0}")]
    Refused(String),
    /// Not all shards could be brought to rest: trying again may help.
    #[error("no backup can be taken now: {0}")]
    Unavailable(String),
}

/// An archive that is being written. Dropping it ends the backup.
#[derive(Debug)]
pub struct Backup(mpsc::Receiver<Bytes>);

impl Backup {
    /// The next bytes; `None`: that was all. Whether that is a whole archive its bytes say
    /// ([`inspect`](crate::inspect)).
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

impl Cluster {
    /// Takes the states of all groups at one moment and begins to write the archive; `version` is this program's.
    /// Everything that was acknowledged before is in it. All shards hold still for a moment, for two seconds at most.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub async fn backup(&self, version: &str) -> Result<Backup, BackupError> {
        let cut = cut(self.shared(), version).await?;
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let shared = Arc::clone(self.shared());
        self.shared().spawn(async move { write(&shared, cut, Output(sender)).await });
        Ok(Backup(chunks))
    }
}

/// The states are taken, and wait to be read.
struct Cut {
    head: Head,
    sessions: Vec<Session>,
}

/// Why it did not come to a cut, this time.
#[derive(Debug)]
struct Missed {
    reason: String,
    later: bool,
    /// This shard is led by another node, if that is known.
    led: Option<(u32, Option<NodeId>)>,
}

impl From<String> for Missed {
    fn from(reason: String) -> Self {
        Self { reason, later: true, led: None }
    }
}

impl From<BackupRefused> for Missed {
    fn from(refused: BackupRefused) -> Self {
        let BackupRefused { reason, later, not_led, leader } = refused;
        let led = not_led.checked_sub(1).map(|shard| (shard, Some(leader).filter(|leader| *leader != 0)));
        Self { reason, later, led }
    }
}

async fn cut(shared: &Arc<Shared>, version: &str) -> Result<Cut, BackupError> {
    let formation = shared.formation.get().ok_or(BackupError::NotFormed)?;
    let head = Head {
        cluster_id: formation.cluster_id.clone(),
        shards: formation.shards,
        version: version.to_owned(),
        ..Head::default()
    };
    let until = Instant::now() + PATIENCE;
    let mut leaders = BTreeMap::new();
    for turn in 0.. {
        let missed = match try_cut(shared, &leaders, turn, head.clone()).await {
            Ok(cut) => return Ok(cut),
            Err(missed) => missed,
        };
        if !missed.later {
            return Err(BackupError::Refused(missed.reason));
        }
        if Instant::now() > until {
            return Err(BackupError::Unavailable(missed.reason));
        }
        tracing::debug!(reason = missed.reason, "not all shards came to rest for a backup; trying again");
        if let Some((shard, leader)) = missed.led {
            leaders.remove(&shard);
            leaders.extend(leader.map(|leader| (shard, leader)));
        }
        tokio::time::sleep(AGAIN).await;
    }
    Err(BackupError::Unavailable("it was tried too often".to_owned()))
}

/// Brings all shards to rest, and takes their states.
async fn try_cut(
    shared: &Arc<Shared>,
    leaders: &BTreeMap<u32, NodeId>,
    turn: usize,
    head: Head,
) -> Result<Cut, Missed> {
    let mut by_node: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
    for shard in 0..head.shards {
        let known = leaders.get(&shard).copied().or_else(|| shared.leader_of(group_of(shard)));
        let members = shared.members_of(group_of(shard));
        let guess = members.get(turn.checked_rem(members.len()).unwrap_or_default()).copied();
        let node = known.or(guess).ok_or_else(|| format!("who holds shard {shard} is not known"))?;
        by_node.entry(node).or_default().push(shard);
    }
    let opening = by_node.into_iter().map(|(node, shards)| Session::open(shared, node, shards));
    let mut sessions = try_join_all(opening).await?;
    let held = join_all(sessions.iter_mut().map(Session::hold)).await;
    held.into_iter().collect::<Result<(), Missed>>()?;
    // From here on, and before the first of them takes its state, all shards hold still: this is the moment.
    let taken_at_ms = shared.now_ms();
    let taken = join_all(sessions.iter_mut().map(Session::cut)).await;
    let messages = taken.into_iter().sum::<Result<u64, Missed>>()?;
    Ok(Cut { head: Head { taken_at_ms, messages, ..head }, sessions })
}

/// What one node is asked. Dropping it lets the node's shards go.
struct Session {
    node: NodeId,
    shards: Vec<u32>,
    requests: mpsc::Sender<BackupRequest>,
    replies: BoxStream<'static, Result<BackupReply, String>>,
}

impl Session {
    async fn open(shared: &Arc<Shared>, node: NodeId, shards: Vec<u32>) -> Result<Self, Missed> {
        let (requests, receiver) = mpsc::channel(1);
        let receiver = ReceiverStream::new(receiver);
        let replies: BoxStream<'static, _> = if node == shared.own.id {
            Box::pin(ReceiverStream::new(serve_backup(shared, Box::pin(receiver))).map(Ok))
        } else {
            let opened = shared.peers.backup(node, receiver).await;
            let replies = opened.map_err(|error| format!("node {node:016x}: {error}"))?;
            Box::pin(replies.map(|reply| reply.map_err(|status| status.message().to_owned())))
        };
        Ok(Self { node, shards, requests, replies })
    }

    async fn hold(&mut self) -> Result<(), Missed> {
        let hold = BackupHold { shards: self.shards.clone() };
        match self.ask(Step::Hold(hold), 2 * HOLD).await? {
            Reply::Held(_) => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    async fn cut(&mut self) -> Result<u64, Missed> {
        match self.ask(Step::Cut(BackupCut {}), 2 * HOLD).await? {
            Reply::Taken(taken) => Ok(taken.messages),
            other => Err(self.unexpected(other)),
        }
    }

    async fn ask(&mut self, step: Step, within: Duration) -> Result<Reply, Missed> {
        // Nobody takes it: then the answer says why.
        drop(self.requests.send(BackupRequest { step: Some(step) }).await);
        self.answer(within).await
    }

    async fn answer(&mut self, within: Duration) -> Result<Reply, Missed> {
        let node = self.node;
        let answered = timeout(within, self.replies.next()).await;
        let answered = answered.map_err(|_| format!("node {node:016x} does not answer"))?;
        let reply = answered.ok_or_else(|| format!("node {node:016x} has stopped"))?;
        let reply = reply.map_err(|error| format!("node {node:016x}: {error}"))?;
        Ok(reply.reply.ok_or_else(|| format!("node {node:016x} answers what this version does not know"))?)
    }

    fn unexpected(&self, reply: Reply) -> Missed {
        match reply {
            Reply::Refused(refused) => refused.into(),
            _ => format!("node {:016x} gave an answer out of turn", self.node).into(),
        }
    }
}

/// Where the archive goes.
struct Output(mpsc::Sender<Bytes>);

/// Why the archive is not finished.
enum Stop {
    /// Nobody reads it.
    Gone,
    Failed(String),
}

impl From<Missed> for Stop {
    fn from(missed: Missed) -> Self {
        Self::Failed(missed.reason)
    }
}

impl Output {
    async fn put(&self, bytes: Bytes) -> Result<(), Stop> {
        let sent = timeout(STALL, self.0.send(bytes)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Stop::Gone),
            Err(_) => Err(Stop::Failed(format!("it was not read for {} s", STALL.as_secs()))),
        }
    }
}

/// Writes the archive, or as much as there is and why there is no more.
async fn write(shared: &Shared, cut: Cut, output: Output) {
    let mut writer = Writer::default();
    let cluster = cut.head.cluster_id.clone();
    let last = match write_groups(shared, cut, &mut writer, &output).await {
        Ok(()) => writer.end(),
        Err(Stop::Gone) => return tracing::info!("a backup ended before it was whole: nobody reads it"),
        Err(Stop::Failed(reason)) => {
            tracing::warn!(reason, "a backup failed");
            writer.failed(reason)
        }
    };
    if output.put(last).await.is_ok() {
        tracing::info!(cluster, "a backup was written to its end");
    }
}

async fn write_groups(
    shared: &Shared,
    Cut { head, mut sessions }: Cut,
    writer: &mut Writer,
    output: &Output,
) -> Result<(), Stop> {
    output.put(writer.begin()).await?;
    output.put(writer.head(&head)).await?;
    output.put(writer.group(0)).await?;
    // Of control only the nodes and the number of shards matter: it need not be of the same moment.
    let control = shared.control.state().encode_snapshot();
    for part in control.chunks(PAGE_BYTES) {
        output.put(writer.state(part)).await?;
    }
    output.put(writer.group_end(GroupEnd { group: 0, messages: 0 })).await?;
    for shard in 0..head.shards {
        let session = sessions.iter_mut().find(|session| session.shards.contains(&shard));
        let session = session.ok_or_else(|| Stop::Failed(format!("nobody holds shard {shard}")))?;
        write_shard(session, shard, writer, output).await?;
        session.shards.retain(|left| *left != shard);
        // What a node keeps for a backup it keeps until its last shard is read.
        sessions.retain(|session| !session.shards.is_empty());
    }
    Ok(())
}

async fn write_shard(
    session: &mut Session,
    shard: u32,
    writer: &mut Writer,
    output: &Output,
) -> Result<(), Stop> {
    let group = group_of(shard).0;
    output.put(writer.group(group)).await?;
    let mut messages = 0;
    let mut reply = session.ask(Step::Read(BackupRead { shard }), STALL).await?;
    loop {
        match reply {
            Reply::State(part) => output.put(writer.state(&part)).await?,
            Reply::Messages(page) => {
                messages += count(&page).ok_or_else(|| Stop::Failed("messages that are none".to_owned()))?;
                output.put(writer.messages(&EncodedMessages(page))).await?;
            }
            Reply::End(end) if end.shard == shard => {
                return output.put(writer.group_end(GroupEnd { group, messages })).await;
            }
            other => return Err(session.unexpected(other).into()),
        }
        reply = session.answer(STALL).await?;
    }
}

/// How many messages an encoded page has. They share its bytes.
fn count(page: &Bytes) -> Option<u64> {
    let page: super::proto::Messages = prost::Message::decode(page.clone()).ok()?;
    Some(page.messages.len() as u64)
}
