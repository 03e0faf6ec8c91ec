//! The queue in front of one connected client: bounded, with a policy for each quality of service.
//!
//! Publishers push, the client's connection takes; both hold the lock for a few instructions. Over the
//! soft bounds QoS 0 is dropped, the oldest first, and a QoS 1/2 message is taken but counts as accepted
//! only when the client takes it. At twice the bounds the client is too slow and has to go.
//! Knows no sockets. Start at [`Mailbox::push`].

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytestring::ByteString;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::Instant;
use zwerm_cluster::receipt::{Bell, Receipt, Ticket};
use zwerm_wire::{PacketId, QoS, ReasonCode, TopicFilter, TopicName};

use crate::config::QueueLimits;
use crate::message::Message;

/// How far the oldest QoS 0 message is looked for among others.
const QOS0_SEARCH: usize = 64;
/// Topics remembered during a retained replay; beyond, an older retained value may follow a newer live one.
const REPLAY_TOPICS: usize = 65_536;

/// One message for one client.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What.
    pub message: Arc<Message>,
    /// With which quality of service: the lower of publisher and subscription.
    pub qos: QoS,
    /// With which retain flag.
    pub retain: bool,
    /// Subscription identifiers of the subscriptions that matched (5.0).
    pub subscription_ids: SmallVec<[NonZeroU32; 1]>,
    /// It may have been sent before.
    pub dup: bool,
    /// From a durable queue: the identifier it goes by. `None`: the session chooses.
    pub packet_id: Option<PacketId>,
    /// The shared subscription that gave it to this client.
    pub group: Option<TopicFilter>,
}

#[derive(Debug)]
struct Queued {
    delivery: Delivery,
    /// Dropped when the client takes the delivery: then it counts as accepted.
    _slow: Option<Ticket>,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Queued>,
    bytes: usize,
    over_since: Option<Instant>,
    /// Somebody looks after the client already.
    watched: bool,
    closed: bool,
    /// Retained replays that run. Boxed: mostly none does.
    replays: Option<Box<Replays>>,
}

#[derive(Debug, Default)]
struct Replays {
    running: usize,
    /// Topics with a live retained message meanwhile: an older one must not follow.
    live_retained: HashSet<TopicName>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// In the queue.
    Taken,
    /// In the queue, which is now over its bounds: look after the client.
    Congested,
    /// So many QoS 0 messages were dropped: this one, or older ones to make room for it.
    Dropped(u64),
    /// The client is gone, or told to go.
    Closed,
    /// The client is too slow and is told to go.
    Overflown,
}

/// Collects what a publish has to wait for.
#[derive(Debug)]
pub(crate) struct Acceptance<'a> {
    bell: &'a Bell,
    receipt: Option<Receipt>,
}

impl<'a> Acceptance<'a> {
    pub(crate) fn new(bell: &'a Bell) -> Self {
        Self { bell, receipt: None }
    }

    pub(crate) fn continued(bell: &'a Bell, receipt: Option<Receipt>) -> Self {
        Self { bell, receipt }
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.receipt.get_or_insert_with(|| Receipt::new(self.bell.clone())).ticket()
    }

    /// `None`: nothing to wait for.
    pub(crate) fn into_receipt(self) -> Option<Receipt> {
        self.receipt
    }
}

/// The queue of one connection.
#[derive(Debug)]
pub(crate) struct Mailbox {
    client_id: ByteString,
    /// At most, in messages and in bytes.
    most: (usize, usize),
    queue: Mutex<Queue>,
    bell: Bell,
    room: Notify,
    /// Reason code of the kick, 0 for none.
    kicked: AtomicU8,
}

impl Mailbox {
    pub(crate) fn new(limits: QueueLimits, bell: Bell) -> Self {
        Self {
            client_id: ByteString::new(),
            most: (limits.messages, limits.bytes),
            queue: Mutex::default(),
            bell,
            room: Notify::new(),
            kicked: AtomicU8::new(0),
        }
    }

    /// The same of a client.
    pub(crate) fn of_client(self, client_id: ByteString) -> Self {
        Self { client_id, ..self }
    }

