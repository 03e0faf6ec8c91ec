//! One group's log in the engine: reading it, and the writes that change it. Blocking.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use zwerm_store::keyspace::{KeySpace, LogKey, RaftCommitted, RaftLog, RaftPurged, RaftVote};
use zwerm_store::{Batch, Engine, StoreError};

use crate::consensus::{Entry, LogId, Vote};
use crate::proto::{self, Malformed};
use crate::record;

/// Records read at a time.
const PAGE: usize = 64;

/// Where a group stood when its node stopped.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    /// Index of the first entry, if there is one.
    pub(crate) first: Option<u64>,
}

/// Reads where a group stood.
pub(crate) fn restore(engine: &dyn Engine, group: u32) -> Result<Restored, StoreError> {
    let vote = read::<proto::Vote>(engine, &RaftVote::key(group))?.map(Into::into);
    let committed = proto::parse_log_id(read(engine, &RaftCommitted::key(group))?);
    let purged: Option<LogId> = proto::parse_log_id(read(engine, &RaftPurged::key(group))?);
    let last =
        last_record(engine, group, u64::MAX)?.and_then(|(_, entries)| entries.last().map(|e| e.log_id));
    let oldest = engine.scan(&key(group, 0), &key(group, u64::MAX), 1, false)?.pop();
    let oldest = oldest.map(|(key, _)| parse_key(&key)).transpose()?.map(|key| key.first_index);
    let first = oldest.filter(|_| last > purged).max(purged.map(|id| id.index + 1));
    Ok(Restored { vote, committed, purged, last: last.max(purged), first })
}

fn read<M: prost::Message + Default>(engine: &dyn Engine, key: &[u8]) -> Result<Option<M>, StoreError> {
    engine.get(key)?.map(|value| record::decode(value).map_err(damaged)).transpose()
}

pub(crate) fn damaged(error: Malformed) -> StoreError {
    StoreError::Damaged(error.0)
}

fn key(group: u32, first_index: u64) -> Vec<u8> {
    RaftLog::key(LogKey { group, first_index, chunk: 0 })
}

fn parse_key(key: &[u8]) -> Result<LogKey, StoreError> {
    RaftLog::parse(key).ok_or_else(|| StoreError::Damaged("a key of the log is malformed".into()))
}

/// The last record whose first entry has index `upto` or less, with the index of that entry.
fn last_record(engine: &dyn Engine, group: u32, upto: u64) -> Result<Option<(u64, Vec<Entry>)>, StoreError> {
    let end = RaftLog::key(LogKey { group, first_index: upto, chunk: u32::MAX });
    let Some((found, _)) = engine.scan(&key(group, 0), &end, 1, true)?.pop() else { return Ok(None) };
    let first_index = parse_key(&found)?.first_index;
    let end = RaftLog::key(LogKey { group, first_index, chunk: u32::MAX });
    let chunks = engine.scan(&key(group, first_index), &end, usize::MAX, false)?;
    let bytes = join(chunks.into_iter().map(|(_, value)| value));
    Ok(Some((first_index, record::unpack_entries(bytes).map_err(damaged)?)))
}

fn join(chunks: impl Iterator<Item = Bytes>) -> Bytes {
    let mut chunks = chunks.peekable();
    let Some(first) = chunks.next() else { return Bytes::new() };
    if chunks.peek().is_none() {
        return first;
    }
    let mut joined = BytesMut::from(first);
    chunks.for_each(|chunk| joined.extend_from_slice(&chunk));
    joined.freeze()
}

/// Reads the entries of `range` in order, up to about `max_bytes` of records but at least one entry; fewer if
/// the log does not hold them.
pub(crate) fn entries(
    engine: &dyn Engine,
    group: u32,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<Entry>, StoreError> {
    let mut found = Vec::new();
    let mut bytes = 0;
    let Some((first_index, entries)) = last_record(engine, group, range.start)? else {
        return entries_after(engine, group, &range, key(group, 0), max_bytes, found);
    };
    bytes += take_range(&mut found, entries, &range);
    if bytes >= max_bytes {
        return Ok(found);
    }
    let from = RaftLog::key(LogKey { group, first_index, chunk: u32::MAX });
    entries_after(engine, group, &range, from, max_bytes - bytes, found)
}

/// Goes on reading whole records from key `from`.
fn entries_after(
    engine: &dyn Engine,
    group: u32,
    range: &Range<u64>,
    mut from: Vec<u8>,
    max_bytes: usize,
    mut found: Vec<Entry>,
) -> Result<Vec<Entry>, StoreError> {
    let end = key(group, range.end);
    let mut open: Option<(u64, Vec<Bytes>)> = None;
    let mut bytes = 0;
    let finish = |open: Option<(u64, Vec<Bytes>)>, found: &mut Vec<Entry>| {
        let Some((_, chunks)) = open else { return Ok(0) };
        let entries = record::unpack_entries(join(chunks.into_iter())).map_err(damaged)?;
        Ok::<_, StoreError>(take_range(found, entries, range))
    };
    loop {
        let page = engine.scan(&from, &end, PAGE, false)?;
        let Some((last, _)) = page.last() else { break };
        from = [last.as_ref(), &[0]].concat();
        for (key, value) in page {
            let first_index = parse_key(&key)?.first_index;
            match &mut open {
                Some((open_index, chunks)) if *open_index == first_index => chunks.push(value),
                _ => {
                    bytes += finish(open.replace((first_index, vec![value])), &mut found)?;
                    if bytes >= max_bytes {
                        return Ok(found);
                    }
                }
            }
        }
    }
    finish(open, &mut found)?;
    Ok(found)
}

/// Moves the entries within the range over; returns their bytes, about.
fn take_range(found: &mut Vec<Entry>, entries: Vec<Entry>, range: &Range<u64>) -> usize {
    let before = found.len();
    found.extend(entries.into_iter().filter(|entry| range.contains(&entry.log_id.index)));
    found.iter().skip(before).map(|entry| 32 + command_len(entry)).sum()
}

fn command_len(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.0.len(),
        _ => 0,
    }
}

