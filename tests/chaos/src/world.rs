//! What all clients of a run share: the clock, the history, the numbers of messages, and how far the run is.
//!
//! One thread runs all clients, so what is written here is written in the order in which it happened.
//! Start at [`World::record`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;
use zwerm_oracle::{History, What};

use crate::network::Side;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Publishing, while faults come and go.
    Load,
    /// All is healed: nobody publishes anything new, everybody finishes.
    Settle,
    /// The history is closed; leave.
    Over,
}

/// Which node a connection went to.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) client: Arc<str>,
    pub(crate) connection: u32,
    pub(crate) node: Side,
}

/// The shared state of a run.
#[derive(Debug)]
pub(crate) struct World {
    started: Instant,
    /// Where each node's clients connect, whether it is there or not.
    nodes: Vec<SocketAddr>,
    /// The nodes that clients choose from.
    there: RefCell<BTreeSet<Side>>,
    history: RefCell<History>,
    placed: RefCell<Vec<Placed>>,
    /// Connections that were accepted and have not ended.
    live: RefCell<BTreeMap<Arc<str>, u32>>,
    /// How often connections ended in which way.
    endings: RefCell<BTreeMap<String, u64>>,
    last_number: Cell<u64>,
    last_publish_or_delivery: Cell<Duration>,
    /// Clients that have not finished what they must before the history can be closed.
    unfinished: Cell<usize>,
    /// While something is broken.
    disturbed: Cell<bool>,
    /// How often something was broken.
    disturbances: Cell<u64>,
    random: RefCell<StdRng>,
    phase: watch::Sender<Phase>,
}

impl World {
    /// A run that begins now, with brokers at these addresses, of which the first `there` are there.
    pub(crate) fn new(nodes: Vec<SocketAddr>, there: Side, seed: u64) -> Self {
        Self {
            started: Instant::now(),
            nodes,
            there: RefCell::new((1..=there).collect()),
            history: RefCell::default(),
            placed: RefCell::default(),
            live: RefCell::default(),
            endings: RefCell::default(),
            last_number: Cell::new(0),
            last_publish_or_delivery: Cell::default(),
            unfinished: Cell::default(),
            disturbed: Cell::default(),
            disturbances: Cell::default(),
            random: RefCell::new(StdRng::seed_from_u64(seed)),
            phase: watch::Sender::new(Phase::Load),
        }
    }

    /// Since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes down what a client sent or received.
    pub(crate) fn record(&self, client: &Arc<str>, connection: u32, what: What) {
        let now = self.now();
        match &what {
            What::ConnAck { .. } => drop(self.live.borrow_mut().insert(Arc::clone(client), connection)),
            What::End(_) => {
                let mut live = self.live.borrow_mut();
                if live.get(client) == Some(&connection) {
                    live.remove(client);
                }
            }
            What::Publish { .. } | What::Delivered { .. } => self.last_publish_or_delivery.set(now),
            _ => {}
        }
        self.history.borrow_mut().push(now, Arc::clone(client), connection, what);
    }

    /// Writes down to which node a connection goes.
    pub(crate) fn place(&self, client: &Arc<str>, connection: u32, node: Side) {
        self.placed.borrow_mut().push(Placed { client: Arc::clone(client), connection, node });
    }

    /// Counts a connection that ended in this way.
    pub(crate) fn ended(&self, how: String) {
        *self.endings.borrow_mut().entry(how).or_default() += 1;
    }

    /// Writes down a fault, and that something is broken, or that all is whole again.
    pub(crate) fn fault(&self, says: &str, broken: bool) {
        if broken {
            self.disturbances.set(self.disturbances.get() + 1);
        }
        self.disturbed.set(broken);
        self.history.borrow_mut().push(self.now(), "nemesis", 0, What::Fault(says.into()));
    }

    /// Equal to an earlier answer and not `None`: nothing was broken in between.
    pub(crate) fn calm(&self) -> Option<u64> {
        (!self.disturbed.get()).then_some(self.disturbances.get())
    }

    /// A number that no message has yet.
    pub(crate) fn number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }

    /// A number of a range.
    pub(crate) fn random(&self, from: u64, to: u64) -> u64 {
        self.random.borrow_mut().random_range(from..=to)
    }

    /// Clients choose from these nodes, too.
    pub(crate) fn there(&self, nodes: impl Iterator<Item = Side>) {
        self.there.borrow_mut().extend(nodes);
    }

    /// No client chooses one of these nodes any more.
    pub(crate) fn gone(&self, nodes: impl Iterator<Item = Side>) {
        let mut there = self.there.borrow_mut();
        for node in nodes {
            there.remove(&node);
        }
    }

    /// Any node.
    pub(crate) fn any_node(&self) -> Side {
        self.other_node(0)
    }

    /// Any node but this one, if there is another.
    pub(crate) fn other_node(&self, than: Side) -> Side {
        let there = self.there.borrow();
        let others: Vec<Side> = there.iter().copied().filter(|node| *node != than).collect();
        let at = self.random(1, others.len().max(1) as u64) - 1;
        usize::try_from(at).ok().and_then(|at| others.get(at).copied()).unwrap_or(than.max(1))
    }

    /// Where clients of a node, from 1, connect.
    ///
    /// # Errors
    /// When there is no such node.
    pub(crate) fn address(&self, node: Side) -> Result<SocketAddr> {
        self.nodes.get(usize::from(node).wrapping_sub(1)).copied().context("no such node")
    }

    /// One client more (or less) has something to finish before the history can be closed.
    pub(crate) fn unfinished(&self, more: bool) {
        let now = self.unfinished.get();
        self.unfinished.set(if more { now + 1 } else { now.saturating_sub(1) });
    }

    /// Whether all clients have finished, and for how long nobody has published or received anything.
    pub(crate) fn rest(&self) -> (bool, Duration) {
        (self.unfinished.get() == 0, self.now().saturating_sub(self.last_publish_or_delivery.get()))
    }

    /// How far the run is, to wait for changes.
    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// How far the run is.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Begins the next phase.
    pub(crate) fn begin(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Closes the history: every connection that is up has what it is due.
    pub(crate) fn drained(&self) {
        let live = self.live.borrow().clone();
        for (client, connection) in live {
            self.record(&client, connection, What::Drained);
        }
    }

    /// The history and where the connections went.
    pub(crate) fn take_history(&self) -> (History, Vec<Placed>) {
        (self.history.take(), self.placed.take())
    }

    /// How connections ended, and how often so.
    pub(crate) fn endings(&self) -> BTreeMap<String, u64> {
        self.endings.borrow().clone()
    }
}
