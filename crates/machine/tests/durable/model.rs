//! Durable sessions under random commands, held against a model that keeps everything in plain lists; a replica
//! that is restored from a snapshot in the middle must go on exactly alike.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::shard_reply::Reply;
use zwerm_machine::records::*;
use zwerm_machine::{ShardRoute, Target};
use zwerm_wire::{TopicFilter, TopicName};

use crate::commands::*;
use crate::fixture::*;

const CLIENTS: [&str; 3] = ["c0", "c1", "c2"];
const FILTERS: [&str; 6] = ["a", "+", "a/#", "$exclusive/a", "$share/g/a", "$share/h/#"];

#[derive(Debug, Clone)]
enum Step {
    /// Clean start, durable, bound of messages (0 is none), drop the newest.
    Claim(usize, bool, bool, u64, bool),
    Gone(usize),
    NodeLost,
    Subscribe(usize, &'static str, u32),
    Unsubscribe(usize, &'static str),
    /// Topic, quality of service, for plain subscriptions, for which groups, place in an outbox.
    Enqueue(&'static str, u32, bool, Vec<&'static str>, Option<u64>),
    Deliver(usize, Option<&'static str>, Option<u64>),
    /// Positions before the last.
    Acknowledge(usize, Vec<u64>, Vec<u64>),
    Receive(usize, u32),
    Complete(usize, u32),
    Drained(u64),
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS.len();
    let origin = || prop::option::weighted(0.3, 1u64..6);
    let groups = prop::sample::subsequence(vec!["$share/g/a", "$share/h/#"], 0..=2);
    let back = || prop::collection::vec(0u64..12, 0..4);
    prop_oneof![
        3 => (client(), prop::bool::weighted(0.2), prop::bool::weighted(0.9), select(vec![0, 0, 1, 3]), any::<bool>())
            .prop_map(|(client, clean, durable, limit, newest)| Step::Claim(client, clean, durable, limit, newest)),
        2 => client().prop_map(Step::Gone),
        1 => Just(Step::NodeLost),
        8 => (client(), select(FILTERS.to_vec()), 0u32..3).prop_map(|(client, filter, qos)| Step::Subscribe(client, filter, qos)),
        2 => (client(), select(FILTERS.to_vec())).prop_map(|(client, filter)| Step::Unsubscribe(client, filter)),
        16 => (select(vec!["a", "a", "b", "a/b"]), 1u32..3, prop::bool::weighted(0.8), groups, origin())
            .prop_map(|(topic, qos, plain, groups, origin)| Step::Enqueue(topic, qos, plain, groups, origin)),
        3 => (client(), prop::option::of(Just("$share/g/a")), origin()).prop_map(|(client, group, origin)| Step::Deliver(client, group, origin)),
        10 => (client(), back(), back()).prop_map(|(client, done, received)| Step::Acknowledge(client, done, received)),
        3 => (client(), 1u32..4).prop_map(|(client, packet_id)| Step::Receive(client, packet_id)),
        3 => (client(), 1u32..4).prop_map(|(client, packet_id)| Step::Complete(client, packet_id)),
        1 => (0u64..3).prop_map(Step::Drained),
        1 => Just(Step::Tick),
    ]
}

/// A message in a queue.
#[derive(Debug, Clone, PartialEq)]
struct Item {
    position: u64,
    message: String,
    qos: u32,
    group: Option<String>,
    released: bool,
}

#[derive(Debug, Clone, Default)]
struct Durable {
    began: u64,
    limit: u64,
    drop_newest: bool,
    subscriptions: BTreeMap<String, u32>,
    queue: Vec<Item>,
    last: u64,
    /// What the client may have been sent.
    sent: u64,
    received: BTreeMap<u32, String>,
}

#[derive(Debug, Clone, Default)]
struct Client {
    epoch: u64,
    connected: bool,
    session: Option<Durable>,
}

/// Everything, kept the plainest way.
#[derive(Debug, Default)]
struct Model {
    clients: BTreeMap<String, Client>,
    outbox: Vec<(u64, String, Option<String>)>,
    published: u64,
    epoch: u64,
    arrived: BTreeSet<(u64, String)>,
    incarnation: u64,
    messages: u64,
}

impl Durable {
    fn pending(&self) -> usize {
        self.queue.iter().filter(|item| !item.released).count()
    }

    /// Whether it was queued, and how many gave way.
    fn offer(&mut self, message: &str, qos: u32, group: Option<&str>) -> (u32, u32) {
        let is_full = self.limit > 0 && self.pending() as u64 >= self.limit;
        if is_full && self.drop_newest {
            return (0, 1);
        }
        let mut dropped = 0;
        while self.limit > 0 && self.pending() as u64 >= self.limit {
            let oldest = self.queue.iter().position(|item| !item.released).unwrap();
            self.queue.remove(oldest);
            dropped += 1;
        }
        self.last += 1;
        self.queue.push(Item {
            position: self.last,
            message: message.into(),
            qos,
            group: group.map(Into::into),
            released: false,
        });
        (1, dropped)
    }
}

impl Durable {
    /// Its owner is gone without a word: any window is larger than these queues.
    fn abandon(&mut self) {
        self.sent = self.queue.last().map_or(self.sent, |item| self.sent.max(item.position));
    }
}

impl Model {
    fn push_outbox(&mut self, message: String, group: Option<String>) {
        self.published += 1;
        self.outbox.push((self.published, message, group));
    }

    fn end(&mut self, session: Durable) {
        for item in session.queue.into_iter().filter(|item| !item.released) {
            if item.group.is_some() && !(item.qos == 2 && item.position <= session.sent) {
                self.push_outbox(item.message, item.group);
            }
        }
    }

    fn owned(&mut self, client: &str) -> Option<&mut Durable> {
        let client = self.clients.get_mut(client).filter(|client| client.connected)?;
        client.session.as_mut()
    }

    fn arrives(&mut self, origin: Option<u64>, destination: &str) -> bool {
        origin.is_none_or(|sequence| self.arrived.insert((sequence, destination.into())))
    }

    fn disconnect(&mut self, client: &str) {
        let Some(entry) = self.clients.get_mut(client) else { return };
        entry.connected = false;
        if entry.session.is_none() {
            self.clients.remove(client);
        }
    }

    fn epoch_of(&self, client: &str) -> u64 {
        self.clients.get(client).map_or(0, |client| client.epoch)
    }

    fn last_of(&self, client: &str) -> u64 {
        self.clients.get(client).and_then(|client| client.session.as_ref()).map_or(0, |session| session.last)
    }

    /// The command of a step, before the model takes it.
    fn command(&self, step: &Step) -> Command {
        let text = format!("{}", self.messages);
        let origin = |sequence: Option<u64>| sequence.map(|sequence| Origin { shard: 2, sequence });
        match step {
            Step::Claim(client, clean_start, is_durable, limit, newest) => {
                let full = if *newest { QueueFull::DropNewest } else { QueueFull::DropOldest };
                Command::Claim(Claim {
                    clean_start: *clean_start || !is_durable,
                    expiry_s: if *is_durable { u32::MAX } else { 0 },
                    incarnation: self.incarnation + 1,
                    ..limited(CLIENTS[*client], *limit, 0, full)
                })
            }
            Step::Gone(client) => gone(CLIENTS[*client], self.epoch_of(CLIENTS[*client]), 0),
            Step::NodeLost => Command::OwnerLost(OwnerLost { node: 1, incarnation: self.incarnation + 1 }),
            Step::Subscribe(client, filter, qos) => {
                subscribe(CLIENTS[*client], self.epoch_of(CLIENTS[*client]), &[to(filter, *qos)])
            }
            Step::Unsubscribe(client, filter) => Command::Unsubscribe(Unsubscribe {
                client_id: CLIENTS[*client].into(),
                epoch: self.epoch_of(CLIENTS[*client]),
                filters: vec![(*filter).into()],
            }),
            Step::Enqueue(topic, qos, plain, groups, sequence) => Command::Enqueue(Enqueue {
                plain: *plain,
                groups: groups.iter().map(ToString::to_string).collect(),
                origin: origin(*sequence),
                ..enqueue(Message { qos: *qos, ..message(topic, &text) })
            }),
            Step::Deliver(client, group, sequence) => Command::Deliver(Deliver {
                group: group.unwrap_or_default().into(),
                origin: origin(*sequence),
                ..deliver(CLIENTS[*client], message("a", &text))
            }),
            Step::Acknowledge(client, done, received) => {
                let last = self.last_of(CLIENTS[*client]);
                let positions =
                    |back: &[u64]| back.iter().map(|back| last.saturating_sub(*back)).collect::<Vec<_>>();
                acknowledge(
                    CLIENTS[*client],
                    self.epoch_of(CLIENTS[*client]),
                    &positions(done),
                    &positions(received),
                )
            }
            Step::Receive(client, packet_id) => Command::Receive(Receive {
                client_id: CLIENTS[*client].into(),
                epoch: self.epoch_of(CLIENTS[*client]),
                packet_id: *packet_id,
                message: Some(Message { qos: 2, ..message("out", &text) }),
            }),
            Step::Complete(client, packet_id) => Command::Complete(Complete {
                client_id: CLIENTS[*client].into(),
                epoch: self.epoch_of(CLIENTS[*client]),
                packet_id: *packet_id,
            }),
            Step::Drained(more) => {
                let first = self.outbox.first().map_or(0, |(sequence, ..)| *sequence);
                Command::Drained(Drained { upto: first + more })
            }
            Step::Tick => Command::Tick(Tick {}),
        }
    }

    /// What the step does; queued and dropped, where it queues.
    fn take(&mut self, command: &Command) -> (u32, u32) {
        self.messages += 1;
        let text = format!("{}", self.messages - 1);
        match command {
            Command::Claim(claim) => self.claim(claim),
            Command::Release(release) => self.disconnect(&release.client_id),
            Command::OwnerLost(_) => {
                self.incarnation += 1;
                for client in CLIENTS {
                    if let Some(session) = self.owned(client) {
                        session.abandon();
                    }
                    self.disconnect(client);
                }
            }
            Command::Subscribe(subscribe) => {
                if let Some(session) = self.owned(&subscribe.client_id) {
                    let wanted = subscribe.subscriptions.iter();
                    session.subscriptions.extend(wanted.map(|wanted| (wanted.filter.clone(), wanted.qos)));
                }
            }
            Command::Unsubscribe(unsubscribe) => {
                if let Some(session) = self.owned(&unsubscribe.client_id) {
                    session.subscriptions.retain(|filter, _| !unsubscribe.filters.contains(filter));
                }
            }
            Command::Enqueue(enqueue) => return self.enqueue(enqueue, &text),
            Command::Deliver(deliver) => return self.deliver(deliver, &text),
            Command::Acknowledge(acknowledge) => {
                if let Some(session) = self.owned(&acknowledge.client_id) {
                    for item in &mut session.queue {
                        item.released |= item.qos == 2 && acknowledge.received.contains(&item.position);
                    }
                    session.queue.retain(|item| !acknowledge.done.contains(&item.position));
                }
            }
            Command::Receive(receive) => {
                if let Some(session) = self.owned(&receive.client_id) {
                    session.received.entry(receive.packet_id).or_insert(text);
                }
            }
            Command::Complete(complete) => {
                let session = self.owned(&complete.client_id);
                if let Some(message) =
                    session.and_then(|session| session.received.remove(&complete.packet_id))
                {
                    self.push_outbox(message, None);
                }
            }
            Command::Drained(drained) => self.outbox.retain(|(sequence, ..)| *sequence > drained.upto),
            _ => {}
        }
        (0, 0)
    }

    fn claim(&mut self, claim: &Claim) {
        self.epoch += 1;
        let old = self.clients.remove(&claim.client_id);
        let was_connected = old.as_ref().is_some_and(|old| old.connected);
        let mut session = old.and_then(|old| old.session);
        if let Some(session) = session.as_mut().filter(|_| was_connected) {
            session.abandon();
        }
        if claim.clean_start {
            session.take().into_iter().for_each(|session| self.end(session));
        }
        if session.is_none() && claim.expiry_s > 0 {
            session = Some(Durable { began: self.epoch, ..Durable::default() });
        }
        if let Some(session) = &mut session {
            let limit = claim.queue.unwrap();
            (session.limit, session.drop_newest) = (limit.messages, limit.full() == QueueFull::DropNewest);
        }
        let client = Client { epoch: self.epoch, connected: true, session };
        self.clients.insert(claim.client_id.clone(), client);
    }

    fn enqueue(&mut self, enqueue: &Enqueue, text: &str) -> (u32, u32) {
        let message = enqueue.message.as_ref().unwrap();
        let topic = TopicName::new(message.topic.as_str()).unwrap();
        let matches = |filter: &str| TopicFilter::new(filter.to_owned()).unwrap().matches(&topic);
        let origin = enqueue.origin.map(|origin| origin.sequence);
        let mut sum = (0, 0);
        let mut add = |(queued, dropped)| sum = (sum.0 + queued, sum.1 + dropped);
        if enqueue.plain && self.arrives(origin, "plain") {
            for session in self.clients.values_mut().filter_map(|client| client.session.as_mut()) {
                let plain = session
                    .subscriptions
                    .iter()
                    .filter(|(filter, _)| !filter.starts_with("$share") && matches(filter));
                let granted = plain.map(|(_, qos)| *qos).max().unwrap_or(0);
                if granted > 0 {
                    add(session.offer(text, granted.min(message.qos), None));
                }
            }
        }
        for group in &enqueue.groups {
            let is_member = |session: &Durable| session.subscriptions.get(group).is_some_and(|qos| *qos > 0);
            let members = self.clients.iter().filter_map(|(name, client)| {
                let session = client.session.as_ref().filter(|session| is_member(session))?;
                Some((!client.connected, session.pending(), session.began, name.clone()))
            });
            let picked = members.min();
            if !self.arrives(origin, group) {
                continue;
            }
            let Some((.., name)) = picked else {
                self.push_outbox(text.into(), Some(group.clone()));
                continue;
            };
            let session = self.clients.get_mut(&name).unwrap().session.as_mut().unwrap();
            let qos = session.subscriptions[group].min(message.qos);
            add(session.offer(text, qos, Some(group)));
        }
        sum
    }

    fn deliver(&mut self, deliver: &Deliver, text: &str) -> (u32, u32) {
        let session = self.clients.get(&deliver.client_id).and_then(|client| client.session.as_ref());
        let group = Some(deliver.group.as_str()).filter(|group| !group.is_empty());
        let is_member =
            |session: &&Durable| group.is_none_or(|group| session.subscriptions.contains_key(group));
        if session.filter(is_member).is_none() {
            return (0, 0);
        }
        let origin = deliver.origin.map(|origin| origin.sequence);
        if !self.arrives(origin, group.unwrap_or(&deliver.client_id)) {
            return (0, 0);
        }
        let session = self.clients.get_mut(&deliver.client_id).unwrap().session.as_mut().unwrap();
        session.offer(text, deliver.qos, group)
    }

    fn check(&self, shard: &Replica) {
        let mut named = BTreeSet::new();
        for client in CLIENTS {
            let session =
                self.clients.get(client).and_then(|client| client.session.clone()).unwrap_or_default();
            let found: Vec<_> = shard
                .queue(client, 0)
                .map(|queued| {
                    (queued.position, text(shard.message(queued.message)), queued.qos as u32, queued.group)
                })
                .collect();
            let pending = session.queue.iter().filter(|item| !item.released);
            let wanted: Vec<_> = pending
                .map(|item| (item.position, item.message.clone(), item.qos, item.group.is_some()))
                .collect();
            assert_eq!(found, wanted, "queue of {client}");
            named.extend(wanted.into_iter().map(|(_, message, ..)| message));
            named.extend(session.received.into_values());
        }
        let outbox = shard.outbox().map(|(sequence, entry)| {
            let group = match &entry.target {
                Target::All => None,
                Target::Group(filter) => Some(filter.to_string()),
            };
            (sequence, text(shard.message(entry.message)), group)
        });
        assert_eq!(outbox.collect::<Vec<_>>(), self.outbox);
        named.extend(self.outbox.iter().map(|(_, message, _)| message.clone()));
        let kept: BTreeSet<_> = shard.messages.values().map(text).collect();
        assert_eq!((kept, shard.messages.len()), (named.clone(), named.len()), "kept is what is named, once");
        self.check_routes(shard);
    }

    fn check_routes(&self, shard: &Replica) {
        let mut wanted: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        for client in self.clients.values() {
            let subscriptions = client.session.iter().flat_map(|session| &session.subscriptions);
            for (filter, _) in subscriptions.filter(|(_, qos)| **qos > 0) {
                let route = wanted.entry(filter.clone()).or_default();
                if filter.starts_with("$share") {
                    *route = (route.0 + 1, route.1 + u32::from(client.connected));
                } else {
                    *route = (1, 0);
                }
            }
        }
        let routes = shard.routes().iter();
        let routes = routes
            .map(|(filter, ShardRoute { members, online, .. })| (filter.to_string(), (*members, *online)));
        assert_eq!(routes.collect::<BTreeMap<_, _>>(), wanted);
        assert!(shard.routes().values().all(|route| (1..=shard.routes_version()).contains(&route.since)));
    }
}

/// Applies a command as a numbered batch.
fn apply(replica: &mut Replica, sequence: u64, command: &Command) -> ShardReplies {
    let commands = vec![shard_command(NOW, command.clone())];
    let batch = ShardBatch { commands, producer_node: 5, producer_incarnation: 1, sequence, level: 0 };
    let replies = replica.shard.apply_batch(&batch);
    replica.take_effects();
    replies
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn durable_sessions_are_what_a_naive_model_says_and_a_restored_replica_goes_on_alike(
        steps in prop::collection::vec(step(), 1..120),
        restore_at in 0usize..120,
        repeat in prop::collection::vec(prop::bool::weighted(0.1), 120),
    ) {
        let (mut shard, mut twin, mut model) = (Replica::new(), Replica::new(), Model::default());
        let mut sequence = 0;
        for (number, step) in steps.iter().enumerate() {
            let version = shard.routes_version();
            let routes = shard.routes().clone();
            let command = model.command(step);
            sequence += 1;
            let replies = apply(&mut shard, sequence, &command);
            let (queued, dropped) = model.take(&command);
            if let Some(Reply::Enqueued(enqueued)) = &replies.replies[0].reply {
                prop_assert_eq!((enqueued.queued, enqueued.dropped), (queued, dropped), "{:?}", command);
            }
            model.check(&shard);
            prop_assert_eq!(shard.routes_version() > version, *shard.routes() != routes, "the version tells changes");
            prop_assert_eq!(&apply(&mut twin, sequence, &command), &replies, "a replica answers the same");
            prop_assert_eq!(&twin.messages, &shard.messages);
            prop_assert_eq!(&twin.touched, &shard.touched);
            if repeat[number] {
                let before = shard.digest();
                prop_assert_eq!(apply(&mut shard, sequence, &command), replies);
                prop_assert_eq!(shard.digest(), before, "a repeat changes nothing");
            }
            if number == restore_at {
                twin = Replica { touched: twin.touched.clone(), ..shard.restored() };
            }
        }
        prop_assert_eq!(twin.encode_snapshot(), shard.encode_snapshot());
        // When all sessions end and the outbox is drained, nothing is kept.
        for client in CLIENTS {
            let clean = Claim { clean_start: true, expiry_s: 0, incarnation: 9_999, ..claim_of(client) };
            shard.claims(&clean);
        }
        shard.does(NOW, Command::Drained(Drained { upto: u64::MAX }));
        prop_assert!(shard.messages.is_empty() && shard.routes().is_empty());
        prop_assert_eq!((shard.sessions(), shard.queued_messages(), shard.queued_bytes()), (0, 0, 0));
    }
}
