//! Messages into the queues of durable sessions: for all that want them, or for one. Knows not what a queue is.
//!
//! A message is stored once, however many queues take it. Start at [`Shard::enqueue`].

use std::sync::Arc;

use smallvec::SmallVec;
use zwerm_wire::{QoS, TopicFilter, TopicName};

use crate::Shard;
use crate::arrivals::{self, Destination};
use crate::limits::MAX_FILTERS;
use crate::message::{self, qos_of};
use crate::records::shard_reply::Reply;
use crate::records::{Deliver, Enqueue, Enqueued, Message, Refusal};
use crate::session::{Options, Terms};
use crate::shard::{Outcome, checked};

/// One message on its way into queues.
struct Fanout<'a> {
    message: &'a Message,
    /// As it was published.
    qos: QoS,
    /// The number that it gets if some queue takes it.
    number: u64,
    bytes: u32,
    /// Its topic, for sessions that note it.
    topic: Option<Arc<str>>,
    outcome: Enqueued,
    /// The outbox took it.
    handed_on: bool,
}

impl Shard {
    /// Queues a message for every session that wants it.
    pub(crate) fn enqueue(&mut self, enqueue: &Enqueue, now_ms: u64) -> Outcome {
        let message = enqueue.message.as_ref().ok_or(Refusal::Invalid)?;
        let topic = checked(message)?;
        let qos = queued_qos(message.qos)?;
        if enqueue.groups.len() > MAX_FILTERS {
            return Err(Refusal::Limit);
        }
        let groups = enqueue.groups.iter().map(|filter| shared(filter)).collect::<Result<Vec<_>, _>>()?;
        let origin = enqueue.origin.as_ref();
        arrivals::check(origin)?;
        // What finds no member here goes into the outbox: before anything is done, for it is asked again as a whole.
        if self.outbox.is_full() && groups.iter().any(|filter| !self.routes().contains_key(filter)) {
            return Err(Refusal::Busy);
        }
        let mut fanout = self.fanout(message, qos);
        if !message::is_expired(message, now_ms) {
            if enqueue.plain && self.arrivals.is_new(origin, Destination::Plain) {
                self.give_to_all(&topic, &mut fanout);
            }
            for filter in groups {
                let sessions = &self.sessions;
                let length = |session| sessions.get(&session).map_or(0, |session| session.queued_messages());
                let picked = self.interest.pick(&filter, length);
                if !self.arrivals.is_new(origin, Destination::Group(filter.clone())) {
                    continue;
                }
                match picked {
                    Some((filter, session, options)) => {
                        let terms = fanout.terms(&[options], Some(filter));
                        self.give(session, &mut fanout, terms);
                    }
                    // Whoever sent it did not know yet that the last member here is gone.
                    None => {
                        self.messages.name(fanout.number);
                        self.hand_on(filter, fanout.number, fanout.bytes);
                        fanout.handed_on = true;
                    }
                }
            }
        }
        Ok(self.finish(&fanout))
    }

    /// Each session once, whatever number of its subscriptions match: with the highest quality of service and the
    /// identifiers of all (MQTT 5.0 section 3.3.4 leaves the choice).
    fn give_to_all(&mut self, topic: &TopicName, fanout: &mut Fanout<'_>) {
        for found in self.interest.matches(topic).chunk_by(|one, next| one.0 == next.0) {
            let Some((session, _)) = found.first() else { continue };
            let is_own = |client: &str| client == fanout.message.publisher;
            let is_own = self.sessions.get(session).is_some_and(|session| is_own(session.client_id()));
            let options = found.iter().map(|(_, options)| *options);
            let options: SmallVec<[Options; 2]> =
                options.filter(|options| !(is_own && options.no_local)).collect();
            if options.iter().any(|options| options.is_queued()) {
                let terms = fanout.terms(&options, None);
                self.give(*session, fanout, terms);
            }
        }
    }

