//! The sessions of this node, and delivery to them: what a message meets wherever it came from.
//!
//! Messages of other nodes enter here and are never routed again. Knows the cluster only as the one
//! that calls. Start at [`LocalSessions::deliver`].

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use zwerm_cluster::Local;
use zwerm_cluster::forward::{Inbound, Origin, Receiver, Record, Target};
use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_machine::arrivals::{Arrivals, Destination};
use zwerm_machine::records;
use zwerm_wire::{QoS, ReasonCode, TopicFilter};

use crate::clients::Clients;
use crate::config::Config;
use crate::counters::Counters;
use crate::mailbox::{Acceptance, Delivery, Mailbox, Pushed};
use crate::message::Message;
use crate::outbox::{LEFT_BEHIND, LeftBehind};
use crate::shared::{Pick, Picker};
use crate::subscriptions::Subscriptions;
use crate::sys::Values;
use crate::targets::{Copy, Group, Resolver};

/// What all connections of this node share.
#[derive(Debug)]
pub(crate) struct LocalSessions {
    pub(crate) config: Config,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) clients: Clients,
    pub(crate) counters: Counters,
    /// What this node says of itself.
    pub(crate) sys: Values,
    /// Clients over the bounds of their queue.
    congested: Mutex<Vec<Arc<Mailbox>>>,
    /// What came from shards' outboxes.
    arrivals: Mutex<Arrivals>,
    /// Messages that members of shared subscriptions left behind.
    left_behind: mpsc::Sender<LeftBehind>,
}

impl LocalSessions {
    /// The sessions of a node, and what members of shared subscriptions among them leave behind.
    pub(crate) fn new(config: Config) -> (Self, mpsc::Receiver<LeftBehind>) {
        let (left_behind, receiver) = mpsc::channel(LEFT_BEHIND);
        let local = Self {
            config,
            subscriptions: Subscriptions::default(),
            clients: Clients::default(),
            counters: Counters::default(),
            sys: Values::default(),
            congested: Mutex::default(),
            arrivals: Mutex::default(),
            left_behind,
        };
        (local, receiver)
    }

    /// Another member gets it. Waits while too many wait.
    pub(crate) async fn leave_behind(&self, message: LeftBehind) {
        // Closed only when the broker stops.
        drop(self.left_behind.send(message).await);
    }

    /// Whether a message of a shard's outbox was delivered here before, for this shared subscription or for plain
    /// ones: its leader died between publishing and noting that it had.
    pub(crate) fn is_repeat(&self, message: &Message, group: Option<&TopicFilter>) -> bool {
        message.origin().is_some_and(|origin| self.came(origin, group))
    }

    fn came(&self, Origin { shard, sequence }: Origin, group: Option<&TopicFilter>) -> bool {
        let destination = group.map_or(Destination::Plain, |filter| Destination::Group(filter.clone()));
        !self.arrivals.lock().is_new(Some(&records::Origin { shard, sequence }), destination)
    }

    /// Puts a copy into each client's queue.
    pub(crate) fn deliver(&self, copies: &[Copy], message: &Arc<Message>, acceptance: &mut Acceptance<'_>) {
        for copy in copies {
            self.deliver_copy(copy, message, None, acceptance);
        }
    }

    /// False: the client is gone, or goes because of this one, or it is a member of the group that gets this
    /// message through its durable queue.
    fn deliver_copy(
        &self,
        copy: &Copy,
        message: &Arc<Message>,
        group: Option<&TopicFilter>,
        acceptance: &mut Acceptance<'_>,
    ) -> bool {
        let subscriber = &copy.subscriber;
        if subscriber.options.no_local && subscriber.client_id == *message.publisher() {
            return true;
        }
        let Some(qos) = copy.qos_of(message.qos()) else { return group.is_none() };
        let delivery = Delivery {
            message: Arc::clone(message),
            qos,
            retain: message.retain() && subscriber.options.retain_as_published,
            subscription_ids: copy.ids.clone(),
            dup: false,
            packet_id: None,
            group: group.filter(|_| qos != QoS::AtMostOnce).cloned(),
        };
        match subscriber.mailbox.push(delivery, acceptance) {
            Pushed::Taken => self.counters.queued.add(1),
            Pushed::Congested => {
                self.counters.queued.add(1);
                self.congested.lock().push(Arc::clone(&subscriber.mailbox));
            }
            Pushed::Dropped(count) => self.counters.dropped_queue_full.add(count),
            Pushed::Overflown => {
                self.counters.kicked_slow.add(1);
                return false;
            }
            Pushed::Closed => return false,
        }
        true
    }

