//! What must survive: messages that wait for durable sessions whose clients are away, and retained messages.
//!
//! Start at [`Backlog::lay`].

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use zwerm_tests::{Client, Options, QoS, Version};

/// Durable sessions.
const SESSIONS: usize = 40;
/// Messages for each with QoS 1, and as many with QoS 2.
const EACH: usize = 15;
/// Retained messages.
const RETAINED: usize = 120;

/// What was acknowledged.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Part of all names: two rounds have nothing in common.
    round: String,
}

impl Backlog {
    /// Messages that wait, and retained ones.
    pub(super) const SIZE: (usize, usize) = (SESSIONS * EACH * 2, RETAINED);

    fn client(&self, session: usize) -> String {
        format!("{}-{session}", self.round)
    }

    fn topic(&self, session: usize) -> String {
        format!("queue/{}/{session}", self.round)
    }

    fn options(&self, session: usize, at: SocketAddr) -> Options {
        let version = if session.is_multiple_of(2) { Version::V5 } else { Version::V311 };
        Options::new(at, &self.client(session), version).durable()
    }

    /// Subscribes with durable sessions, whose clients leave, and publishes until everything is acknowledged.
    ///
    /// # Errors
    /// When a broker does not do its part.
    pub(super) async fn lay(round: &str, brokers: &[SocketAddr]) -> Result<Self> {
        let backlog = Self { round: round.to_owned() };
        let mut ends = brokers.iter().copied().cycle();
        let mut next = move || ends.next().context("no brokers");
        for session in 0..SESSIONS {
            let mut client = Client::connect(backlog.options(session, next()?)).await?;
            client.subscribe(&backlog.topic(session), QoS::Two).await?;
            client.close().await?;
        }
        let mut publisher =
            Client::connect(Options::new(next()?, &format!("{round}-publisher"), Version::V5)).await?;
        for session in 0..SESSIONS {
            for (qos, from) in [(QoS::One, 0), (QoS::Two, EACH)] {
                let payloads = (from..from + EACH).map(|number| number.to_string().into_bytes());
                publisher.publish_all(&backlog.topic(session), payloads, qos).await?;
            }
        }
        for number in 0..RETAINED {
            let topic = format!("state/{round}/{number}");
            publisher.publish(&topic, number.to_string().as_bytes(), QoS::One, true).await?;
        }
        publisher.close().await?;
        Ok(backlog)
    }

    /// Connects all clients again, spread over brokers, and holds what they get against what was acknowledged.
    ///
    /// # Errors
    /// When anything is missing, comes twice or in another order.
    pub(super) async fn take(&self, brokers: &[SocketAddr]) -> Result<()> {
        let mut ends = brokers.iter().copied().cycle().skip(1);
        let mut next = move || ends.next().context("no brokers");
        let mut publisher =
            Client::connect(Options::new(next()?, &format!("{}-fence", self.round), Version::V5)).await?;
        let wanted: Vec<String> = (0..2 * EACH).map(|number| number.to_string()).collect();
        for session in 0..SESSIONS {
            let name = self.client(session);
            let mut client = Client::connect(self.options(session, next()?)).await?;
            ensure!(client.session_present(), "the session of {name} is gone");
            publisher.publish(&self.topic(session), b"fence", QoS::One, false).await?;
            let got: Vec<String> =
                client.until_fence("fence").await?.iter().map(|message| message.text()).collect();
            ensure!(got == wanted, "{name} got {got:?}");
            client.close().await?;
        }
        let mut reader =
            Client::connect(Options::new(next()?, &format!("{}-reader", self.round), Version::V5)).await?;
        reader.subscribe(&format!("state/{}/+", self.round), QoS::One).await?;
        let mut values = BTreeSet::new();
        for _ in 0..RETAINED {
            let message = reader.next().await?;
            let number = message.topic.rsplit('/').next().unwrap_or_default().to_owned();
            ensure!(message.retain && message.text() == number, "{} has {}", message.topic, message.text());
            ensure!(values.insert(number), "{} came twice", message.topic);
        }
        reader.close().await?;
        publisher.close().await
    }
}
