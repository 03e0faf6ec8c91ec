//! One simulated client: MQTT as the specification wants it, with the habits that its plan gives it.
//!
//! It is a state machine that is asked once per millisecond; it writes down what it sends and receives. A lost
//! connection makes it go to any node; what was not acknowledged is sent again with DUP when the session is
//! there. Knows nothing of what the broker should do: that is the oracle's. Start at [`Client::tick`].

mod connection;
mod packets;
mod plan;
mod session;

use std::sync::Arc;

use zwerm_oracle::{Ending, What, Will};
use zwerm_wire::{Connect, ConnectProperties, Disconnect, Packet, Protocol, QoS, ReasonCode, TopicName};

use crate::dice::Dice;
use crate::net::{End, Place};
use crate::record::Record;
use connection::{Connection, Phase};
use session::{Outgoing, Session};

pub(crate) use plan::{Habit, Plan, Publishing, Wish};

/// How long an answer may take before a client tries elsewhere.
const PATIENCE_MS: std::ops::Range<u64> = 3_000..9_000;
/// How long a client whose connection is lost waits before it is back.
const BACK_MS: std::ops::Range<u64> = 1..600;
/// How long a connection that was taken over is still listened to.
const LISTEN_MS: u64 = 4_000;
/// Keep alive in seconds; a PINGREQ goes out after half of it.
const KEEP_ALIVE_S: u16 = 4;

/// What a client finds around it.
pub(crate) trait Around {
    /// Dials a node; `None`: nobody is there.
    fn dial(&mut self, from: Place) -> Option<End>;
    /// Where what happens is written down.
    fn record(&mut self) -> &mut Record;
    /// A number that no other message has.
    fn message(&mut self) -> u64;
    /// Nothing is broken, nor was it lately.
    fn is_calm(&self) -> bool;
    /// Nothing new is begun any more; what was begun is finished.
    fn is_ending(&self) -> bool;
}

/// A client.
pub(crate) struct Client {
    pub(crate) name: Arc<str>,
    place: Place,
    plan: Plan,
    dice: Dice,
    number: u32,
    connection: Option<Connection>,
    /// Taken over by this client itself, with the time when it stops to listen.
    older: Vec<(u64, Connection)>,
    session: Session,
    connect_at_ms: u64,
    publish_at_ms: u64,
    habit_at_ms: u64,
    /// Not before: a refused subscription is tried again after a while.
    subscribe_at_ms: u64,
    patience_ms: u64,
    /// It will not come back by itself.
    is_gone: bool,
}

impl Client {
    pub(crate) fn new(name: &str, place: Place, plan: Plan, mut dice: Dice) -> Self {
        let connect_at_ms = dice.within(0..plan.begins_within_ms.max(1));
        let patience_ms = dice.within(PATIENCE_MS);
        Self {
            name: name.into(),
            place,
            plan,
            dice,
            number: 0,
            connection: None,
            older: Vec::new(),
            session: Session::default(),
            connect_at_ms,
            publish_at_ms: 0,
            habit_at_ms: u64::MAX,
            subscribe_at_ms: 0,
            patience_ms,
            is_gone: false,
        }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now_ms: u64, around: &mut impl Around) {
        for (until_ms, mut old) in std::mem::take(&mut self.older) {
            self.listen(&mut old, now_ms, around);
            if old.is_over() || now_ms >= until_ms {
                self.note(&old, now_ms, around, What::End(Ending::Lost));
            } else {
                self.older.push((until_ms, old));
            }
        }
        if let Some(mut connection) = self.connection.take() {
            self.listen(&mut connection, now_ms, around);
            if connection.is_open() {
                self.act(&mut connection, now_ms, around);
                connection.flush(now_ms);
            }
            if self.is_done(&mut connection, now_ms) {
                self.end(&connection, now_ms, around);
            } else if self.connection.is_some() {
                // Taken over by itself.
                self.older.push((now_ms + LISTEN_MS, connection));
            } else {
                self.connection = Some(connection);
            }
        } else if now_ms >= self.connect_at_ms && !(around.is_ending() && self.is_gone) {
            self.connect(now_ms, around);
        }
    }

