//! One client of a shard in one line each. Knows no rules.

use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::shard_reply::Reply;
use zwerm_machine::records::*;

use crate::commands::{NOW, Replica, durable, message, text};

/// A subscription without options.
pub(crate) fn to(filter: &str, qos: u32) -> Subscription {
    Subscription { filter: filter.into(), qos, ..Subscription::default() }
}

/// A durable claim of a client by node 1.
pub(crate) fn claim_of(client: &str) -> Claim {
    Claim { client_id: client.into(), ..durable() }
}

pub(crate) fn limited(client: &str, messages: u64, bytes: u64, full: QueueFull) -> Claim {
    Claim { queue: Some(QueueLimit { messages, bytes, full: full.into() }), ..claim_of(client) }
}

pub(crate) fn subscribe(client: &str, epoch: u64, subscriptions: &[Subscription]) -> Command {
    let subscriptions = subscriptions.to_vec();
    Command::Subscribe(Subscribe { client_id: client.into(), epoch, subscriptions, replay: false })
}

pub(crate) fn enqueue(message: Message) -> Enqueue {
    Enqueue { message: Some(message), plain: true, groups: Vec::new(), origin: None }
}

pub(crate) fn deliver(client: &str, message: Message) -> Deliver {
    Deliver { client_id: client.into(), message: Some(message), qos: 1, ..Deliver::default() }
}

pub(crate) fn acknowledge(client: &str, epoch: u64, done: &[u64], received: &[u64]) -> Command {
    let (done, received) = (done.to_vec(), received.to_vec());
    Command::Acknowledge(Acknowledge { client_id: client.into(), epoch, done, received })
}

/// The client vanished; its owner had sent up to a position.
pub(crate) fn gone(client: &str, epoch: u64, sent: u64) -> Command {
    Command::Release(Release { client_id: client.into(), epoch, fire_will: true, expiry_s: None, sent })
}

impl Replica {
    /// A client with subscriptions; its epoch.
    pub(crate) fn joins(&mut self, claim: &Claim, subscriptions: &[Subscription]) -> u64 {
        let epoch = self.claims(claim).epoch;
        self.subscribes(&claim.client_id, epoch, subscriptions);
        epoch
    }

    pub(crate) fn subscribes(
        &mut self,
        client: &str,
        epoch: u64,
        subscriptions: &[Subscription],
    ) -> Vec<SubscribedLine> {
        match self.reply(NOW, subscribe(client, epoch, subscriptions)) {
            Reply::Subscribed(subscribed) => subscribed.lines,
            other => panic!("not subscribed: {other:?}"),
        }
    }

    pub(crate) fn enqueues(&mut self, enqueue: Enqueue) -> (u32, u32) {
        self.queues(Command::Enqueue(enqueue))
    }

    pub(crate) fn delivers(&mut self, deliver: Deliver) -> (u32, u32) {
        self.queues(Command::Deliver(deliver))
    }

    fn queues(&mut self, command: Command) -> (u32, u32) {
        match self.reply(NOW, command) {
            Reply::Enqueued(Enqueued { queued, dropped }) => (queued, dropped),
            other => panic!("not queued: {other:?}"),
        }
    }

    /// Publishes with QoS 1 to a topic: whom it reaches.
    pub(crate) fn publishes(&mut self, topic: &str, payload: &str) -> (u32, u32) {
        self.enqueues(enqueue(message(topic, payload)))
    }

    /// Payloads in a client's queue, in order.
    pub(crate) fn waiting(&self, client: &str) -> Vec<String> {
        self.queue(client, 0).map(|queued| text(self.message(queued.message))).collect()
    }

    pub(crate) fn positions(&self, client: &str, after: u64) -> Vec<u64> {
        self.queue(client, after).map(|queued| queued.position).collect()
    }
}
