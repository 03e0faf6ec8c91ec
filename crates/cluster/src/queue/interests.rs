//! Who waits for which queue to grow: a bounded note per reader, gone when the reader is.
//!
//! No wake-up is lost: a reader arms its interest before it looks, the replica publishes before it wakes. Knows
//! no messages. Start at [`Interests::add`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use parking_lot::Mutex;

use crate::receipt::Bell;

/// Told that it is time to look again; must not block.
pub(crate) trait Wake: Send + Sync + 'static {
    /// Look again.
    fn wake(&self);
}

impl Wake for Bell {
    fn wake(&self) {
        self.ring();
    }
}

/// One reader's interest in one queue.
struct Interest {
    /// The reader has seen all there was; taken by the one that wakes.
    armed: AtomicBool,
    reader: Box<dyn Wake>,
}

impl Interest {
    fn wake(&self) {
        if self.armed.swap(false, Ordering::AcqRel) {
            self.reader.wake();
        }
    }
}

/// All readers of one shard's queues on this node, by client.
#[derive(Default)]
pub(crate) struct Interests(Mutex<BTreeMap<Arc<str>, Vec<Arc<Interest>>>>);

impl std::fmt::Debug for Interests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Interests").field(&self.0.lock().len()).finish()
    }
}

impl Interests {
    /// Notes a reader, unarmed, until what is returned is dropped.
    pub(crate) fn add(self: &Arc<Self>, client_id: &Arc<str>, reader: Box<dyn Wake>) -> Interested {
        let interest = Arc::new(Interest { armed: AtomicBool::new(false), reader });
        self.0.lock().entry(Arc::clone(client_id)).or_default().push(Arc::clone(&interest));
        Interested { interests: Arc::clone(self), client_id: Arc::clone(client_id), interest }
    }

    /// Wakes the readers of these clients that wait. The new state is published before.
    pub(crate) fn wake<'a>(&self, clients: impl IntoIterator<Item = &'a Arc<str>>) {
        fence(Ordering::SeqCst);
        let waiting: Vec<Arc<Interest>> = {
            let all = self.0.lock();
            clients.into_iter().filter_map(|client| all.get(client)).flatten().cloned().collect()
        };
        // Not under the lock: readers take locks of their own.
        waiting.iter().for_each(|interest| interest.wake());
    }

    /// Wakes every reader that waits.
    pub(crate) fn wake_all(&self) {
        fence(Ordering::SeqCst);
        let waiting: Vec<Arc<Interest>> = self.0.lock().values().flatten().cloned().collect();
        waiting.iter().for_each(|interest| interest.wake());
    }

    /// Readers there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().values().map(Vec::len).sum()
    }
}

/// A reader is noted as long as this lives.
pub(crate) struct Interested {
    interests: Arc<Interests>,
    client_id: Arc<str>,
    interest: Arc<Interest>,
}

impl Interested {
    /// Asks to be woken by the next change; look afterwards.
    pub(crate) fn arm(&self) {
        self.interest.armed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Asks not to be woken: the reader knows of more than it took.
    pub(crate) fn disarm(&self) {
        self.interest.armed.store(false, Ordering::Release);
    }

    /// Wakes the reader if it waits.
    pub(crate) fn wake(&self) {
        self.interest.wake();
    }

    /// What [`wake`](Self::wake) does, for a task that outlives the reader; then it does nothing.
    pub(crate) fn waker(&self) -> impl Fn() + Send + 'static + use<> {
        let interest = Arc::downgrade(&self.interest);
        move || {
            if let Some(interest) = interest.upgrade() {
                interest.wake();
            }
        }
    }
}

impl Drop for Interested {
    fn drop(&mut self) {
        let mut all = self.interests.0.lock();
        if let Some(readers) = all.get_mut(&self.client_id) {
            readers.retain(|reader| !Arc::ptr_eq(reader, &self.interest));
            if readers.is_empty() {
                all.remove(&self.client_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_reader_is_woken_once_each_time_it_armed_itself_and_only_for_its_client() {
        let (interests, count) = (Arc::new(Interests::default()), Count::default());
        let (mine, other) = (Arc::from("mine"), Arc::from("other"));
        let reader = interests.add(&mine, Box::new(count.clone()));
        let woken = || count.0.load(Ordering::SeqCst);
        interests.wake([&mine]);
        assert_eq!(woken(), 0, "not armed");
        reader.arm();
        interests.wake([&other]);
        assert_eq!(woken(), 0);
        interests.wake([&other, &mine]);
        interests.wake([&mine]);
        assert_eq!(woken(), 1);
        reader.arm();
        reader.disarm();
        interests.wake_all();
        assert_eq!(woken(), 1);
    }

    #[test]
    fn a_reader_that_is_gone_is_not_noted_any_more() {
        let (interests, client) = (Arc::new(Interests::default()), Arc::from("c"));
        let readers: Vec<_> = (0..3).map(|_| interests.add(&client, Box::new(Count::default()))).collect();
        assert_eq!(interests.len(), 3);
        drop(readers);
        assert_eq!(interests.len(), 0);
        assert!(interests.0.lock().is_empty());
    }
}