/// Adds the entries of one append.
pub(crate) fn append(batch: &mut Batch, group: u32, entries: Vec<Entry>) {
    for record in record::pack_entries(entries) {
        for (chunk, value) in (0..).zip(record.chunks) {
            batch.put(RaftLog::key(LogKey { group, first_index: record.first_index, chunk }), value);
        }
    }
}

/// Sets the vote.
pub(crate) fn put_vote(batch: &mut Batch, group: u32, vote: Vote) {
    batch.put(RaftVote::key(group), record::encode(&proto::Vote::from(vote)));
}

/// Sets the last committed id.
pub(crate) fn put_committed(batch: &mut Batch, group: u32, id: LogId) {
    batch.put(RaftCommitted::key(group), record::encode(&proto::LogId::from(id)));
}

/// Sets the last purged id.
pub(crate) fn put_purged(batch: &mut Batch, group: u32, id: LogId) {
    batch.put(RaftPurged::key(group), record::encode(&proto::LogId::from(id)));
}

/// Removes the entries from index `next` on: their records, and their part of the one record that holds
/// entries before them too.
pub(crate) fn truncate(
    engine: &dyn Engine,
    batch: &mut Batch,
    group: u32,
    next: u64,
) -> Result<(), StoreError> {
    let end = RaftLog::key(LogKey { group, first_index: u64::MAX, chunk: u32::MAX });
    let mut from = key(group, next);
    loop {
        let page = engine.scan(&from, &end, PAGE, false)?;
        let Some((last, _)) = page.last() else { break };
        from = [last.as_ref(), &[0]].concat();
        page.into_iter().for_each(|(key, _)| batch.delete(key));
    }
    let Some(upto) = next.checked_sub(1) else { return Ok(()) };
    if let Some((_, mut entries)) = last_record(engine, group, upto)? {
        let before = entries.len();
        entries.retain(|entry| entry.log_id.index < next);
        if entries.len() < before {
            append(batch, group, entries);
        }
    }
    Ok(())
}

/// Removes up to `limit` chunks of records whose entries all have index `upto` or less. True when none is
/// left. A record with entries on both sides stays whole: the purged id hides its first ones.
pub(crate) fn purge(
    engine: &dyn Engine,
    batch: &mut Batch,
    group: u32,
    upto: u64,
    limit: usize,
) -> Result<bool, StoreError> {
    let end = key(group, upto.saturating_add(2));
    // One more than is deleted: a record is whole below `upto` when the next one starts at `upto + 1` or before.
    let page = engine.scan(&key(group, 0), &end, limit + 1, false)?;
    let more = page.len() > limit;
    let keys: Vec<LogKey> = page.iter().map(|(key, _)| parse_key(key)).collect::<Result<_, _>>()?;
    let Some(last) = keys.last() else { return Ok(true) };
    let last_is_below = !more && last.first_index <= upto && record_ends_by(engine, group, upto)?;
    let keep_from = if last_is_below { u64::MAX } else { last.first_index };
    if more && keys.first().is_some_and(|first| first.first_index == keep_from) {
        // One record of more chunks than the limit: it goes as a whole or not at all.
        return purge(engine, batch, group, upto, limit * 2);
    }
    for key in keys.into_iter().filter(|key| key.first_index < keep_from) {
        batch.delete(RaftLog::key(key));
    }
    Ok(!more)
}

fn record_ends_by(engine: &dyn Engine, group: u32, upto: u64) -> Result<bool, StoreError> {
    let last = last_record(engine, group, upto)?;
    Ok(last.is_some_and(|(_, entries)| entries.last().is_some_and(|entry| entry.log_id.index <= upto)))
}
