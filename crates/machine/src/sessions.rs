//! The durable sessions of a shard: how they begin, go on and end, and what they subscribe to.
//!
//! A session that ended is gone from the routes at once; its messages go step by step, so that no command takes
//! long. Knows not why a session ends. Start at [`Shard::begin_session`] and [`Shard::subscribe`].

use std::sync::Arc;

use zwerm_wire::{QoS, TopicFilter};

use crate::Shard;
use crate::limits::{MAX_BURIED, MAX_FILTERS, MAX_SUBSCRIPTIONS};
use crate::outbox::{OutboxEntry, Target};
use crate::records::shard_reply::Reply;
use crate::records::{
    Claim, EndReplay, Refusal, Subscribe, Subscribed, SubscribedLine, Unsubscribe, Unsubscribed,
};
use crate::session::{Options, Removed, Session};
use crate::shard::{APPLIED, Outcome};

impl Shard {
    /// A claim begins a session, which is named by its epoch.
    pub(crate) fn begin_session(&mut self, client: &Arc<str>, claim: &Claim) -> u64 {
        let session = Session::new(self.epoch, client.clone(), claim);
        self.sessions.insert(self.epoch, Arc::new(session));
        self.epoch
    }

    /// A claim continues a session.
    pub(crate) fn session_claimed(&mut self, session: u64, claim: &Claim) {
        if let Some(session) = self.session_mut(session) {
            session.claimed(claim);
        }
        self.set_online(session, true);
    }

    /// Its connection ended and the owner said how far it had sent.
    pub(crate) fn session_released(&mut self, session: u64, sent: u64) {
        if let Some(session) = self.session_mut(session) {
            session.sent(sent);
        }
    }

    /// Its owner is gone without a word.
    pub(crate) fn session_abandoned(&mut self, session: u64) {
        if let Some(session) = self.session_mut(session) {
            session.abandoned();
        }
    }

    /// Tells the shared subscriptions that a session is a member of whether it has a connection.
    pub(crate) fn set_online(&mut self, session: u64, is_online: bool) {
        let Some(found) = self.sessions.get(&session).cloned() else { return };
        for filter in found.subscriptions.keys().filter(|filter| filter.is_shared()) {
            self.interest.move_member(filter, session, is_online);
        }
    }

    /// Ends a session: no message comes to it from now on, what it holds goes step by step.
    pub(crate) fn end_session(&mut self, number: u64) {
        let Some(mut session) = self.sessions.remove(&number) else { return };
        for filter in session.subscriptions.keys() {
            self.interest.set(filter, number, None, false);
        }
        self.queued.take(session.queue.load());
        Arc::make_mut(&mut session).subscriptions.clear();
        self.ended.insert(number, session);
        self.bury();
    }

    /// Lets a bounded number of messages of ended sessions go. Waits while the outbox is full.
    pub(crate) fn bury(&mut self) {
        let mut left = MAX_BURIED;
        while left > 0 && !self.outbox.is_full() {
            let Some(number) = self.ended.get_min().map(|(number, _)| *number) else { break };
            let Some(session) = self.ended.get_mut(&number).map(Arc::make_mut) else { break };
            if let Some(removed) = session.queue.remove_chunk() {
                let sent = session.maybe_sent();
                left = left.saturating_sub(removed.len().max(1));
                removed.iter().for_each(|(position, removed)| self.pass_on(removed, *position <= sent));
            } else if let Some((packet_id, received)) = session.received.get_min().copied() {
                // Never released by its publisher: it was never published.
                session.received.remove(&packet_id);
                self.messages.release(received.message);
                left -= 1;
            } else {
                self.ended.remove(&number);
            }
        }
    }

    /// What a member of a shared subscription had not acknowledged goes to another member, but for what it may have
    /// been sent with QoS 2 (MQTT 5.0 section 4.8.2, MQTT-4.8.2-5); any other message ends with its session.
    fn pass_on(&mut self, removed: &Removed, maybe_sent: bool) {
        match &removed.terms.group {
            Some(filter) if !(maybe_sent && removed.terms.qos == QoS::ExactlyOnce) => {
                self.hand_on(filter.clone(), removed.message, removed.bytes);
            }
            _ => self.messages.release(removed.message),
        }
    }

    /// A message that is named goes to another member of a shared subscription, wherever that is.
    pub(crate) fn hand_on(&mut self, filter: TopicFilter, message: u64, bytes: u32) {
        self.outbox.push(OutboxEntry::new(message, Target::Group(filter), bytes));
    }

    /// The durable session of a client, if the epoch is that of its present owner.
    pub(crate) fn owned_session(&self, client_id: &str, epoch: u64) -> Result<u64, Refusal> {
        let entry = self.clients.get(client_id).ok_or(Refusal::UnknownClient)?;
        if entry.owner.epoch != epoch || !entry.owner.connected {
            return Err(Refusal::StaleEpoch);
        }
        entry.session.ok_or(Refusal::NoSession)
    }

    pub(crate) fn session_mut(&mut self, number: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&number).map(Arc::make_mut)
    }

    pub(crate) fn subscribe(&mut self, subscribe: &Subscribe) -> Outcome {
        let number = self.owned_session(&subscribe.client_id, subscribe.epoch)?;
        let wanted = subscribe.subscriptions.iter().map(Options::restore);
        let wanted: Vec<_> = wanted.collect::<Option<_>>().ok_or(Refusal::Invalid)?;
        let had = self.sessions.get(&number).map_or(0, |session| session.subscriptions.len());
        if wanted.len() > MAX_FILTERS || had + wanted.len() > MAX_SUBSCRIPTIONS {
            return Err(Refusal::Limit);
        }
        let mut lines = Vec::with_capacity(wanted.len());
        for (filter, options) in wanted {
            let Some(session) = self.session_mut(number) else { break };
            let existed = session.subscriptions.insert(filter.clone(), options).is_some();
            self.interest.set(&filter, number, Some(options), true);
            let since = if options.is_queued() { self.interest.since(&filter) } else { 0 };
            lines.push(SubscribedLine { existed, since });
        }
        if let Some(session) = self.session_mut(number).filter(|_| subscribe.replay) {
            session.replay.begin();
        }
        Ok(Reply::Subscribed(Subscribed { lines }))
    }

    pub(crate) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) -> Outcome {
        let number = self.owned_session(&unsubscribe.client_id, unsubscribe.epoch)?;
        let filters = unsubscribe.filters.iter().map(|filter| TopicFilter::new(filter.as_str()));
        let filters: Vec<_> = filters.collect::<Result<_, _>>().map_err(|_| Refusal::Invalid)?;
        let mut existed = Vec::with_capacity(filters.len());
        for filter in filters {
            let removed = self.session_mut(number).and_then(|session| session.subscriptions.remove(&filter));
            if removed.is_some() {
                self.interest.set(&filter, number, None, true);
            }
            existed.push(removed.is_some());
        }
        Ok(Reply::Unsubscribed(Unsubscribed { existed }))
    }

    pub(crate) fn end_replay(&mut self, end: &EndReplay) -> Outcome {
        let number = self.owned_session(&end.client_id, end.epoch)?;
        if let Some(session) = self.session_mut(number) {
            session.replay.end();
        }
        APPLIED
    }
}
