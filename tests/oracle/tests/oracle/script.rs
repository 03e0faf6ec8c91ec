//! Histories in few words.

use std::time::Duration;

use zwerm_oracle::{
    Breach, Ending, Filter, Granted, History, Promise, RetainedRead, Rules, Stage, What, Will, check,
};

/// A history under construction; each event comes ten milliseconds after the one before.
#[derive(Clone, Default)]
pub struct Script {
    pub history: History,
    pub now: Duration,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn event(mut self, client: &str, connection: u32, what: What) -> Self {
        self.now += Duration::from_millis(10);
        self.history.push(self.now, client, connection, what);
        self
    }

    pub fn wait(mut self, seconds: u64) -> Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    pub fn connect(self, client: &str, connection: u32, clean: bool, expiry: u32) -> Self {
        self.event(client, connection, What::Connect { clean, expiry, will: None })
    }

    pub fn connack(self, client: &str, connection: u32, present: bool) -> Self {
        self.event(client, connection, What::ConnAck { present, expiry: None })
    }

    /// Connected, with a session that ends with the connection.
    pub fn transient(self, client: &str, connection: u32) -> Self {
        self.connect(client, connection, true, 0).connack(client, connection, false)
    }

    /// Connected, with a session that lasts.
    pub fn durable(self, client: &str, connection: u32, present: bool) -> Self {
        self.connect(client, connection, false, u32::MAX).connack(client, connection, present)
    }

    pub fn with_will(self, client: &str, connection: u32, (message, delay): (u64, u32), expiry: u32) -> Self {
        let will = Will { message, topic: "w".into(), qos: 1, retain: false, delay };
        self.event(client, connection, What::Connect { clean: false, expiry, will: Some(will) })
    }

    pub fn subscribe(self, client: &str, connection: u32, filter: &str) -> Self {
        let filter =
            Filter { filter: filter.into(), qos: 2, no_local: false, retained: RetainedRead::Always };
        self.event(client, connection, What::Subscribe { packet_id: 1, filters: vec![filter] })
    }

    pub fn subscribed(self, client: &str, connection: u32, filter: &str) -> Self {
        let granted = vec![Granted::QoS(2)];
        self.subscribe(client, connection, filter).event(
            client,
            connection,
            What::SubAck { packet_id: 1, granted },
        )
    }

    pub fn unsubscribe(self, client: &str, connection: u32, filter: &str) -> Self {
        self.event(client, connection, What::Unsubscribe { filters: vec![filter.into()] })
    }

    /// A PUBLISH under the packet identifier that is its number.
    pub fn publish(self, client: &str, connection: u32, message: u64, topic: &str, qos: u8) -> Self {
        self.publish_kept(client, connection, message, (topic, qos, false, false))
    }

    pub fn publish_kept(
        self,
        client: &str,
        connection: u32,
        message: u64,
        (topic, qos, retain, empty): (&str, u8, bool, bool),
    ) -> Self {
        let what = What::Publish {
            message,
            packet_id: (qos > 0).then_some(message as u16),
            topic: topic.into(),
            qos,
            retain,
            empty,
            expires: false,
        };
        self.event(client, connection, what)
    }

    pub fn acked(self, client: &str, connection: u32, packet_id: u16, stage: Stage) -> Self {
        self.event(client, connection, What::Acknowledged { packet_id, stage, success: true })
    }

    /// Published with QoS 1 and acknowledged.
    pub fn sent(self, client: &str, message: u64, topic: &str) -> Self {
        self.publish(client, 1, message, topic, 1).acked(client, 1, message as u16, Stage::PubAck)
    }

    /// Published with QoS 2 and completed.
    pub fn sent_once(self, client: &str, message: u64, topic: &str) -> Self {
        let id = message as u16;
        self.publish(client, 1, message, topic, 2).acked(client, 1, id, Stage::PubRec).acked(
            client,
            1,
            id,
            Stage::PubComp,
        )
    }

    /// Published with QoS 1 and retain, and acknowledged.
    pub fn kept(self, client: &str, message: u64, topic: &str) -> Self {
        self.publish_kept(client, 1, message, (topic, 1, true, false)).acked(
            client,
            1,
            message as u16,
            Stage::PubAck,
        )
    }

    pub fn got(self, client: &str, connection: u32, message: u64, topic: &str) -> Self {
        self.came(client, connection, message, (topic, 1, false))
    }

    /// Under the packet identifier that is its number.
    pub fn came(
        self,
        client: &str,
        connection: u32,
        message: u64,
        (topic, qos, retain): (&str, u8, bool),
    ) -> Self {
        let packet_id = (qos > 0).then_some(message as u16);
        let topic = topic.into();
        self.event(client, connection, What::Delivered { message, topic, qos, retain, dup: false, packet_id })
    }

    pub fn released(self, client: &str, connection: u32, packet_id: u16) -> Self {
        self.event(client, connection, What::Released { packet_id })
    }

    pub fn lost(self, client: &str, connection: u32) -> Self {
        self.event(client, connection, What::End(Ending::Lost))
    }

    pub fn left(self, client: &str, connection: u32) -> Self {
        self.event(client, connection, What::End(Ending::Disconnected { confirmed: true, expiry: None }))
    }

    pub fn drained(self, client: &str, connection: u32) -> Self {
        self.event(client, connection, What::Drained)
    }

    pub fn verdicts(&self) -> Vec<(Promise, Breach, Option<u64>)> {
        let report = check(&self.history, &Rules::default());
        report.verdicts.iter().map(|verdict| (verdict.promise, verdict.breach, verdict.message)).collect()
    }

    /// The oracle has nothing to say against it.
    pub fn passes(self) {
        let report = check(&self.history, &Rules::default());
        let said: Vec<String> =
            report.verdicts.iter().map(|verdict| verdict.render(&self.history, 9)).collect();
        assert!(said.is_empty(), "{}", said.join("\n"));
    }

    /// The oracle says exactly this.
    pub fn fails(self, promise: Promise, breach: Breach, message: impl Into<Option<u64>>) {
        assert_eq!(self.verdicts(), [(promise, breach, message.into())]);
    }
}
