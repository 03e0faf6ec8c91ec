//! A machine's [`Records`] on their way to a follower, and what is deleted when they have arrived.
//!
//! The sender reads its engine page by page ([`Outgoing`]); the receiver writes each page to its own
//! ([`Incoming`]), and says where the next one begins. The place survives a broken transfer, a change of leader
//! and an installed snapshot, because every version of a record is as good as any other and new ones have
//! greater keys (the rules are at [`Records`]); so what is sent again after a break, or because the leader's log
//! was purged meanwhile, is only what was made since. Nobody holds more than a page in memory.
//!
//! A crash forgets the place with this process. Each page is synced although nothing counts before the snapshot
//! that follows: an engine must not be given gigabytes between two syncs (`zwerm-store`'s `sled_engine`).

use std::ops::Range;

use bytes::Bytes;
use zwerm_store::{Batch, Engine, StoreError};

use crate::disk::Disk;
use crate::proto::{self, Malformed};
use crate::{Names, Records};

/// Records read at a time.
const SCAN: usize = 64;

/// The sender's side.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) disk: Disk,
    pub(crate) keys: Range<Vec<u8>>,
}

/// Records from one key on.
pub(crate) struct Page {
    pub(crate) records: Vec<proto::Record>,
    /// Where the next page begins; `None`: there is none.
    pub(crate) next: Option<Vec<u8>>,
}

impl Outgoing {
    /// The records from key `from` on, up to about `max_bytes` but at least one if there is one.
    pub(crate) async fn page(&self, from: Vec<u8>, max_bytes: usize) -> Result<Page, StoreError> {
        let end = self.keys.end.clone();
        self.disk.run(move |engine| read_page(engine, from, &end, max_bytes)).await
    }
}

fn read_page(
    engine: &dyn Engine,
    mut from: Vec<u8>,
    end: &[u8],
    max_bytes: usize,
) -> Result<Page, StoreError> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    loop {
        let found = engine.scan(&from, end, SCAN, false)?;
        if found.is_empty() {
            let next = (!records.is_empty()).then_some(from);
            return Ok(Page { records, next });
        }
        for (key, value) in found {
            let size = key.len() + value.len();
            if bytes > 0 && bytes + size > max_bytes {
                return Ok(Page { records, next: Some(from) });
            }
            bytes += size;
            from = after(&key);
            records.push(proto::Record { key, value });
        }
    }
}

/// The least key behind a key.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The receiver's side.
pub(crate) struct Incoming {
    disk: Disk,
    records: Records,
    /// What was received: everything before it is here.
    reached: Vec<u8>,
}

impl Incoming {
    /// Nothing was received yet.
    pub(crate) fn new(disk: Disk, records: Records) -> Self {
        let reached = records.keys.start.clone();
        Self { disk, records, reached }
    }

    /// Where the next page has to begin: behind what was received, and behind what this node's own machine made.
    pub(crate) fn next(&self) -> Vec<u8> {
        (self.records.next)().max(self.reached.clone())
    }

    /// Commits a page that begins where the next one has to; another one changes nothing. Returns where to go on.
    pub(crate) async fn take(&mut self, page: proto::RecordPage) -> Result<Bytes, TakeError> {
        let proto::RecordPage { from, to, records, .. } = page;
        if from != self.reached && !from.is_empty() {
            return Ok(self.reached.clone().into());
        }
        if from.is_empty() {
            self.reached = self.next();
            return Ok(self.reached.clone().into());
        }
        check_page(&from, &to, &records, &self.records.keys)?;
        let mut batch = Batch::new();
        records.into_iter().for_each(|proto::Record { key, value }| batch.put(key, value));
        self.disk.run(move |engine| engine.commit(batch).and_then(|()| engine.sync())).await?;
        self.reached = to.to_vec();
        Ok(to)
    }
}

