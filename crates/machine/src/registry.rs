//! Who owns a client id: claim, release, loss of a node, and what that means for wills and sessions.
//!
//! Knows no messages but wills. Start at [`Shard::claim`]; the times of one entry are in `entry.rs`, what begins
//! and ends with a durable session in `sessions.rs`.

use std::sync::Arc;

use prost::Message as _;

use crate::Shard;
use crate::due::Timer;
use crate::entry::Entry;
use crate::limits::{MAX_CLIENT_ID, MAX_WILL};
use crate::message;
use crate::outbox::{OutboxEntry, Target};
use crate::records::shard_reply::Reply;
use crate::records::{Claim, Claimed, OwnerLost, Refusal, Release, Will};
use crate::shard::{APPLIED, Outcome};

impl Shard {
    /// Makes a node the owner of a client id; the epoch tells it from every other owner (P3).
    pub(crate) fn claim(&mut self, claim: &Claim, now_ms: u64) -> Outcome {
        check(claim)?;
        if self.peers.is_lost(claim.node, claim.incarnation) {
            return Err(Refusal::StaleIncarnation);
        }
        if claim.will.is_some() && self.outbox.is_full() {
            return Err(Refusal::Busy);
        }
        let client: Arc<str> = claim.client_id.as_str().into();
        self.settle(&client, now_ms);
        let old = self.clients.get(&client).cloned();
        // A transient session ends with its connection, so with the takeover; a clean start ends any. What goes on
        // goes on also for a connection whose own expiry is 0 (MQTT 5.0 section 3.1.2.4), and ends with that.
        let continued = old.as_ref().is_some_and(|old| old.is_durable()) && !claim.clean_start;
        if let Some(old) = &old {
            self.take_over(old, continued, now_ms);
        }
        self.epoch += 1;
        let session = self.succeed(&client, claim, old.as_deref(), continued);
        let resumed = session.filter(|_| continued).and_then(|session| self.sessions.get(&session));
        let answer = Claimed {
            epoch: self.epoch,
            session_present: continued,
            previous: old.map(|old| old.owner),
            resumed: resumed.map(|session| session.resumed(|filter| self.interest.since(filter))),
            durable: session.is_some(),
        };
        let will = claim.will.as_ref().map(detached);
        self.put(&client, Some(Entry::claimed(claim, self.epoch, will, session)));
        Ok(Reply::Claimed(answer))
    }

    /// The will of the connection that is taken over: forgotten if the session goes on and the will was to wait,
    /// else it fires now (MQTT 5.0 sections 3.1.2.5, 3.1.3.2.2 and 3.1.4).
    fn take_over(&mut self, old: &Entry, continued: bool, now_ms: u64) {
        let waits = old.will().is_some_and(|will| will.delay_s > 0);
        if !(continued && waits) {
            self.fire(&mut old.clone(), now_ms);
        }
    }

    /// Continues, ends or begins a durable session as a claim asks; the one that the claim then has.
    fn succeed(
        &mut self,
        client: &Arc<str>,
        claim: &Claim,
        old: Option<&Entry>,
        continued: bool,
    ) -> Option<u64> {
        if let Some((old, session)) = old.and_then(|old| Some((old, old.session?))) {
            if old.owner.connected {
                self.session_abandoned(session);
            }
            if continued {
                self.session_claimed(session, claim);
                return Some(session);
            }
            self.end_session(session);
        }
        (claim.expiry_s > 0).then(|| self.begin_session(client, claim))
    }

    /// The owner's connection ended.
    pub(crate) fn release(&mut self, release: &Release, now_ms: u64) -> Outcome {
        let entry = self.clients.get(release.client_id.as_str()).ok_or(Refusal::UnknownClient)?;
        if entry.owner.epoch != release.epoch || !entry.owner.connected {
            return Err(Refusal::StaleEpoch);
        }
        let mut entry = Entry::clone(entry);
        if !release.fire_will {
            entry.forget_will();
        }
        if let Some(session) = entry.session {
            self.session_released(session, release.sent);
        }
        self.disconnect(&release.client_id.as_str().into(), entry, release.expiry_s, now_ms);
        APPLIED
    }