    /// Gives a message to one local member of a group, the picked one or, if it is gone, the next.
    pub(crate) fn deliver_member(
        &self,
        group: &Group,
        picked: usize,
        message: &Arc<Message>,
        acceptance: &mut Acceptance<'_>,
    ) {
        let (before, from) = group.local.split_at(picked.min(group.local.len()));
        let taken = from
            .iter()
            .chain(before)
            .any(|copy| self.deliver_copy(copy, message, Some(&group.filter), acceptance));
        if !taken {
            self.pass_on(message, &group.filter);
        }
    }

    /// No member of a group is here any more: their messages are given to others, and this one with them.
    pub(crate) fn pass_on(&self, message: &Arc<Message>, group: &TopicFilter) {
        if message.qos() == QoS::AtMostOnce {
            return;
        }
        let left = LeftBehind { message: message.left_behind(), group: group.clone() };
        if self.left_behind.try_send(left).is_err() {
            self.counters.dropped_no_member.add(1);
        }
    }

    /// Disconnects clients that stayed over their bounds for too long.
    pub(crate) fn kick_slow(&self, now: Instant) {
        let patience = self.config.queue.patience;
        self.congested.lock().retain(|mailbox| {
            let Some(since) = mailbox.over_since() else { return false };
            let too_long = now.saturating_duration_since(since) >= patience;
            if too_long && mailbox.kick(ReasonCode::QuotaExceeded) {
                self.counters.kicked_slow.add(1);
            }
            !too_long
        });
    }
}

/// [`LocalSessions`] as the cluster calls it.
#[derive(Debug)]
pub(crate) struct LocalDoor(pub(crate) Arc<LocalSessions>);

impl Local for LocalDoor {
    fn kick(&self, client_id: &str, epoch: u64) {
        #[cfg(feature = "sabotage")]
        if zwerm_sabotage::is_broken(zwerm_sabotage::Rule::OneOwner) {
            return;
        }
        if self.0.clients.kick(client_id, epoch) {
            self.0.counters.kicked_taken_over.add(1);
        }
    }

    fn fenced(&self) {
        self.0.clients.kick_all(ReasonCode::UseAnotherServer);
    }

    fn returned(&self, record: Record) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let groups = record.target.groups.clone();
            let message = Arc::new(Message::forwarded(record, Instant::now()));
            for group in groups {
                self.0.leave_behind(LeftBehind { message: Arc::clone(&message), group }).await;
            }
        })
    }
}

impl Inbound for LocalDoor {
    fn receiver(&self) -> Box<dyn Receiver> {
        let config = &self.0.config;
        let resolver = Resolver::new(config.overlapping, None);
        Box::new(LaneReceiver {
            local: Arc::clone(&self.0),
            resolver,
            picker: Picker::new(config.shared_strategy),
        })
    }

    fn came(&self, origin: Origin, group: &TopicFilter) -> bool {
        self.0.came(origin, Some(group))
    }
}

/// Delivers what one lane brings.
struct LaneReceiver {
    local: Arc<LocalSessions>,
    resolver: Resolver,
    picker: Picker,
}

