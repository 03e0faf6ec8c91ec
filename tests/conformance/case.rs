//! A case, what it runs in, and how all of them are run.
//!
//! Knows no statements but as ids. A case is an async function that gets an [`Env`]; its room lists it with
//! [`case!`](crate::case) and the ids it holds the broker to. Start at [`run`].

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Client, Transcript};
use crate::packet::{Connect, Version};

/// Cases that run at once.
const AT_ONCE: usize = 12;
/// Longest time of a case: far above what any takes, for machines are busy.
const LONGEST: Duration = Duration::from_secs(100);

/// A case that runs.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A case as its room lists it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The versions it is run in, and what it holds the broker to in each.
    pub(crate) statements: &'static [(Version, &'static [&'static str])],
    pub(crate) run: fn(Env) -> Running,
}

/// `case!(function, V311 ["MQTT-..."], V5 ["MQTT-..."])`: run once in each version that is named.
#[macro_export]
macro_rules! case {
    ($function:path, $($version:ident [$($id:literal),* $(,)?]),+ $(,)?) => {
        $crate::case::Case {
            name: stringify!($function),
            statements: &[$(($crate::packet::Version::$version, &[$($id),*])),+],
            run: |env| Box::pin($function(env)),
        }
    };
}

/// Where the clients of one case connect, and names that no other case uses.
#[derive(Clone)]
pub(crate) struct Env {
    nodes: Arc<[SocketAddr]>,
    opened: Arc<AtomicUsize>,
    pub(crate) version: Version,
    /// Letters and digits, at most 8.
    pub(crate) prefix: String,
    transcript: Transcript,
}

impl Env {
    /// A name with the prefix: topic, filter.
    pub(crate) fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    /// Is this 5.0?
    pub(crate) fn is_v5(&self) -> bool {
        self.version == Version::V5
    }

    /// A client identifier with the prefix.
    pub(crate) fn id(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A CONNECT of a clean session.
    pub(crate) fn hello(&self, name: &str) -> Connect {
        Connect::new(self.version, self.id(name))
    }

    /// A CONNECT of a durable session: continued if it is there.
    pub(crate) fn durable(&self, name: &str) -> Connect {
        self.hello(name).durable()
    }

    /// A connection on which nothing was sent, to the next node in turn.
    pub(crate) async fn open(&self) -> Result<Client> {
        let (number, node) = self.turn();
        let name = format!("client {number} (node {})", node + 1);
        Client::open(self.nodes[node], self.version, name, self.transcript.clone()).await
    }

    /// Where the next client connects that is not a [`Client`].
    pub(crate) fn next_address(&self) -> SocketAddr {
        self.nodes[self.turn().1]
    }

    /// The number of the next connection, and its node.
    fn turn(&self) -> (usize, usize) {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        (number, number % self.nodes.len())
    }

    /// The same, and CONNECT is granted.
    pub(crate) async fn connect(&self, connect: &Connect) -> Result<Client> {
        let mut client = self.open().await?;
        client.connect(connect).await?;
        Ok(client)
    }

    /// A client with a clean session.
    pub(crate) async fn client(&self, name: &str) -> Result<Client> {
        self.connect(&self.hello(name)).await
    }

    /// Sends bytes first thing on a connection of its own.
    pub(crate) async fn say(&self, bytes: impl AsRef<[u8]>) -> Result<Client> {
        let mut client = self.open().await?;
        client.try_send(bytes).await;
        Ok(client)
    }

    /// The same statements in another version.
    pub(crate) fn in_version(&self, version: Version) -> Self {
        Self { version, ..self.clone() }
    }
}

/// Runs cases against nodes, several at once; says how many there were.
///
/// `ZWERM_CASE` runs only those whose name contains it.
pub(crate) async fn run(
    what: &str,
    nodes: Vec<SocketAddr>,
    cases: impl Iterator<Item = &'static Case>,
) -> Result<usize> {
    let wanted = std::env::var("ZWERM_CASE").unwrap_or_default();
    let nodes: Arc<[SocketAddr]> = nodes.into();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    let started = Instant::now();
    for (number, case) in cases.enumerate().filter(|(_, case)| case.name.contains(&wanted)) {
        for &(version, statements) in case.statements {
            let env = Env {
                nodes: Arc::clone(&nodes),
                opened: Arc::default(),
                version,
                prefix: format!("k{number}v{}", version as u8),
                transcript: Transcript::default(),
            };
            let places = Arc::clone(&places);
            running.spawn(async move {
                let _place = places.acquire_owned().await;
                let transcript = env.transcript.clone();
                let started = Instant::now();
                let outcome = timeout(LONGEST, (case.run)(env)).await.context("it takes too long");
                let outcome = outcome.and_then(|outcome| outcome);
                (case.name, version, statements, outcome, transcript, started.elapsed())
            });
        }
    }
    let (mut passed, mut failed, mut slowest) = (0, 0, (Duration::ZERO, ""));
    while let Some(finished) = running.join_next().await {
        let (name, version, statements, outcome, transcript, took) = finished?;
        slowest = slowest.max((took, name));
        match outcome {
            Ok(()) => passed += 1,
            Err(error) => {
                failed += 1;
                println!(
                    "FAILED {name} in {} ({})\n  {error:#}\n    {}\n",
                    version.number(),
                    statements.join(", "),
                    transcript.tail()
                );
            }
        }
    }
    println!(
        "{what}: {passed} passed, {failed} failed in {:.1} s (the slowest: {} with {:.1} s)",
        started.elapsed().as_secs_f64(),
        slowest.1,
        slowest.0.as_secs_f64()
    );
    if failed > 0 {
        bail!("{failed} cases failed against {what}");
    }
    Ok(passed)
}