    /// A node is dead, and so is every connection that it had.
    pub(crate) fn owner_lost(&mut self, lost: &OwnerLost, now_ms: u64) -> Outcome {
        if !self.peers.lose(lost.node, lost.incarnation) {
            return APPLIED; // whoever it owned is gone since then, and it could claim nobody after
        }
        let is_lost = |entry: &Entry| {
            entry.owner.connected
                && entry.owner.node == lost.node
                && entry.owner.incarnation <= lost.incarnation
        };
        let clients = self.clients.iter().filter(|(_, entry)| is_lost(entry));
        let clients: Vec<_> = clients.map(|(client, entry)| (client.clone(), Entry::clone(entry))).collect();
        for (client, entry) in clients {
            if let Some(session) = entry.session {
                self.session_abandoned(session);
            }
            self.disconnect(&client, entry, None, now_ms);
        }
        self.bury();
        APPLIED
    }

    fn disconnect(&mut self, client: &Arc<str>, mut entry: Entry, expiry_s: Option<u32>, now_ms: u64) {
        entry.disconnect(expiry_s, now_ms);
        if let Some(session) = entry.session {
            self.set_online(session, false);
        }
        self.put(client, Some(entry));
        self.settle(client, now_ms);
    }

    /// Does what is due for a client: a claim at some time sees what a tick at that time would have left.
    pub(crate) fn settle(&mut self, client: &Arc<str>, now_ms: u64) {
        let is_due = |at_ms: Option<u64>| at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let Some(entry) = self.clients.get(client).filter(|entry| is_due(entry.due_ms())) else { return };
        let mut entry = Entry::clone(entry);
        if is_due(entry.will_fires_ms()) {
            self.fire(&mut entry, now_ms);
        }
        let ended = is_due(entry.session_ends_ms());
        if let Some(session) = entry.session.filter(|_| ended) {
            self.end_session(session);
        }
        self.put(client, (!ended).then_some(entry));
    }

    fn fire(&mut self, entry: &mut Entry, now_ms: u64) {
        if let Some(will) = entry.fire_will(now_ms) {
            let number = self.messages.store_named(&will);
            let bytes = message::weight(&will);
            #[cfg(feature = "sabotage")]
            if zwerm_sabotage::is_broken(zwerm_sabotage::Rule::WillOnce) {
                let message = self.messages.store_named(&will);
                self.outbox.push(OutboxEntry::new(message, Target::All, bytes));
            }
            self.outbox.push(OutboxEntry::new(number, Target::All, bytes));
        }
    }

    /// Sets or removes an entry and its timer.
    pub(crate) fn put(&mut self, client: &Arc<str>, entry: Option<Entry>) {
        let new_ms = entry.as_ref().and_then(Entry::due_ms);
        let old = match entry {
            Some(entry) => self.clients.insert(client.clone(), Arc::new(entry)),
            None => self.clients.remove(client),
        };
        self.touched.push(client.clone());
        let old_ms = old.and_then(|old| old.due_ms());
        self.due.reset(&Timer::Client(client.clone()), old_ms, new_ms);
    }
}

fn check(claim: &Claim) -> Result<(), Refusal> {
    if claim.client_id.is_empty() || claim.incarnation == 0 {
        return Err(Refusal::Invalid);
    }
    if claim.client_id.len() > MAX_CLIENT_ID {
        return Err(Refusal::Limit);
    }
    let Some(will) = &claim.will else { return Ok(()) };
    if will.encoded_len() > MAX_WILL {
        return Err(Refusal::Limit);
    }
    let message = will.message.as_ref().ok_or(Refusal::Invalid)?;
    message::check(message).map(|_| ()).map_err(|_| Refusal::Invalid)
}

fn detached(will: &Will) -> Will {
    Will { message: will.message.as_ref().map(message::detached), ..*will }
}