    /// Whether it is connected (unless it is gone for good) and waits for nothing.
    pub(crate) fn is_settled(&self) -> bool {
        let Some(connection) = &self.connection else { return self.is_gone && self.older.is_empty() };
        let has = |wish: &Wish| wish.is_exclusive() || self.session.subscribed.contains(&wish.filter);
        let subscribed = self.plan.wishes.iter().all(has);
        connection.is_open()
            && connection.is_quiet()
            && self.session.is_quiet()
            && subscribed
            && self.older.is_empty()
    }

    /// Says that it has got everything, if it is connected.
    pub(crate) fn drained(&self, now_ms: u64, around: &mut impl Around) {
        if let Some(connection) = self.connection.as_ref().filter(|connection| connection.is_open()) {
            self.note(connection, now_ms, around, What::Drained);
        }
    }

    /// What it waits for, for people.
    pub(crate) fn waits_for(&self) -> String {
        format!(
            "{}: {:?}, {} older, {:?}",
            self.name,
            self.connection.as_ref().map(|connection| (connection.number, connection.phase)),
            self.older.len(),
            self.session
        )
    }

    fn note(&self, connection: &Connection, now_ms: u64, around: &mut impl Around, what: What) {
        around.record().push(now_ms, &self.name, connection.number, what);
    }

    fn listen(&mut self, connection: &mut Connection, now_ms: u64, around: &mut impl Around) {
        for packet in connection.packets(now_ms) {
            self.take(connection, packet, now_ms, around);
        }
        connection.flush(now_ms);
    }

    /// Whether a connection has come to its end; asks for a sign of life meanwhile.
    fn is_done(&self, connection: &mut Connection, now_ms: u64) -> bool {
        if connection.is_over() {
            return true;
        }
        match connection.phase {
            Phase::Connecting { since_ms } => now_ms >= since_ms + self.patience_ms,
            Phase::Leaving { since_ms } => now_ms >= since_ms + 1_000,
            Phase::Open => {
                let half_ms = u64::from(KEEP_ALIVE_S) * 500;
                if connection.pinged_ms.is_none() && now_ms >= connection.heard_ms + half_ms {
                    connection.pinged_ms = Some(now_ms);
                    connection.send(&Packet::PingReq);
                    connection.flush(now_ms);
                }
                connection.pinged_ms.is_some_and(|pinged_ms| now_ms >= pinged_ms + self.patience_ms)
            }
        }
    }

    fn end(&mut self, connection: &Connection, now_ms: u64, around: &mut impl Around) {
        let ending = match connection.phase {
            Phase::Leaving { .. } => {
                let confirmed = connection.is_over() && around.is_calm();
                Ending::Disconnected { confirmed, expiry: None }
            }
            _ => Ending::Lost,
        };
        self.note(connection, now_ms, around, What::End(ending));
        self.session.disconnected();
        if self.plan.expiry_s == 0 {
            self.session.clear();
        }
        let away_ms = match self.plan.habit {
            Habit::Leaves { away_ms, .. } | Habit::Dies { away_ms, .. } if self.is_gone => {
                self.dice.within(away_ms.0..away_ms.1)
            }
            _ => self.dice.within(BACK_MS),
        };
        self.connect_at_ms = now_ms + away_ms;
    }

    fn connect(&mut self, now_ms: u64, around: &mut impl Around) {
        self.connect_at_ms = now_ms + self.dice.within(BACK_MS);
        let Some(end) = around.dial(self.place) else { return };
        self.number += 1;
        let mut connection = Connection::new(self.number, self.plan.protocol, end, now_ms);
        connection.will = self.plan.will_delay_s.map(|delay| Will {
            message: around.message(),
            topic: format!("w/{}", self.name).into(),
            qos: 1,
            retain: false,
            // 3.1.1 knows no delay.
            delay: if self.plan.protocol == Protocol::V5 { delay } else { 0 },
        });
        let Some(connect) = self.connect_packet(connection.will.as_ref()) else { return };
        let what = What::Connect {
            clean: self.plan.clean,
            expiry: self.plan.expiry_s,
            will: connection.will.clone(),
        };
        self.note(&connection, now_ms, around, what);
        connection.send(&Packet::Connect(Box::new(connect)));
        connection.flush(now_ms);
        self.patience_ms = self.dice.within(PATIENCE_MS);
        self.is_gone = false;
        self.connection = Some(connection);
    }