impl Receiver for LaneReceiver {
    fn deliver(&mut self, mut record: Record, now: Instant, bell: &Bell) -> Option<Receipt> {
        let local = &self.local;
        local.counters.forwarded_in.add(1);
        let Target { plain, groups } = std::mem::take(&mut record.target);
        let message = Arc::new(Message::forwarded(record, now));
        if message.has_expired(|| now) {
            local.counters.dropped_expired.add(1);
            return None;
        }
        let targets = self.resolver.resolve(message.topic(), &local.subscriptions);
        let mut acceptance = Acceptance::new(bell);
        if plain && !local.is_repeat(&message, None) {
            local.deliver(&targets.local, &message, &mut acceptance);
        }
        for filter in &groups {
            // Also what no member takes any more is passed on once.
            if local.is_repeat(&message, Some(filter)) {
                continue;
            }
            let group = targets.groups.iter().find(|group| group.filter == *filter);
            let picked = group.map(|group| (group, self.picker.pick(group, &message, |_| false)));
            match picked {
                Some((group, Some(Pick::Local(index)))) => {
                    local.deliver_member(group, index, &message, &mut acceptance);
                }
                // The last member left while the message was under way.
                _ => local.pass_on(&message, filter),
            }
        }
        // Nobody waits for QoS 0, so its copies hand out no tickets.
        acceptance.into_receipt().filter(|_| message.qos() != QoS::AtMostOnce)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zwerm_wire::{SubscribeOptions, TopicName};

    use super::*;
    use crate::subscriptions::Subscriber;

    fn record(shard: u32, sequence: u64) -> Record {
        Record {
            target: Target { plain: true, groups: Vec::new() },
            publisher: "gone".into(),
            topic: TopicName::new("will/gone").unwrap(),
            qos: QoS::AtLeastOnce,
            retain: false,
            origin: Some(Origin { shard, sequence }),
            expires_in_ms: None,
            properties: None,
            payload: Bytes::from_static(b"offline"),
        }
    }

    #[test]
    fn a_will_that_two_leaders_of_its_shard_publish_is_delivered_once() {
        let (local, _left_behind) = LocalSessions::new(Config::default());
        let local = Arc::new(local);
        let mailbox = Arc::new(Mailbox::new(local.config.queue, Bell::new()));
        let subscriber = Subscriber {
            key: 1,
            client_id: "watcher".into(),
            mailbox: Arc::clone(&mailbox),
            options: SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() },
            subscription_id: None,
            durable: false,
        };
        local.subscriptions.add(&TopicFilter::new("will/#").unwrap(), Arc::new(subscriber));
        let door = LocalDoor(Arc::clone(&local));
        let (mut old, mut new, bell) = (door.receiver(), door.receiver(), Bell::new());
        for sequence in [4, 5] {
            assert!(old.deliver(record(0, sequence), Instant::now(), &bell).is_none());
        }
        // The new leader begins with what it does not know to be published; another shard counts for itself.
        for (shard, sequence) in [(0, 5), (0, 6), (1, 5)] {
            assert!(new.deliver(record(shard, sequence), Instant::now(), &bell).is_none());
        }
        let mut taken = Vec::new();
        mailbox.take(usize::MAX, &mut taken);
        let origins: Vec<_> = taken.iter().filter_map(|delivery| delivery.message.origin()).collect();
        let origin = |shard, sequence| Origin { shard, sequence };
        assert_eq!(origins, [origin(0, 4), origin(0, 5), origin(0, 6), origin(1, 5)]);
    }

    #[test]
    fn what_no_member_takes_any_more_is_passed_on_once_and_may_come_back_here() {
        let (local, mut left_behind) = LocalSessions::new(Config::default());
        let door = LocalDoor(Arc::new(local));
        let group = TopicFilter::new("$share/g/will/#").unwrap();
        let target = Target { plain: false, groups: vec![group.clone()] };
        let (mut old, mut new, bell) = (door.receiver(), door.receiver(), Bell::new());
        for leader in [&mut old, &mut new] {
            assert!(
                leader
                    .deliver(Record { target: target.clone(), ..record(0, 4) }, Instant::now(), &bell)
                    .is_none()
            );
        }
        let left = left_behind.try_recv().unwrap();
        assert_eq!(left.message.origin(), None, "a member here that gets it now gets no repeat");
        assert!(left_behind.try_recv().is_err());
        assert!(door.came(Origin { shard: 0, sequence: 4 }, &group));
        assert!(!door.came(Origin { shard: 0, sequence: 5 }, &group), "it never came");
        assert!(new.deliver(Record { target, ..record(0, 5) }, Instant::now(), &bell).is_none());
        assert!(left_behind.try_recv().is_err(), "that was said, so it is not taken");
    }
}
