//! Reads queues from a replica on another node: one stream per shard, open requests with a credit, replies as
//! soon as there is something.
//!
//! A reader has at most one open request, so what waits and what arrives is bounded by readers and their
//! credit. When the stream breaks, or its replica is cut off from the shard, all open requests are asked again
//! of the next holder. Start at [`RemoteReader::read`]; the other side is `serve.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use zwerm_machine::records::Message;
use zwerm_wire::QoS;

use super::reader::QueuedMessage;
use crate::cluster::Shared;
use crate::receipt::Bell;
use crate::transport::proto::{DeliverReply, DeliverRequest, QueueEntry};
use crate::{CallError, NodeId};

/// Requests handed to gRPC and not yet written.
const STREAM_QUEUE: usize = 64;
/// Messages asked for at a time, at most.
const CREDIT: usize = 256;
const RETRY: Duration = Duration::from_millis(100);

/// All queues that this node reads elsewhere, by shard.
#[derive(Debug, Default)]
pub(crate) struct RemoteQueues(Mutex<BTreeMap<u32, Arc<Requests>>>);

impl RemoteQueues {
    /// The requests for one shard; the first that asks for them starts the task that keeps their stream.
    fn of(&self, shared: &Arc<Shared>, shard: u32) -> Arc<Requests> {
        let mut all = self.0.lock();
        if let Some(requests) = all.get(&shard) {
            return Arc::clone(requests);
        }
        let requests = Arc::<Requests>::default();
        all.insert(shard, Arc::clone(&requests));
        let (running, kept) = (Arc::clone(shared), Arc::clone(&requests));
        shared.spawn(async move { keep_stream(&running, shard, &kept).await });
        requests
    }
}

/// The open requests for the queues of one shard.
#[derive(Debug, Default)]
struct Requests {
    table: Mutex<Table>,
    /// There is something to send.
    more: Notify,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    open: BTreeMap<u64, Request>,
    /// Open, and not sent on the present stream.
    unsent: BTreeSet<u64>,
    /// Sent on the present stream, and no longer wanted.
    withdrawn: Vec<u64>,
}

#[derive(Debug)]
struct Request {
    wire: DeliverRequest,
    arrived: Arc<Mutex<Arrived>>,
    bell: Bell,
}

/// What a reader has got and not read yet.
#[derive(Debug, Default)]
struct Arrived {
    messages: VecDeque<QueuedMessage>,
    /// The position that `messages`, or the reply to the open request, follow.
    after: u64,
    open: Option<u64>,
    lost: bool,
}

impl Requests {
    /// Notes a request and gives it its id.
    fn ask(&self, request: Request) -> u64 {
        let mut table = self.table.lock();
        table.last_id += 1;
        let id = table.last_id;
        let wire = DeliverRequest { id, ..request.wire };
        table.open.insert(id, Request { wire, ..request });
        table.unsent.insert(id);
        drop(table);
        self.more.notify_one();
        id
    }

    fn withdraw(&self, id: u64) {
        let mut table = self.table.lock();
        if table.open.remove(&id).is_some() && !table.unsent.remove(&id) {
            table.withdrawn.push(id);
            drop(table);
            self.more.notify_one();
        }
    }

    /// The next thing to send: withdrawals first, for they make room over there.
    fn next(&self) -> Option<DeliverRequest> {
        let mut table = self.table.lock();
        if let Some(id) = table.withdrawn.pop() {
            return Some(DeliverRequest { id, ..DeliverRequest::default() });
        }
        let id = table.unsent.pop_first()?;
        table.open.get(&id).map(|request| request.wire.clone())
    }

    fn has_more(&self) -> bool {
        let table = self.table.lock();
        !table.unsent.is_empty() || !table.withdrawn.is_empty()
    }

    fn has_open(&self) -> bool {
        !self.table.lock().open.is_empty()
    }

    /// Tells all readers to look again where they read.
    fn ring_all(&self) {
        // Not under the lock: a bell may wake its reader at once.
        let bells: Vec<Bell> = self.table.lock().open.values().map(|request| request.bell.clone()).collect();
        bells.iter().for_each(Bell::ring);
    }

    /// The stream broke: nothing was sent.
    fn rewind(&self) {
        let mut table = self.table.lock();
        table.withdrawn.clear();
        table.unsent = table.open.keys().copied().collect();
    }

    /// Hands a reply to its reader.
    fn arrived(&self, reply: DeliverReply) -> Result<(), CallError> {
        let Some(Request { arrived, bell, .. }) = self.table.lock().open.remove(&reply.id) else {
            return Ok(()); // withdrawn meanwhile
        };
        let entries: Result<Vec<_>, _> = reply.entries.into_iter().map(queued).collect();
        {
            let mut arrived = arrived.lock();
            if arrived.open != Some(reply.id) {
                return Ok(()); // withdrawn just now
            }
            arrived.open = None;
            arrived.lost |= reply.lost;
            if let Ok(entries) = &entries {
                arrived.messages.extend(entries.iter().cloned());
            }
        }
        bell.ring();
        entries.map(drop)
    }
}

