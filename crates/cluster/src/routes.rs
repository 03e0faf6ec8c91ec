//! Publishes this node's routes to the cluster, coalesced, and says when they hold everywhere.
//!
//! One command is on its way at a time; what arrives meanwhile goes with the next. An incarnation begins
//! with a full list. It does not know who subscribed. Start at [`RouteClient::permit`].

use std::collections::BTreeMap;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use zwerm_machine::records::{ControlReply, Route, Routes, control_command::Command, control_reply::Reply};
use zwerm_routing::Interest;
use zwerm_wire::TopicFilter;

use crate::cluster::Shared;
use crate::ledger::control_request;

/// Changes that wait; more wait in `permit`.
const QUEUE: usize = 4_096;
/// Routes in one command, and bytes of their filters: no command holds up the others for long.
const CHUNK: usize = 2_048;
const CHUNK_BYTES: usize = 1024 * 1024;

/// How many of these filters, by their lengths, go into one command; at least one, if there is one.
pub(crate) fn first_fitting(lengths: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0_usize;
    let fitting = lengths.take(CHUNK).take_while(|length| {
        let fits = bytes == 0 || bytes + length <= CHUNK_BYTES;
        bytes += length;
        fits
    });
    fitting.count()
}

/// How this node wants a filter from now on.
#[derive(Debug)]
pub(crate) struct Change {
    filter: TopicFilter,
    interest: Interest,
    routed: oneshot::Sender<()>,
}

/// Tells the cluster what this node wants. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RouteClient(mpsc::Sender<Change>);

impl RouteClient {
    pub(crate) fn new() -> (Self, RouteQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), RouteQueue(receiver))
    }

    /// Waits for a place in the queue. What is sent through permits arrives in the order of
    /// [`RoutePermit::set`], so a caller that counts members under a lock sends under the same lock.
    /// `None`: the node is stopping.
    pub async fn permit(&self) -> Option<RoutePermit<'_>> {
        self.0.reserve().await.ok().map(RoutePermit)
    }
}

/// A place in the queue of [`RouteClient`].
#[derive(Debug)]
pub struct RoutePermit<'a>(mpsc::Permit<'a, Change>);

/// Resolves when every node routes by a change (P4); fails when the node stops first.
pub type Routed = oneshot::Receiver<()>;

impl RoutePermit<'_> {
    /// Sets how this node wants a filter; [`Interest::NONE`]: not any more.
    #[must_use]
    pub fn set(self, filter: TopicFilter, interest: Interest) -> Routed {
        let (routed, done) = oneshot::channel();
        self.0.send(Change { filter, interest, routed });
        done
    }
}

/// The other end of [`RouteClient`].
#[derive(Debug)]
pub(crate) struct RouteQueue(mpsc::Receiver<Change>);

#[derive(Debug, Default)]
struct Publisher {
    /// What the broker wants, and what all nodes are known to route by.
    wanted: BTreeMap<TopicFilter, Interest>,
    routed: BTreeMap<TopicFilter, Interest>,
    /// Differences between the two.
    dirty: BTreeMap<TopicFilter, Interest>,
    /// Who waits for the dirty ones.
    waiting: Vec<oneshot::Sender<()>>,
    incarnation: u64,
    version: u64,
}

/// Publishes until the node stops.
pub(crate) async fn publish_routes(shared: &Shared, queue: &mut RouteQueue) {
    let mut publisher = Publisher::default();
    let mut changes = Vec::new();
    loop {
        if publisher.incarnation != shared.own.incarnation() {
            shared.wait_until_up().await;
            publisher.restart(shared.own.incarnation());
            publisher.send(shared, true).await;
            continue;
        }
        tokio::select! {
            count = queue.0.recv_many(&mut changes, QUEUE) => if count == 0 { return },
            () = shared.own.risen(publisher.incarnation) => continue,
        }
        changes.drain(..).for_each(|change| publisher.take(change));
        publisher.send(shared, false).await;
    }
}

impl Publisher {
    fn restart(&mut self, incarnation: u64) {
        // The version goes on: were it to start anew within one incarnation, what follows would count as old.
        self.incarnation = incarnation;
        self.routed.clear();
        self.dirty = self.wanted.clone();
    }

    fn take(&mut self, change: Change) {
        let Change { filter, interest, routed } = change;
        if interest.members == 0 {
            self.wanted.remove(&filter);
        } else {
            self.wanted.insert(filter.clone(), interest);
        }
        if self.routed.get(&filter).copied().unwrap_or_default() == interest {
            self.dirty.remove(&filter);
        } else {
            self.dirty.insert(filter, interest);
        }
        // Waiting with the others is right even for what holds already: nothing is on its way now.
        self.waiting.push(routed);
    }

    /// Sends what is dirty; all waiters are answered when it holds everywhere. An incarnation that is no
    /// longer current stops early and keeps them for the next.
    async fn send(&mut self, shared: &Shared, mut full: bool) {
        while full || !self.dirty.is_empty() {
            let fitting = first_fitting(self.dirty.keys().map(|filter| filter.as_str().len()));
            let first = self.dirty.iter().take(fitting);
            let chunk: Vec<_> = first.map(|(filter, interest)| (filter.clone(), *interest)).collect();
            if !self.send_chunk(shared, &chunk, full).await {
                return;
            }
            full = false;
            for (filter, interest) in chunk {
                self.dirty.remove(&filter);
                if interest.members == 0 {
                    self.routed.remove(&filter);
                } else {
                    self.routed.insert(filter, interest);
                }
            }
        }
        // A waiter that is gone has lost its connection.
        for routed in self.waiting.drain(..) {
            routed.send(()).unwrap_or_default();
        }
    }

    async fn send_chunk(&mut self, shared: &Shared, chunk: &[(TopicFilter, Interest)], full: bool) -> bool {
        self.version += 1;
        let set = chunk.iter().map(|(filter, interest)| Route {
            filter: filter.as_str().to_owned(),
            members: interest.members,
            only_qos0: interest.only_qos0,
        });
        let routes = Routes {
            node: shared.own.id,
            incarnation: self.incarnation,
            version: self.version,
            full,
            set: set.collect(),
        };
        let request = control_request(Command::Routes(routes), true);
        let reply = tokio::select! {
            reply = shared.propose(request) => reply,
            () = shared.own.risen(self.incarnation) => return false,
        };
        match ControlReply::decode(reply).ok().and_then(|reply| reply.reply) {
            Some(Reply::Applied(_)) => true,
            Some(Reply::Ignored(ignored)) => self.is_repeat(shared, ignored.reason).await,
            None => false,
        }
    }

    /// A repeat of a command whose answer got lost is as good as applied; everything else means that this
    /// incarnation is not (or no longer) up.
    async fn is_repeat(&mut self, shared: &Shared, reason: i32) -> bool {
        use zwerm_machine::records::Refusal;
        if reason == i32::from(Refusal::StaleVersion) {
            return true;
        }
        tracing::debug!(reason, "the control group ignored this node's routes; starting over");
        tokio::time::sleep(shared.config.lease.interval).await;
        self.incarnation = 0;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_a_bound_in_routes_and_in_bytes_and_is_never_empty() {
        assert_eq!(first_fitting(std::iter::empty()), 0);
        assert_eq!(first_fitting(std::iter::repeat_n(10, CHUNK * 2)), CHUNK);
        assert_eq!(first_fitting(std::iter::repeat_n(65_535, CHUNK)), CHUNK_BYTES / 65_535);
        assert_eq!(first_fitting([CHUNK_BYTES + 1, 1].into_iter()), 1);
    }
}