/// A page that was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A page may touch the records of its own range only, in order.
fn check_page(
    from: &[u8],
    to: &[u8],
    records: &[proto::Record],
    keys: &Range<Vec<u8>>,
) -> Result<(), Malformed> {
    let inside = keys.start.as_slice() <= from && to <= keys.end.as_slice();
    let sorted = records.iter().map(|record| record.key.as_ref()).is_sorted_by(|one: &&[u8], two| one < two);
    let first = records.first().is_some_and(|first| first.key.as_ref() >= from);
    let last = records.last().is_some_and(|last| last.key.as_ref() < to);
    if inside && sorted && first && last {
        return Ok(());
    }
    Err(Malformed("a page of records is out of its range".into()))
}

/// Deletes the records of a range that a restored state does not name.
pub(crate) fn sweep(engine: &dyn Engine, keys: &Range<Vec<u8>>, names: &Names) -> Result<(), StoreError> {
    let mut from = keys.start.clone();
    loop {
        let page = engine.scan(&from, &keys.end, SCAN, false)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = after(last);
        let mut batch = Batch::new();
        for (key, value) in page {
            if !names(&key, &value) {
                batch.delete(key);
            }
        }
        if !batch.is_empty() {
            engine.commit(batch)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zwerm_store::{MemoryEngine, MessageLog};

    use super::*;
    use crate::DiskWork;

    const GROUP: u32 = 3;

    fn disk(engine: &Arc<MemoryEngine>) -> Disk {
        Disk::new(engine.clone(), DiskWork::Threads)
    }

    fn outgoing(engine: &Arc<MemoryEngine>) -> Outgoing {
        Outgoing { disk: disk(engine), keys: MessageLog::keys(GROUP) }
    }

    /// Receives for a machine that has made the records before `next`.
    fn incoming(engine: &Arc<MemoryEngine>, next: u64) -> Incoming {
        let next = Arc::new(move || MessageLog::key_from(GROUP, next));
        Incoming::new(disk(engine), Records { keys: MessageLog::keys(GROUP), next })
    }

    /// One record per number, of `size` bytes.
    fn filled(numbers: Range<u64>, size: usize) -> Arc<MemoryEngine> {
        let engine = Arc::new(MemoryEngine::new());
        fill(&engine, numbers, size);
        engine
    }

    fn fill(engine: &Arc<MemoryEngine>, numbers: Range<u64>, size: usize) {
        let mut log = MessageLog::new(GROUP, engine.clone());
        numbers.for_each(|number| log.store([(number, vec![7; size].into())]));
        log.commit(|_| true).unwrap();
    }

    fn all(engine: &MemoryEngine) -> Vec<(Bytes, Bytes)> {
        engine.scan(&[0], &[0xff], usize::MAX, false).unwrap()
    }

    async fn ask(incoming: &mut Incoming) -> Bytes {
        incoming.take(proto::RecordPage::default()).await.unwrap()
    }

    fn message(from: Bytes, page: &Page) -> proto::RecordPage {
        let to = page.next.clone().unwrap().into();
        proto::RecordPage { vote: None, from, to, records: page.records.clone() }
    }

    /// Sends up to `pages` pages; returns how many there were.
    async fn send(from: &Outgoing, to: &mut Incoming, pages: usize) -> usize {
        let mut next = ask(to).await;
        for sent in 0..pages {
            let page = from.page(next.to_vec(), 2_000).await.unwrap();
            let bytes: usize = page.records.iter().map(|record| record.key.len() + record.value.len()).sum();
            assert!(bytes <= 2_000 || page.records.len() == 1, "{bytes}");
            if page.next.is_none() {
                return sent;
            }
            next = to.take(message(next, &page)).await.unwrap();
        }
        pages
    }

    #[tokio::test]
    async fn pages_carry_everything_across_records_of_any_size() {
        for size in [1, 300, 1_900, 2_500, 200_000] {
            let (sender, receiver) = (filled(1..40, size), Arc::new(MemoryEngine::new()));
            send(&outgoing(&sender), &mut incoming(&receiver, 0), usize::MAX).await;
            assert!(all(&receiver) == all(&sender), "{size}");
        }
    }

    #[tokio::test]
    async fn a_transfer_begins_behind_what_the_machine_made_and_goes_on_where_it_broke() {
        let (sender, receiver) = (filled(1..100, 300), filled(1..50, 300));
        let (from, mut to) = (outgoing(&sender), incoming(&receiver, 50));
        assert_eq!(ask(&mut to).await, MessageLog::key_from(GROUP, 50));
        let whole = send(&from, &mut incoming(&Arc::new(MemoryEngine::new()), 50), usize::MAX).await;
        assert_eq!(send(&from, &mut to, 3).await, 3);
        assert_eq!(send(&from, &mut to, usize::MAX).await, whole - 3);
        assert!(all(&receiver) == all(&sender));
        fill(&sender, 100..103, 300);
        assert_eq!(send(&from, &mut to, usize::MAX).await, 1, "only what is new");
        assert!(all(&receiver) == all(&sender));
    }

    #[tokio::test]
    async fn a_page_that_comes_twice_or_does_not_begin_where_it_must_changes_nothing() {
        let (sender, receiver) = (filled(1..20, 300), Arc::new(MemoryEngine::new()));
        let (from, mut to) = (outgoing(&sender), incoming(&receiver, 0));
        let start = ask(&mut to).await;
        let first = from.page(start.to_vec(), 2_000).await.unwrap();
        let second = from.page(first.next.clone().unwrap(), 2_000).await.unwrap();
        let early = message(first.next.clone().unwrap().into(), &second);
        assert_eq!(to.take(early).await.unwrap(), start);
        assert!(all(&receiver).is_empty());
        let next = to.take(message(start.clone(), &first)).await.unwrap();
        let mut log = MessageLog::new(GROUP, receiver.clone());
        (1..7).for_each(|number| log.forget(number));
        log.commit(|number| number >= 7).unwrap();
        let held = all(&receiver);
        assert_eq!(to.take(message(start, &first)).await.unwrap(), next);
        assert!(all(&receiver) == held, "what was deleted since does not come back");
    }

    #[tokio::test]
    async fn a_page_cannot_write_outside_its_range() {
        let receiver = Arc::new(MemoryEngine::new());
        let mut to = incoming(&receiver, 0);
        let from = ask(&mut to).await;
        let key = |group, number| Bytes::from(MessageLog::key_from(group, number));
        let end = key(GROUP, 100);
        let cases = [
            (vec![key(GROUP + 1, 1)], end.clone()),
            (vec![key(GROUP - 1, 1)], end.clone()),
            (vec![key(GROUP, 100)], end.clone()),
            (vec![key(GROUP, 2), key(GROUP, 1)], end.clone()),
            (vec![key(GROUP, 1)], key(GROUP + 1, 0)),
            (vec![], end.clone()),
        ];
        for (keys, to_) in cases {
            let record = |key| proto::Record { key, value: Bytes::new() };
            let records = keys.into_iter().map(record).collect();
            let page = proto::RecordPage { vote: None, from: from.clone(), to: to_, records };
            assert!(matches!(to.take(page).await, Err(TakeError::Malformed(_))));
        }
        assert!(all(&receiver).is_empty());
    }

    #[test]
    fn a_sweep_deletes_what_is_not_named_and_nothing_beside_the_range() {
        let engine = filled(1..300, 10);
        let mut log = MessageLog::new(GROUP + 1, engine.clone());
        log.store([(1, Bytes::new())]);
        log.commit(|_| true).unwrap();
        let names: Names =
            Box::new(|key, value| MessageLog::numbers(key, value).unwrap()[0].is_multiple_of(3));
        sweep(engine.as_ref(), &MessageLog::keys(GROUP), &names).unwrap();
        assert_eq!(all(&engine).len(), 99 + 1);
    }
}
