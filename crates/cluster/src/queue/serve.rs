//! Serves a stream of another node that reads queues here: see `remote.rs`.
//!
//! Each request waits as a reader of its own until it has something, then it is answered once and gone. A
//! replica that is cut off from its cluster ends the stream, so that its requests go to one that is not. Start
//! at [`serve_queues`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use zwerm_raft::Group;

use super::interests::Wake;
use super::local::LocalReader;
use super::reader::QueuedMessage;
use crate::cluster::Shared;
use crate::ledger::group_of;
use crate::replica::ShardView;
use crate::transport::proto::{DeliverReply, DeliverRequest, QueueEntry};

/// Replies that wait to be written; then the answering waits.
const REPLIES: usize = 4;
/// Open requests of one stream: sessions that one node owns in one shard. Policy beyond: the stream ends.
const OPEN: usize = 1 << 18;
/// How often a replica looks whether it is cut off; two looks in a row end a stream.
const LOOK: Duration = Duration::from_millis(500);

type Replies = mpsc::Sender<Result<DeliverReply, Status>>;

/// Answers requests until the other side, or this node, ends the stream.
pub(crate) fn serve_queues(
    shared: &Arc<Shared>,
    requests: Streaming<DeliverRequest>,
) -> ReceiverStream<Result<DeliverReply, Status>> {
    let (replies, receiver) = mpsc::channel(REPLIES);
    let serving = Arc::clone(shared);
    shared.spawn(async move {
        if let Err(status) = serve(serving, requests, &replies).await {
            // Nobody listens any more: then nobody needs to know.
            drop(replies.send(Err(status)).await);
        }
    });
    ReceiverStream::new(receiver)
}

async fn serve(
    shared: Arc<Shared>,
    mut requests: Streaming<DeliverRequest>,
    replies: &Replies,
) -> Result<(), Status> {
    let Some(first) = requests.next().await else { return Ok(()) };
    let first = first?;
    let group = shared.host.group(group_of(first.shard));
    let (Some(group), Some(view)) = (group, shared.shard_view(first.shard)) else {
        return Err(Status::failed_precondition(format!("no replica of shard {} here", first.shard)));
    };
    let cut_off = cut_off(Arc::clone(&shared), group);
    tokio::pin!(cut_off);
    let shard = first.shard;
    let retired = view.retired().clone();
    let mut serving = Serving { shared, shard, view, open: BTreeMap::new(), ready: Arc::default() };
    serving.take(first)?;
    // Each branch is cancel safe: a request stays in the stream, a ring is kept.
    loop {
        tokio::select! {
            request = requests.next() => match request {
                Some(request) => serving.take(request?)?,
                None => return Ok(()),
            },
            () = serving.ready.notify.notified() => serving.answer(replies).await?,
            () = retired.cancelled() => return Err(Status::unavailable("this replica is given up")),
            () = &mut cut_off => return Err(Status::unavailable("this replica is cut off")),
        }
    }
}

/// Resolves when the replica has had no leader, or its node no lease, for a while: it may be far behind.
async fn cut_off(shared: Arc<Shared>, group: Group) {
    let mut looks = 0;
    while looks < 2 {
        tokio::time::sleep(LOOK).await;
        let is_well = shared.lease.is_valid() && group.watch().borrow().running && group.leader().is_some();
        looks = if is_well { 0 } else { looks + 1 };
    }
}

/// Requests whose readers were woken.
#[derive(Default)]
struct Ready {
    ids: Mutex<BTreeSet<u64>>,
    notify: Notify,
}

impl Ready {
    fn add(&self, id: u64) {
        self.ids.lock().insert(id);
        self.notify.notify_one();
    }
}

/// Wakes one request.
struct Turn {
    id: u64,
    ready: Arc<Ready>,
}

impl Wake for Turn {
    fn wake(&self) {
        self.ready.add(self.id);
    }
}

/// A request that waits for something to answer.
struct Open {
    reader: LocalReader,
    after: u64,
    max: usize,
}

struct Serving {
    shared: Arc<Shared>,
    shard: u32,
    view: Arc<ShardView>,
    open: BTreeMap<u64, Open>,
    ready: Arc<Ready>,
}

impl Serving {
    fn take(&mut self, request: DeliverRequest) -> Result<(), Status> {
        let DeliverRequest { id, shard, client_id, epoch, after, max } = request;
        if max == 0 {
            self.open.remove(&id);
            return Ok(());
        }
        if shard != self.shard {
            return Err(Status::invalid_argument("a stream is for one shard"));
        }
        if self.open.len() >= OPEN {
            return Err(Status::resource_exhausted("too many requests are open"));
        }
        let turn = Box::new(Turn { id, ready: Arc::clone(&self.ready) });
        let (shared, view) = (Arc::clone(&self.shared), Arc::clone(&self.view));
        let reader = LocalReader::new(shared, view, (&client_id.into(), epoch), turn);
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        self.open.insert(id, Open { reader, after, max });
        self.ready.add(id);
        Ok(())
    }

    /// Answers what can be answered of what was woken.
    async fn answer(&mut self, replies: &Replies) -> Result<(), Status> {
        let ready = std::mem::take(&mut *self.ready.ids.lock());
        for id in ready {
            let Some(Open { reader, after, max }) = self.open.get_mut(&id) else { continue };
            let mut messages = Vec::new();
            let lost = !reader.read(*after, *max, &mut messages);
            if messages.is_empty() && !lost {
                continue;
            }
            self.open.remove(&id);
            let entries = messages.into_iter().map(entry).collect();
            let reply = DeliverReply { id, entries, lost };
            replies.send(Ok(reply)).await.map_err(|_| Status::cancelled("nobody listens"))?;
        }
        Ok(())
    }
}

fn entry(queued: QueuedMessage) -> QueueEntry {
    QueueEntry {
        position: queued.position,
        message: queued.message.encode_to_vec().into(),
        qos: u32::from(queued.qos as u8),
        retain: queued.retain,
        identifiers: queued.identifiers.into_vec(),
        group: queued.group,
    }
}