    /// Queues a message for one session.
    pub(crate) fn deliver(&mut self, deliver: &Deliver, now_ms: u64) -> Outcome {
        let message = deliver.message.as_ref().ok_or(Refusal::Invalid)?;
        checked(message)?;
        let qos = queued_qos(deliver.qos)?;
        let group = if deliver.group.is_empty() { None } else { Some(shared(&deliver.group)?) };
        let origin = deliver.origin.as_ref();
        arrivals::check(origin)?;
        if deliver.identifiers.len() > MAX_FILTERS {
            return Err(Refusal::Limit);
        }
        let number = self.addressee(deliver, group.as_ref())?;
        let Some(session) = self.sessions.get(&number) else { return Err(Refusal::NoSession) };
        let is_outrun = deliver.replay_epoch > 0 && session.replay.is_outrun(&message.topic);
        let destination = match &group {
            None => Destination::Client(session.client().clone()),
            Some(filter) => Destination::Group(filter.clone()),
        };
        let mut fanout = self.fanout(message, qos);
        if !is_outrun && !message::is_expired(message, now_ms) && self.arrivals.is_new(origin, destination) {
            let mut identifiers: SmallVec<[u32; 1]> = deliver.identifiers.iter().copied().collect();
            identifiers.sort_unstable();
            identifiers.dedup();
            if deliver.replay_epoch > 0 {
                fanout.topic = None;
            }
            self.give(number, &mut fanout, Terms { qos, retain: deliver.retain, identifiers, group });
        }
        Ok(self.finish(&fanout))
    }

    /// The session that a message is for. A member of a shared subscription must still be one, and a replay must
    /// still run.
    fn addressee(&self, deliver: &Deliver, group: Option<&TopicFilter>) -> Result<u64, Refusal> {
        if deliver.replay_epoch > 0 {
            let number = self.owned_session(&deliver.client_id, deliver.replay_epoch)?;
            let session = self.sessions.get(&number).filter(|session| session.replay.is_running());
            return session.map(|_| number).ok_or(Refusal::StaleEpoch);
        }
        let entry = self.clients.get(deliver.client_id.as_str()).ok_or(Refusal::NoSession)?;
        let session =
            entry.session.and_then(|number| self.sessions.get(&number)).ok_or(Refusal::NoSession)?;
        let is_member = group.is_none_or(|filter| session.subscriptions.contains_key(filter));
        is_member.then(|| session.number()).ok_or(Refusal::NoSession)
    }

    fn fanout<'a>(&self, message: &'a Message, qos: QoS) -> Fanout<'a> {
        Fanout {
            message,
            qos,
            number: self.messages.next(),
            bytes: message::weight(message),
            topic: message.retain.then(|| message.topic.as_str().into()),
            outcome: Enqueued::default(),
            handed_on: false,
        }
    }

    fn give(&mut self, number: u64, fanout: &mut Fanout<'_>, terms: Terms) {
        let Some(session) = self.sessions.get_mut(&number).map(Arc::make_mut) else { return };
        if let Some(topic) = &fanout.topic {
            session.replay.note(topic);
        }
        self.queued.take(session.queue.load());
        let offered = session.offer(fanout.number, fanout.bytes, terms);
        self.queued.put(session.queue.load());
        fanout.outcome.dropped += offered.dropped.len() as u32 + u32::from(!offered.queued);
        if offered.queued {
            fanout.outcome.queued += 1;
            self.messages.name(fanout.number);
            self.touched.push(session.client().clone());
        }
        // The message itself may be among them: then another copy of it has just taken its place.
        offered.dropped.into_iter().for_each(|dropped| self.messages.release(dropped));
    }

    fn finish(&mut self, fanout: &Fanout<'_>) -> Reply {
        if fanout.outcome.queued > 0 || fanout.handed_on {
            self.messages.store(fanout.message);
        }
        Reply::Enqueued(fanout.outcome)
    }
}

impl Fanout<'_> {
    /// How a session gets the message for its subscriptions that match.
    fn terms(&self, options: &[Options], group: Option<TopicFilter>) -> Terms {
        let granted = options.iter().map(|options| options.qos).max().unwrap_or(QoS::AtMostOnce);
        let identifiers =
            options.iter().map(|options| options.identifier).filter(|identifier| *identifier > 0);
        let mut identifiers: SmallVec<[u32; 1]> = identifiers.collect();
        identifiers.sort_unstable();
        identifiers.dedup();
        Terms {
            qos: granted.min(self.qos),
            retain: self.message.retain && options.iter().any(|options| options.retain_as_published),
            identifiers,
            group,
        }
    }
}

/// 1 or 2: nothing else is queued.
fn queued_qos(field: u32) -> Result<QoS, Refusal> {
    qos_of(field).ok().filter(|qos| *qos != QoS::AtMostOnce).ok_or(Refusal::Invalid)
}

fn shared(filter: &str) -> Result<TopicFilter, Refusal> {
    TopicFilter::new(filter).ok().filter(TopicFilter::is_shared).ok_or(Refusal::Invalid)
}