    /// Whose it is.
    pub(crate) fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Queues a live message.
    pub(crate) fn push(&self, delivery: Delivery, acceptance: &mut Acceptance<'_>) -> Pushed {
        let mut queue = self.queue.lock();
        // What a client that is told to go has not got yet ends with it.
        if queue.closed || self.kicked().is_some() {
            return Pushed::Closed;
        }
        if let Some(replays) = &mut queue.replays
            && delivery.message.retain()
            && replays.live_retained.len() < REPLAY_TOPICS
        {
            replays.live_retained.insert(delivery.message.topic().detached());
        }
        let over = self.is_over(&queue, 1);
        let mut pushed = Pushed::Taken;
        let mut slow = None;
        if over {
            if self.is_over(&queue, 2) && delivery.qos != QoS::AtMostOnce {
                drop(queue);
                self.kick(ReasonCode::QuotaExceeded);
                return Pushed::Overflown;
            }
            if delivery.qos == QoS::AtMostOnce {
                let mut dropped = 0;
                // One large message may need the room of several.
                while self.is_over(&queue, 1) {
                    dropped += 1;
                    if !queue.drop_oldest_qos0() {
                        return Pushed::Dropped(dropped);
                    }
                }
                pushed = Pushed::Dropped(dropped);
            } else {
                slow = Some(acceptance.ticket());
                queue.over_since.get_or_insert_with(Instant::now);
                if !std::mem::replace(&mut queue.watched, true) {
                    pushed = Pushed::Congested;
                }
            }
        }
        self.append(queue, delivery, slow);
        pushed
    }

    fn append(
        &self,
        mut queue: parking_lot::MutexGuard<'_, Queue>,
        delivery: Delivery,
        slow: Option<Ticket>,
    ) {
        let wake = queue.items.is_empty();
        queue.bytes += delivery.message.weight();
        queue.items.push_back(Queued { delivery, _slow: slow });
        drop(queue);
        if wake {
            self.bell.ring();
        }
    }

    fn is_over(&self, queue: &Queue, times: usize) -> bool {
        let (messages, bytes) = self.most;
        queue.items.len() >= messages.saturating_mul(times) || queue.bytes >= bytes.saturating_mul(times)
    }

    /// A retained replay begins; called before the live messages of its subscription can arrive.
    pub(crate) fn begin_replay(&self) {
        self.queue.lock().replays.get_or_insert_default().running += 1;
    }

    /// Queues a retained message of a replay when there is room, unless a newer one of its topic came live.
    /// False: the client is gone.
    pub(crate) async fn replay(&self, delivery: Delivery) -> bool {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let queue = self.queue.lock();
                if queue.closed {
                    return false;
                }
                if queue.is_outdated(&delivery) {
                    return true;
                }
                if !self.is_over(&queue, 1) {
                    self.append(queue, delivery, None);
                    return true;
                }
            }
            room.await;
        }
    }

    /// Queues a retained message that was read before the SUBACK, unless a newer one of its topic came live.
    pub(crate) fn replay_now(&self, delivery: Delivery) {
        let queue = self.queue.lock();
        if !queue.closed && !queue.is_outdated(&delivery) {
            self.append(queue, delivery, None);
        }
    }

    /// The replay is over.
    pub(crate) fn end_replay(&self) {
        let mut queue = self.queue.lock();
        let Some(replays) = &mut queue.replays else { return };
        replays.running = replays.running.saturating_sub(1);
        if replays.running == 0 {
            queue.replays = None;
        }
    }

    /// Takes up to `max` deliveries, in order.
    pub(crate) fn take(&self, max: usize, into: &mut Vec<Delivery>) {
        let mut released = SmallVec::<[Option<Ticket>; 8]>::new();
        let mut queue = self.queue.lock();
        let count = max.min(queue.items.len());
        for Queued { delivery, _slow } in queue.items.drain(..count) {
            if _slow.is_some() {
                released.push(_slow);
            }
            into.push(delivery);
        }
        queue.bytes -= into.iter().rev().take(count).map(|delivery| delivery.message.weight()).sum::<usize>();
        let below = !self.is_over(&queue, 1);
        if below {
            queue.over_since = None;
        }
        if queue.items.is_empty() && queue.items.capacity() > 1_024 {
            queue.items = VecDeque::new();
        }
        drop(queue);
        // Tickets ring bells: not under the lock.
        drop(released);
        if below && count > 0 {
            self.room.notify_waiters();
        }
    }

    /// Since when the queue is over its bounds. `None`: it need not be looked after any more; the next time
    /// it is over, [`Pushed::Congested`] says so.
    pub(crate) fn over_since(&self) -> Option<Instant> {
        let mut queue = self.queue.lock();
        queue.watched = queue.over_since.is_some();
        queue.over_since
    }

    /// Tells the connection to end for this reason; the first reason stays. True: this is the first.
    pub(crate) fn kick(&self, reason: ReasonCode) -> bool {
        let first =
            self.kicked.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.bell.ring();
        first
    }

    /// Why the connection has to end, if it has to.
    pub(crate) fn kicked(&self) -> Option<ReasonCode> {
        let byte = self.kicked.load(Ordering::Acquire);
        if byte == 0 { None } else { ReasonCode::from_byte(byte) }
    }

    /// The connection is gone: releases everything and takes nothing more. What is left are the messages that a
    /// shared subscription gave to this client.
    pub(crate) fn close(&self) -> Vec<Delivery> {
        let gone = Queue { closed: true, ..Queue::default() };
        let released = std::mem::replace(&mut *self.queue.lock(), gone);
        let left = released.items.into_iter().map(|queued| queued.delivery);
        let left = left.filter(|delivery| delivery.group.is_some()).collect();
        self.room.notify_waiters();
        left
    }
}

