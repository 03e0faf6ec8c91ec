//! A machine that keeps records: numbered messages in a [`MessageLog`], and who of them still lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::watch;
use zwerm_store::{Engine, MessageLog};

use super::fixture::View;
use crate::{GroupId, Machine, Names, Records};

/// A command that stores `count` messages of `size` bytes.
pub(super) fn store(count: u64, size: u64) -> Bytes {
    let mut command = vec![b'+'];
    command.put_u64(count);
    command.put_u64(size);
    command.into()
}

/// A command that forgets a message, if it lives.
pub(super) fn forget(number: u64) -> Bytes {
    let mut command = vec![b'-'];
    command.put_u64(number);
    command.into()
}

#[derive(Clone, Default)]
struct State {
    /// Number and size of those that live.
    live: BTreeMap<u64, u64>,
    next: u64,
}

/// Its [`View`] shows the size of each message that lives, and how many there were.
pub(super) struct Archive {
    group: u32,
    state: State,
    log: MessageLog,
    next: Arc<AtomicU64>,
    view: watch::Sender<View>,
}

fn content(number: u64, size: u64) -> Bytes {
    vec![number as u8; size as usize].into()
}

impl Archive {
    /// Made for [`super::fixture::Cluster::start_with`].
    pub(super) fn make(
        engine: Arc<dyn Engine>,
        group: GroupId,
        view: watch::Sender<View>,
    ) -> Box<dyn Machine> {
        let log = MessageLog::new(group.0, engine);
        Box::new(Self { group: group.0, state: State::default(), log, next: Arc::default(), view })
    }

    fn publish(&self, index: u64) {
        let mut shown: Vec<Bytes> = self
            .state
            .live
            .iter()
            .map(|(number, size)| [number.to_be_bytes(), size.to_be_bytes()].concat().into())
            .collect();
        shown.push(Bytes::copy_from_slice(&self.state.next.to_be_bytes()));
        self.next.store(self.state.next, Ordering::Release);
        self.view.send_replace(View { applied: index, commands: Arc::new(shown) });
    }
}

/// Asserts that an engine holds exactly what a view names, and no record of which nothing is named.
pub(super) fn check_records(engine: &Arc<dyn Engine>, group: GroupId, view: &View) {
    let (_, shown) = view.commands.split_last().unwrap();
    let live: BTreeMap<u64, u64> =
        shown.iter().map(|shown| (shown.clone().get_u64(), shown.slice(8..).get_u64())).collect();
    let numbers: Vec<u64> = live.keys().copied().collect();
    let found = MessageLog::new(group.0, Arc::clone(engine)).reader().read(&numbers).unwrap();
    for ((number, size), found) in live.iter().zip(found) {
        assert_eq!(found, Some(content(*number, *size)), "message {number}");
    }
    let keys = MessageLog::keys(group.0);
    for (key, value) in engine.scan(&keys.start, &keys.end, usize::MAX, false).unwrap() {
        let numbers = MessageLog::numbers(&key, &value).unwrap();
        assert!(numbers.iter().any(|number| live.contains_key(number)), "nobody names {numbers:?}");
    }
}

impl Machine for Archive {
    fn apply(&mut self, _index: u64, mut command: Bytes) -> Bytes {
        match command.get_u8() {
            b'+' => {
                let (count, size) = (command.get_u64(), command.get_u64());
                let numbers = self.state.next..self.state.next + count;
                self.state.next += count;
                self.state.live.extend(numbers.clone().map(|number| (number, size)));
                self.log.store(numbers.map(|number| (number, content(number, size))));
            }
            _ => {
                let number = command.get_u64();
                if self.state.live.remove(&number).is_some() {
                    self.log.forget(number);
                }
            }
        }
        Bytes::new()
    }

    fn applied(&mut self, index: u64) -> Result<(), String> {
        let live = &self.state.live;
        self.log.commit(|number| live.contains_key(&number)).map_err(|error| error.to_string())?;
        self.publish(index);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let State { live, next } = self.state.clone();
        Box::new(move || {
            let mut out = next.to_be_bytes().to_vec();
            for (number, size) in live {
                out.put_u64(number);
                out.put_u64(size);
            }
            out
        })
    }

    fn restore(&mut self, mut snapshot: Bytes, index: u64) -> Result<(), String> {
        self.state = State { live: BTreeMap::new(), next: snapshot.get_u64() };
        while snapshot.has_remaining() {
            let number = snapshot.get_u64();
            self.state.live.insert(number, snapshot.get_u64());
        }
        self.publish(index);
        Ok(())
    }

    fn records(&self) -> Option<Records> {
        let (group, next) = (self.group, Arc::clone(&self.next));
        let next = move || MessageLog::key_from(group, next.load(Ordering::Acquire));
        Some(Records { keys: MessageLog::keys(self.group), next: Arc::new(next) })
    }

    fn names(&self) -> Names {
        let State { live, next } = self.state.clone();
        Box::new(move |key, value| {
            let numbers = MessageLog::numbers(key, value).unwrap();
            numbers.iter().any(|number| *number >= next || live.contains_key(number))
        })
    }
}