fn queued(entry: QueueEntry) -> Result<QueuedMessage, CallError> {
    let malformed = |what: &str| CallError::Failed(format!("a malformed queue entry: {what}"));
    let message = Message::decode(entry.message).map_err(|error| malformed(&error.to_string()))?;
    let qos = match entry.qos {
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => return Err(malformed("its quality of service")),
    };
    Ok(QueuedMessage {
        position: entry.position,
        message: Arc::new(message),
        qos,
        retain: entry.retain,
        identifiers: entry.identifiers.into(),
        group: entry.group,
    })
}

/// Reads one queue from another node.
pub(super) struct RemoteReader {
    shard: u32,
    queues: Arc<Requests>,
    client_id: Arc<str>,
    epoch: u64,
    arrived: Arc<Mutex<Arrived>>,
    bell: Bell,
}

impl RemoteReader {
    pub(super) fn new(
        shared: &Arc<Shared>,
        shard: u32,
        (client_id, epoch): (&Arc<str>, u64),
        bell: Bell,
    ) -> Self {
        let queues = shared.remote_queues.of(shared, shard);
        Self { shard, queues, client_id: Arc::clone(client_id), epoch, arrived: Arc::default(), bell }
    }

    /// As [`LocalReader::read`](super::local::LocalReader::read).
    pub(super) fn read(&mut self, after: u64, max: usize, into: &mut Vec<QueuedMessage>) -> bool {
        if max == 0 {
            return true;
        }
        let mut arrived = self.arrived.lock();
        if after < arrived.after {
            // Not where the last read ended: what has come, or is to come, follows another position.
            arrived.messages.clear();
            arrived.after = after;
            if let Some(id) = arrived.open.take() {
                self.queues.withdraw(id);
            }
        }
        while arrived.messages.front().is_some_and(|first| first.position <= after) {
            arrived.messages.pop_front();
        }
        let given = arrived.messages.len().min(max);
        into.extend(arrived.messages.drain(..given));
        let last = into.last().filter(|_| given > 0).map_or(after, |last| last.position);
        arrived.after = arrived.after.max(last);
        let is_done = arrived.lost && arrived.messages.is_empty();
        if given < max && arrived.open.is_none() && !is_done {
            arrived.open = Some(self.ask(arrived.after, max - given));
        }
        !is_done
    }

    fn ask(&self, after: u64, max: usize) -> u64 {
        let wire = DeliverRequest {
            shard: self.shard,
            client_id: self.client_id.to_string(),
            epoch: self.epoch,
            after,
            max: u32::try_from(max.min(CREDIT)).unwrap_or_default(),
            ..DeliverRequest::default()
        };
        let (arrived, bell) = (Arc::clone(&self.arrived), self.bell.clone());
        self.queues.ask(Request { wire, arrived, bell })
    }
}

impl Drop for RemoteReader {
    fn drop(&mut self) {
        let open = self.arrived.lock().open.take();
        if let Some(id) = open {
            self.queues.withdraw(id);
        }
    }
}

/// Keeps the stream for the queues of one shard until the node stops.
async fn keep_stream(shared: &Shared, shard: u32, queues: &Requests) {
    let mut turn = 0;
    loop {
        queues.rewind();
        while !queues.has_open() {
            queues.more.notified().await;
        }
        if shared.readable_view(shard).is_some() {
            queues.ring_all();
        } else if let Some(holder) = holder(shared, shard, turn)
            && let Err(error) = stream(shared, holder, queues).await
        {
            tracing::debug!(shard, holder = format_args!("{holder:016x}"), %error, "a queue stream broke");
        }
        turn += 1;
        tokio::time::sleep(RETRY).await;
    }
}

/// Whom to ask: the replicas that are up, in turn, beginning with the one that should lead.
fn holder(shared: &Shared, shard: u32, turn: usize) -> Option<NodeId> {
    let control = shared.control.state();
    let is_up = |node: &NodeId| control.node(*node).is_some_and(|node| node.up);
    let mut holders = control.placement_of(shard)?.voters.clone();
    holders.retain(|node| *node != shared.own.id && is_up(node));
    holders.get(turn.checked_rem(holders.len())?).copied()
}