impl Queue {
    /// A newer message of the topic came live than the one that a replay read.
    fn is_outdated(&self, delivery: &Delivery) -> bool {
        let replays = self.replays.as_ref();
        replays.is_some_and(|replays| replays.live_retained.contains(delivery.message.topic()))
    }

    /// Makes room for a QoS 0 message by dropping an older one; false: there is none near the front.
    fn drop_oldest_qos0(&mut self) -> bool {
        let oldest =
            self.items.iter().take(QOS0_SEARCH).position(|queued| queued.delivery.qos == QoS::AtMostOnce);
        let dropped = oldest.and_then(|index| self.items.remove(index));
        self.bytes -= dropped.as_ref().map_or(0, |queued| queued.delivery.message.weight());
        dropped.is_some()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use std::time::Duration;
    use zwerm_wire::Publish;

    use super::*;

    fn delivery(qos: QoS, text: &'static str, retain: bool) -> Delivery {
        let publish = Publish {
            dup: false,
            qos,
            retain,
            packet_id: None,
            topic: Some(TopicName::new("t").unwrap()),
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: None,
            payload: Bytes::from_static(text.as_bytes()),
        };
        let message = Arc::new(Message::published(publish, "p".into(), Instant::now()).unwrap());
        let subscription_ids = SmallVec::new();
        Delivery { message, qos, retain, subscription_ids, dup: false, packet_id: None, group: None }
    }

    fn mailbox(messages: usize) -> (Mailbox, Bell) {
        let limits = QueueLimits { messages, bytes: 1 << 20, patience: Duration::from_secs(1) };
        (Mailbox::new(limits, Bell::new()), Bell::new())
    }

    fn texts(mailbox: &Mailbox) -> Vec<Bytes> {
        let mut taken = Vec::new();
        mailbox.take(usize::MAX, &mut taken);
        taken.iter().map(|delivery| delivery.message.payload().clone()).collect()
    }

    #[test]
    fn a_full_queue_drops_the_oldest_qos_0() {
        let (mailbox, bell) = mailbox(2);
        let mut acceptance = Acceptance::new(&bell);
        for text in ["1", "2"] {
            assert_eq!(mailbox.push(delivery(QoS::AtMostOnce, text, false), &mut acceptance), Pushed::Taken);
        }
        assert_eq!(mailbox.push(delivery(QoS::AtMostOnce, "3", false), &mut acceptance), Pushed::Dropped(1));
        assert!(acceptance.into_receipt().is_none());
        assert_eq!(texts(&mailbox), ["2", "3"]);
    }

    #[test]
    fn large_qos_0_messages_do_not_outgrow_the_bound_of_bytes() {
        let limits = QueueLimits { messages: 100, bytes: 20, patience: Duration::from_secs(1) };
        let (mailbox, bell) = (Mailbox::new(limits, Bell::new()), Bell::new());
        let mut acceptance = Acceptance::new(&bell);
        for _ in 0..10 {
            mailbox.push(delivery(QoS::AtMostOnce, "1", false), &mut acceptance);
        }
        let large = "0123456789abcdefghi";
        for _ in 0..5 {
            mailbox.push(delivery(QoS::AtMostOnce, large, false), &mut acceptance);
        }
        assert!(mailbox.queue.lock().bytes < 20 + large.len() + 1);
        assert_eq!(texts(&mailbox).last().unwrap(), large);
    }

    #[test]
    fn a_client_that_is_over_its_bounds_again_and_again_is_watched_once() {
        let (mailbox, bell) = mailbox(1);
        let mut acceptance = Acceptance::new(&bell);
        let mut congested = 0;
        for _ in 0..3 {
            for _ in 0..2 {
                let pushed = mailbox.push(delivery(QoS::AtLeastOnce, "x", false), &mut acceptance);
                congested += u32::from(pushed == Pushed::Congested);
            }
            mailbox.take(2, &mut Vec::new());
        }
        assert_eq!(congested, 1);
        assert!(mailbox.over_since().is_none());
        for _ in 0..2 {
            let pushed = mailbox.push(delivery(QoS::AtLeastOnce, "x", false), &mut acceptance);
            congested += u32::from(pushed == Pushed::Congested);
        }
        assert_eq!(congested, 2, "once nobody looks any more, the next time is said");
    }

    #[test]
    fn over_the_bounds_qos_1_is_accepted_when_it_is_taken() {
        let (mailbox, bell) = mailbox(1);
        let mut acceptance = Acceptance::new(&bell);
        assert_eq!(mailbox.push(delivery(QoS::AtLeastOnce, "1", false), &mut acceptance), Pushed::Taken);
        assert_eq!(mailbox.push(delivery(QoS::AtLeastOnce, "2", false), &mut acceptance), Pushed::Congested);
        let receipt = acceptance.into_receipt().unwrap();
        assert!(!receipt.is_complete() && mailbox.over_since().is_some());
        assert_eq!(texts(&mailbox), ["1", "2"]);
        assert!(receipt.is_complete() && mailbox.over_since().is_none());
    }

    #[test]
    fn at_twice_the_bounds_the_client_is_disconnected() {
        let (mailbox, bell) = mailbox(1);
        let mut acceptance = Acceptance::new(&bell);
        for _ in 0..2 {
            mailbox.push(delivery(QoS::AtLeastOnce, "x", false), &mut acceptance);
        }
        assert_eq!(mailbox.push(delivery(QoS::AtLeastOnce, "x", false), &mut acceptance), Pushed::Overflown);
        assert_eq!(mailbox.kicked(), Some(ReasonCode::QuotaExceeded));
        assert_eq!(mailbox.push(delivery(QoS::AtLeastOnce, "x", false), &mut acceptance), Pushed::Closed);
    }

    #[test]
    fn closing_accepts_what_waited_and_takes_nothing_more() {
        let (mailbox, bell) = mailbox(1);
        let mut acceptance = Acceptance::new(&bell);
        for _ in 0..2 {
            mailbox.push(delivery(QoS::AtLeastOnce, "x", false), &mut acceptance);
        }
        mailbox.close();
        assert!(acceptance.into_receipt().unwrap().is_complete());
        let mut acceptance = Acceptance::new(&bell);
        assert_eq!(mailbox.push(delivery(QoS::AtLeastOnce, "x", false), &mut acceptance), Pushed::Closed);
    }

    #[tokio::test]
    async fn a_replayed_value_never_follows_a_newer_live_one() {
        let (mailbox, bell) = mailbox(10);
        mailbox.begin_replay();
        mailbox.push(delivery(QoS::AtMostOnce, "new", true), &mut Acceptance::new(&bell));
        assert!(mailbox.replay(delivery(QoS::AtMostOnce, "old", true)).await);
        mailbox.end_replay();
        assert_eq!(texts(&mailbox), ["new"]);
    }
}
