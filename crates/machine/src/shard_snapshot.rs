//! A shard's state as bytes and back. Knows the records, not the rules. Start at [`Shard::encode_snapshot`].
//!
//! What follows from the rest is not written: lookup, the members of routes, how often a message is named, timers.
//! The bytes of messages are not part of the state.

use std::sync::Arc;

use zwerm_wire::TopicFilter;

use crate::entry::Entry;
use crate::message;
use crate::records::shard_record::Record;
use crate::records::{
    self, ArrivalsRecord, ClientRecord, GroupRecord, Message, OutboxRecord, QueueRecord, SessionRecord,
    ShardHead, ShardRecord,
};
use crate::routes::ShardRoute;
use crate::session::Session;
use crate::snapshot::{self, Kind, Writer};
use crate::{Shard, SnapshotError};

/// Format 1 had no durable sessions; no released version wrote it.
const SHARD: Kind = Kind { magic: *b"ZWSH", format: 2 };

const fn damaged(what: &'static str) -> SnapshotError {
    SnapshotError::Damaged(what)
}

impl Shard {
    /// The whole state as bytes; equal states give equal bytes.
    #[must_use]
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut writer = Writer::new(SHARD);
        let mut push = |record| writer.push(&ShardRecord { record: Some(record) });
        push(Record::Head(ShardHead {
            epoch: self.epoch,
            outbox_sequence: self.outbox.last(),
            message: self.messages.last(),
            routes_version: self.interest.version(),
        }));
        self.peers.records().for_each(|peer| push(Record::Peer(peer)));
        self.clients.iter().for_each(|(client, entry)| push(Record::Client(entry.record(client))));
        for session in self.sessions.values().chain(self.ended.values()) {
            push(Record::Session(session.record()));
            session.queue_records().for_each(|chunk| push(Record::Queue(chunk)));
        }
        for (filter, route) in self.interest.routes() {
            let ShardRoute { members, online, since } = *route;
            let filter = filter.as_str().to_owned();
            push(Record::Route(records::ShardRoute { filter, members, since, online }));
        }
        for (filter, cursor) in self.interest.cursors() {
            push(Record::Group(GroupRecord { filter: filter.as_str().to_owned(), cursor }));
        }
        for (_, message) in &self.retained {
            push(Record::Retained(Message::clone(message)));
        }
        self.outbox.iter().for_each(|(sequence, entry)| push(Record::Outbox(entry.record(sequence))));
        self.arrivals.records().for_each(|arrivals| push(Record::Arrivals(arrivals)));
        self.delayed.records().for_each(|delayed| push(Record::Delayed(delayed)));
        self.exclusives.records().for_each(|exclusive| push(Record::Exclusive(exclusive)));
        writer.finish()
    }

    /// The state that these bytes were written from.
    ///
    /// # Errors
    /// What [`SnapshotError`] says; the bytes are never trusted.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut shard = Self::new();
        let (mut routes_version, mut routes) = (0, 0);
        for record in snapshot::read::<ShardRecord>(SHARD, bytes)? {
            let record = record?.record.ok_or(damaged("an unknown record"))?;
            match &record {
                Record::Head(head) => routes_version = head.routes_version,
                Record::Route(_) => routes += 1,
                _ => {}
            }
            shard.restore(record)?;
        }
        if routes != shard.interest.routes().len() {
            return Err(damaged("a route without its record"));
        }
        shard.interest.restore_version(routes_version);
        shard.touched.clear();
        Ok(shard)
    }

    fn restore(&mut self, record: Record) -> Result<(), SnapshotError> {
        match record {
            Record::Head(head) => {
                self.epoch = head.epoch;
                self.outbox.restore_last(head.outbox_sequence);
                self.messages.restore_last(head.message);
                Ok(())
            }
            Record::Peer(peer) => {
                self.peers.restore(peer);
                Ok(())
            }
            Record::Client(record) => self.restore_client(record),
            Record::Session(record) => self.restore_session(record),
            Record::Queue(record) => self.restore_queue(record),
            Record::Route(record) => self.restore_route(&record),
            Record::Group(record) => self.restore_group(&record),
            Record::Retained(message) => {
                let topic =
                    message::check(&message).map_err(|_| damaged("a retained message without a topic"))?;
                self.set_retained(topic, Some(Arc::new(message)));
                Ok(())
            }
            Record::Outbox(record) => self.restore_outbox(&record),
            Record::Arrivals(record) => self.restore_arrivals(record),
            Record::Exclusive(record) => {
                self.exclusives.restore(record).ok_or(damaged("an exclusive subscription"))
            }
            Record::Delayed(record) => {
                self.delayed.restore(record);
                self.name(record.number)
            }
        }
    }

    fn restore_client(&mut self, record: ClientRecord) -> Result<(), SnapshotError> {
        let client: Arc<str> = record.client_id.as_str().into();
        let entry = Entry::restore(record).ok_or(damaged("a client without an owner"))?;
        self.put(&client, Some(entry));
        Ok(())
    }

    /// A session to which its client holds lives; any other has ended.
    fn restore_session(&mut self, record: SessionRecord) -> Result<(), SnapshotError> {
        let known = self.clients.get_key_value(record.client_id.as_str());
        let owner = known.filter(|(_, entry)| entry.session == Some(record.number));
        let client = known.map_or_else(|| record.client_id.as_str().into(), |(client, _)| client.clone());
        let is_online = owner.map(|(_, entry)| entry.owner.connected);
        let session = Session::restore(record, client).ok_or(damaged("a session"))?;
        let number = session.number();
        for received in session.received.values() {
            self.name(received.message)?;
        }
        match is_online {
            None => self.ended.insert(number, Arc::new(session)),
            Some(is_online) => {
                for (filter, options) in session.subscriptions() {
                    self.interest.set(filter, number, Some(*options), is_online);
                }
                self.sessions.insert(number, Arc::new(session))
            }
        };
        Ok(())
    }

    fn restore_queue(&mut self, record: QueueRecord) -> Result<(), SnapshotError> {
        let is_live = self.sessions.contains_key(&record.session);
        let sessions = if is_live { &mut self.sessions } else { &mut self.ended };
        let session = sessions.get_mut(&record.session).map(Arc::make_mut);
        let session = session.ok_or(damaged("a queue without a session"))?;
        let before = session.queue.load();
        let named = session.restore_queue(record).ok_or(damaged("a part of a queue"))?;
        if is_live {
            self.queued.take(before);
            self.queued.put(session.queue.load());
        }
        named.into_iter().try_for_each(|number| self.name(number))
    }

    fn restore_route(&mut self, record: &records::ShardRoute) -> Result<(), SnapshotError> {
        let route = ShardRoute { members: record.members, online: record.online, since: record.since };
        let filter = TopicFilter::new(record.filter.as_str()).ok();
        let restored = filter.and_then(|filter| self.interest.restore_route(&filter, route));
        restored.ok_or(damaged("a route that no session wants"))
    }

    fn restore_group(&mut self, record: &GroupRecord) -> Result<(), SnapshotError> {
        let filter = TopicFilter::new(record.filter.as_str()).ok();
        let restored = filter.and_then(|filter| self.interest.restore_cursor(&filter, record.cursor));
        restored.ok_or(damaged("a shared subscription without members"))
    }

    fn restore_outbox(&mut self, record: &OutboxRecord) -> Result<(), SnapshotError> {
        let number = self.outbox.restore(record).ok_or(damaged("an outbox entry out of its place"))?;
        self.name(number)
    }

    fn restore_arrivals(&mut self, record: ArrivalsRecord) -> Result<(), SnapshotError> {
        self.arrivals.restore(record).ok_or(damaged("arrivals"))
    }

    fn name(&mut self, number: u64) -> Result<(), SnapshotError> {
        if number == 0 || number > self.messages.last() {
            return Err(damaged("a message that never was"));
        }
        self.messages.name(number);
        Ok(())
    }

    /// A hash of the whole state: it differs as soon as two replicas do. Costs a snapshot.
    #[must_use]
    pub fn digest(&self) -> u64 {
        snapshot::checksum(&self.encode_snapshot())
    }
}