/// One stream, until it breaks.
async fn stream(shared: &Shared, holder: NodeId, queues: &Requests) -> Result<(), CallError> {
    let (requests, receiver) = mpsc::channel(STREAM_QUEUE);
    let mut replies = shared.peers.deliver(holder, ReceiverStream::new(receiver)).await?;
    // Each branch is cancel safe: a permit is given back, a reply stays in the stream, a ring is kept.
    loop {
        let has_more = queues.has_more();
        tokio::select! {
            permit = requests.reserve(), if has_more => match permit {
                Ok(permit) => if let Some(request) = queues.next() {
                    permit.send(request);
                },
                Err(_) => return Ok(()),
            },
            reply = replies.next() => match reply {
                Some(reply) => queues.arrived(reply?)?,
                None => return Ok(()),
            },
            () = queues.more.notified(), if !has_more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(queues: &Arc<Requests>, bell: &Bell) -> RemoteReader {
        let (client_id, bell) = (Arc::from("c"), bell.clone());
        RemoteReader {
            shard: 2,
            queues: Arc::clone(queues),
            client_id,
            epoch: 9,
            arrived: Arc::default(),
            bell,
        }
    }

    fn reply(id: u64, positions: std::ops::RangeInclusive<u64>) -> DeliverReply {
        let message = Message { topic: "t".to_owned(), ..Message::default() }.encode_to_vec();
        let entry = |position| QueueEntry {
            position,
            message: message.clone().into(),
            qos: 1,
            ..QueueEntry::default()
        };
        DeliverReply { id, entries: positions.map(entry).collect(), lost: false }
    }

    fn read(reader: &mut RemoteReader, after: u64, max: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        assert!(reader.read(after, max, &mut taken));
        taken.iter().map(|queued| queued.position).collect()
    }

    #[test]
    fn a_reader_asks_once_and_for_as_much_as_it_may_take() {
        let (queues, bell) = (Arc::<Requests>::default(), Bell::new());
        let mut reader = reader(&queues, &bell);
        assert!(read(&mut reader, 7, 5).is_empty());
        assert!(read(&mut reader, 7, 5).is_empty());
        let asked = queues.next().unwrap();
        assert_eq!((asked.shard, asked.epoch, asked.after, asked.max), (2, 9, 7, 5));
        assert_eq!(queues.next(), None);
        queues.arrived(reply(asked.id, 8..=10)).unwrap();
        assert_eq!(read(&mut reader, 7, 2), [8, 9]);
        assert_eq!(queues.next(), None, "there is more already");
        assert_eq!(read(&mut reader, 9, 5), [10]);
        let asked = queues.next().unwrap();
        assert_eq!((asked.after, asked.max), (10, 4));
    }

    #[test]
    fn a_reader_that_goes_back_gets_nothing_of_what_it_asked_before() {
        let (queues, bell) = (Arc::<Requests>::default(), Bell::new());
        let mut reader = reader(&queues, &bell);
        read(&mut reader, 7, 5);
        let first = queues.next().unwrap();
        assert!(read(&mut reader, 3, 5).is_empty());
        assert_eq!(queues.next(), Some(DeliverRequest { id: first.id, ..DeliverRequest::default() }));
        let second = queues.next().unwrap();
        assert_eq!(second.after, 3);
        queues.arrived(reply(first.id, 8..=9)).unwrap();
        assert!(read(&mut reader, 3, 5).is_empty());
        queues.arrived(reply(second.id, 4..=4)).unwrap();
        assert_eq!(read(&mut reader, 3, 5), [4]);
    }

    #[test]
    fn a_stream_that_broke_asks_for_what_is_open_and_wanted() {
        let (queues, bell) = (Arc::<Requests>::default(), Bell::new());
        let (mut stays, mut goes) = (reader(&queues, &bell), reader(&queues, &bell));
        read(&mut stays, 1, 5);
        read(&mut goes, 2, 5);
        let stays_asked = queues.next().unwrap();
        queues.next().unwrap();
        drop(goes);
        queues.rewind();
        assert_eq!(queues.next(), Some(stays_asked));
        assert_eq!(queues.next(), None, "what is gone is not asked for and not withdrawn");
        drop(stays);
        assert!(!queues.has_open());
    }

    #[test]
    fn a_reader_that_lost_its_session_reads_what_came_and_then_nothing() {
        let (queues, bell) = (Arc::<Requests>::default(), Bell::new());
        let mut reader = reader(&queues, &bell);
        read(&mut reader, 0, 5);
        let asked = queues.next().unwrap();
        queues.arrived(DeliverReply { lost: true, ..reply(asked.id, 1..=1) }).unwrap();
        let mut taken = Vec::new();
        assert!(!reader.read(0, 5, &mut taken));
        assert_eq!(taken.len(), 1);
        assert_eq!(queues.next(), None);
    }

    #[test]
    fn a_malformed_entry_breaks_the_stream_and_keeps_its_reader_going() {
        let (queues, bell) = (Arc::<Requests>::default(), Bell::new());
        let mut reader = reader(&queues, &bell);
        read(&mut reader, 0, 5);
        let asked = queues.next().unwrap();
        let mut malformed = reply(asked.id, 1..=1);
        malformed.entries[0].qos = 3;
        assert!(queues.arrived(malformed).is_err());
        assert!(read(&mut reader, 0, 5).is_empty());
        assert_eq!(queues.next().unwrap().after, 0);
    }
}