    fn connect_packet(&self, will: Option<&Will>) -> Option<Connect> {
        let will = match will {
            Some(will) => Some(zwerm_wire::Will {
                topic: TopicName::new(&*will.topic).ok()?,
                payload: plan::payload(will.message, 0),
                qos: QoS::AtLeastOnce,
                retain: will.retain,
                delay: will.delay,
                properties: None,
            }),
            None => None,
        };
        let session_expiry = (self.plan.protocol == Protocol::V5).then_some(self.plan.expiry_s);
        Some(Connect {
            protocol: self.plan.protocol,
            bridge: false,
            clean_start: self.plan.clean,
            keep_alive: KEEP_ALIVE_S,
            client_id: (&*self.name).into(),
            will,
            username: None,
            password: None,
            properties: ConnectProperties { session_expiry, ..ConnectProperties::default() },
        })
    }

    /// What an open connection gives occasion to.
    fn act(&mut self, connection: &mut Connection, now_ms: u64, around: &mut impl Around) {
        if now_ms >= self.subscribe_at_ms {
            self.subscribe(connection, now_ms, around);
        }
        if around.is_ending() {
            return;
        }
        self.publish(connection, now_ms, around);
        if now_ms >= self.habit_at_ms {
            self.indulge(connection, now_ms, around);
        }
    }

    /// Publishes what is due.
    fn publish(&mut self, connection: &mut Connection, now_ms: u64, around: &mut impl Around) {
        let Some(publishing) = &self.plan.publishing else { return };
        if now_ms < self.publish_at_ms || !self.session.may_publish() {
            return;
        }
        self.publish_at_ms = now_ms + self.dice.within(publishing.every_ms.0..publishing.every_ms.1);
        let (Some(topic), Some(qos)) = (self.dice.pick(&publishing.topics), self.dice.pick(&publishing.qos))
        else {
            return;
        };
        let retain = self.dice.percent(publishing.retain_percent);
        let is_deletion = retain && self.dice.percent(publishing.delete_percent);
        let message = around.message();
        let most = if self.dice.percent(2) { 20_000 } else { 60 };
        let padding = self.dice.within(0..most);
        let payload = if is_deletion { bytes::Bytes::new() } else { plan::payload(message, padding) };
        let outgoing = Outgoing::new(message, &topic.into(), qos, retain, payload);
        let outgoing = if qos == QoS::AtMostOnce { outgoing } else { self.session.keep(outgoing) };
        self.send(connection, &outgoing, false, (now_ms, around));
    }

    fn send(
        &self,
        connection: &mut Connection,
        outgoing: &Outgoing,
        again: bool,
        (now_ms, around): (u64, &mut impl Around),
    ) {
        let Some(packet) = outgoing.packet(again) else { return };
        if matches!(packet, Packet::Publish(_)) {
            let what = What::Publish {
                message: outgoing.message,
                packet_id: outgoing.packet_id.map(Into::into),
                topic: Arc::clone(&outgoing.topic),
                qos: outgoing.qos as u8,
                retain: outgoing.retain,
                empty: outgoing.payload.is_empty(),
                expires: false,
            };
            self.note(connection, now_ms, around, what);
        }
        connection.send(&packet);
    }

    /// Does what its habit is, once in a while.
    fn indulge(&mut self, connection: &mut Connection, now_ms: u64, around: &mut impl Around) {
        self.plan_habit(now_ms);
        match self.plan.habit {
            Habit::Stays => {}
            Habit::TakesOver { .. } => self.connect(now_ms, around),
            Habit::Leaves { .. } => {
                connection.send(&Packet::Disconnect(Disconnect::because(ReasonCode::Success)));
                connection.phase = Phase::Leaving { since_ms: now_ms };
                self.is_gone = true;
            }
            Habit::Dies { .. } => {
                connection.abandon();
                self.is_gone = true;
            }
            Habit::Resubscribes { .. } => self.unsubscribe(connection, now_ms, around),
        }
    }

    fn plan_habit(&mut self, now_ms: u64) {
        self.habit_at_ms = match self.plan.habit {
            Habit::Stays => u64::MAX,
            Habit::TakesOver { every_ms }
            | Habit::Leaves { every_ms, .. }
            | Habit::Dies { every_ms, .. }
            | Habit::Resubscribes { every_ms } => now_ms + self.dice.within(every_ms.0..every_ms.1),
        };
    }
}
