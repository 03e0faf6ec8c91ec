//! What an archive means: which chunk may follow which, whether the states can be read, whether all that they name is
//! there. Writes nothing. Start at [`inspect`]; [`read`] is the same for who wants what is in it.

use std::io::Read;

use prost::Message as _;
use zwerm_machine::records::Message;
use zwerm_machine::{Control, Shard};
use zwerm_store::StoreError;

use super::format::{ArchiveError, Chunk, Reader};
use super::proto::{Group, GroupEnd, Head, Numbered};

/// What is in an archive that is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of the cluster that it was taken of.
    pub cluster_id: String,
    /// In milliseconds since the Unix epoch.
    pub taken_at_ms: u64,
    /// The version of zwerm that wrote it.
    pub version: String,
    /// Shards.
    pub shards: u32,
    /// Names of the nodes of the cluster.
    pub nodes: Vec<String>,
    /// Client ids with an owner: connected, or with a durable session.
    pub clients: u64,
    /// Clients that were connected.
    pub connected: u64,
    /// Durable sessions.
    pub sessions: u64,
    /// Messages in the queues of durable sessions; one counts in each queue.
    pub queued: u64,
    /// Retained messages.
    pub retained: u64,
    /// Messages that are published later.
    pub delayed: u64,
    /// Messages that shards had yet to publish: wills, released QoS 2 messages.
    pub outbox: u64,
    /// Messages of queues, delayed ones, and QoS 2 messages under way, each once per shard.
    pub messages: u64,
    /// Bytes of those.
    pub message_bytes: u64,
    /// Bytes of the archive.
    pub bytes: u64,
}

/// Takes what is in an archive, in its order. Nothing of it counts before the whole archive was read.
pub(super) trait Contents {
    fn head(&mut self, head: &Head) -> Result<(), StoreError>;
    fn control(&mut self, control: Control) -> Result<(), StoreError>;
    fn shard(&mut self, shard: u32, state: &Shard) -> Result<(), StoreError>;
    fn messages(&mut self, shard: u32, messages: Vec<Numbered>) -> Result<(), StoreError>;
}

/// Whoever only wants to know whether it is whole.
struct Nobody;

impl Contents for Nobody {
    fn head(&mut self, _: &Head) -> Result<(), StoreError> {
        Ok(())
    }

    fn control(&mut self, _: Control) -> Result<(), StoreError> {
        Ok(())
    }

    fn shard(&mut self, _: u32, _: &Shard) -> Result<(), StoreError> {
        Ok(())
    }

    fn messages(&mut self, _: u32, _: Vec<Numbered>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Checks a whole archive: every checksum, every state, and that each message that a state names is there. Holds one
/// shard's state in memory, and a page of messages.
///
/// # Errors
/// See [`ArchiveError`].
pub fn inspect(from: impl Read) -> Result<Summary, ArchiveError> {
    read(from, &mut Nobody)
}

/// The same, and gives what is in it away.
pub(super) fn read(from: impl Read, contents: &mut impl Contents) -> Result<Summary, ArchiveError> {
    let mut reader = Reader::begin(from)?;
    let (at, first) = (reader.at(), reader.next()?);
    let Chunk::Head(head) = first else { return Err(misplaced(at)) };
    contents.head(&head)?;
    let mut summary = Summary {
        cluster_id: head.cluster_id,
        taken_at_ms: head.taken_at_ms,
        version: head.version,
        shards: head.shards,
        ..Summary::default()
    };
    let control = Control::decode_snapshot(&state_of(&mut reader, 0)?.0);
    let control = control.map_err(|source| ArchiveError::State { group: 0, source })?;
    if control.shards() != head.shards {
        return Err(ArchiveError::Damaged { at, what: "the number of shards differs" });
    }
    summary.nodes = control.nodes().map(|node| node.name.clone()).collect();
    contents.control(control)?;
    for shard in 0..head.shards {
        read_shard(&mut reader, shard, contents, &mut summary)?;
    }
    let at = reader.at();
    match reader.next()? {
        Chunk::End(_) if summary.messages == head.messages => {}
        _ => return Err(misplaced(at)),
    }
    summary.bytes = reader.finish()?;
    Ok(summary)
}

fn misplaced(at: u64) -> ArchiveError {
    ArchiveError::Damaged { at, what: "a chunk that has no place here" }
}

/// The state of a group, and what follows it.
fn state_of(reader: &mut Reader<impl Read>, group: u32) -> Result<(Vec<u8>, Chunk), ArchiveError> {
    let at = reader.at();
    match reader.next()? {
        Chunk::Group(Group { group: found }) if found == group => {}
        _ => return Err(misplaced(at)),
    }
    let mut state = Vec::new();
    loop {
        let at = reader.at();
        match reader.next()? {
            Chunk::State(part) => state.extend_from_slice(&part),
            Chunk::GroupEnd(end) if group == 0 && end != (GroupEnd { group, messages: 0 }) => {
                return Err(misplaced(at));
            }
            next @ (Chunk::Messages(_) | Chunk::GroupEnd(_)) => return Ok((state, next)),
            _ => return Err(misplaced(at)),
        }
    }
}

fn read_shard(
    reader: &mut Reader<impl Read>,
    shard: u32,
    contents: &mut impl Contents,
    summary: &mut Summary,
) -> Result<(), ArchiveError> {
    let group = shard + 1;
    let (state, mut next) = state_of(reader, group)?;
    let state = Shard::decode_snapshot(&state).map_err(|source| ArchiveError::State { group, source })?;
    summary.count(&state);
    contents.shard(shard, &state)?;
    // All messages before this number are there.
    let (mut due, mut count) = (0, 0);
    loop {
        let at = reader.at();
        let damaged = |what| ArchiveError::Damaged { at, what };
        match next {
            Chunk::Messages(page) => {
                for Numbered { number, message } in &page.messages {
                    if state.message_numbers(due).next() != Some(*number) {
                        return Err(damaged("a message is missing, or named by nothing"));
                    }
                    Message::decode(message.clone()).map_err(|_| damaged("a message that is none"))?;
                    due = number.saturating_add(1);
                    count += 1;
                    summary.message_bytes += message.len() as u64;
                }
                contents.messages(shard, page.messages)?;
            }
            Chunk::GroupEnd(end) => {
                if state.message_numbers(due).next().is_some() {
                    return Err(damaged("a message is missing"));
                }
                if end != (GroupEnd { group, messages: count }) {
                    return Err(damaged("a group that ends as another"));
                }
                summary.messages += count;
                return Ok(());
            }
            _ => return Err(misplaced(at)),
        }
        next = reader.next()?;
    }
}

impl Summary {
    fn count(&mut self, state: &Shard) {
        self.clients += state.clients() as u64;
        self.connected += state.connected().count() as u64;
        self.sessions += state.sessions() as u64;
        self.queued += state.queued_messages();
        self.retained += state.retained_count() as u64;
        self.delayed += state.delayed_messages() as u64;
        self.outbox += state.outbox_len() as u64;
    }
}
