//! The load: who publishes, who listens, who comes and goes, while faults happen.
//!
//! Every client is a task; none knows what is broken, and each does what a sensible program does: it connects
//! again, elsewhere if need be. Start at [`spawn`].

mod publisher;
mod reader;
mod subscriber;
mod testator;
mod twin;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::Client;
use crate::library::{Options, Version};
use crate::network::Side;
use crate::world::World;

use publisher::Publisher;
use reader::Reader;
use subscriber::Subscriber;
use testator::Testator;
use twin::Twin;

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

/// How long a durable session waits for its client, in seconds: longer than any run.
const EXPIRY: u32 = 3600;

/// A beat comes this much slower than other messages; there are two.
const BEAT: u32 = 4;

/// Seconds: the longest delay of a will.
pub(crate) const LONGEST_DELAY: u32 = 3;

/// What a client's session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Transient,
    Durable,
}

/// How the ids of the clients begin that are measured.
const PROBE: &str = "probe-";
const DURABLE: &str = "durable-";
const FOLLOWER: &str = "follower-";

fn options(id: &str, version: Version, session: Session) -> Options {
    let clean = session == Session::Transient;
    let expiry = match (session, version) {
        (Session::Transient, _) => 0,
        (Session::Durable, Version::V5) => EXPIRY,
        (Session::Durable, Version::V311) => u32::MAX,
    };
    Options { id: id.into(), version, clean, expiry, will: None }
}

/// Whether a client is one of the durable subscribers whose takeovers are measured.
pub(crate) fn is_durable_subscriber(id: &str) -> bool {
    id.starts_with(DURABLE) || id.starts_with(FOLLOWER)
}

/// The node a probe publishes to all the time, by its client id.
pub(crate) fn probed_node(id: &str) -> Option<Side> {
    id.strip_prefix(PROBE)?.parse().ok()
}

/// How much load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// From one message of a publisher to its next.
    pub(crate) pace: Duration,
    /// Durable subscribers that are there to be moved, with few messages each.
    pub(crate) followers: u16,
}

/// Starts all clients.
pub(crate) fn spawn(world: &Rc<World>, nodes: Side, size: Size) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    publishers(&mut tasks, world, nodes, size.pace);
    subscribers(&mut tasks, world, size.followers);
    others(&mut tasks, world);
    tasks
}

fn publishers(tasks: &mut JoinSet<()>, world: &Rc<World>, nodes: Side, pace: Duration) {
    use Session::{Durable, Transient};
    use Version::{V5, V311};
    let mut publish = |id: &str, version, session, (topic, qos): (&str, u8), retain, every| {
        let client = Client::new(world, options(id, version, session));
        let (world, topic, pinned) = (Rc::clone(world), Arc::from(topic), probed_node(id));
        let publisher = Publisher { world, client, topic, qos, retain, pinned, every };
        tasks.spawn_local(publisher.run());
    };
    for node in 1..=nodes {
        publish(&format!("{PROBE}{node}"), V5, Transient, (&format!("chaos/probe/{node}"), 1), false, pace);
    }
    publish("publisher-a", V5, Durable, ("chaos/exact/a", 2), false, pace);
    publish("publisher-b", V5, Durable, ("chaos/exact/b", 2), false, pace);
    publish("publisher-c", V311, Durable, ("chaos/exact/c", 2), false, pace);
    publish("publisher-d", V311, Durable, ("chaos/least/d", 1), false, pace);
    publish("publisher-e", V311, Transient, ("chaos/exact/e", 2), false, pace);
    publish("publisher-f", V5, Transient, ("chaos/least/f", 1), false, pace);
    publish("publisher-s", V5, Durable, ("chaos/shared/s", 1), false, pace);
    publish("publisher-t", V311, Transient, ("chaos/shared/t", 2), false, pace);
    publish("publisher-r", V5, Transient, ("chaos/retained/r", 1), true, pace);
    publish("publisher-q", V5, Durable, ("chaos/retained/q", 1), true, pace);
    for (name, version) in [("a", V5), ("b", V311)] {
        let topic = format!("chaos/beat/{name}");
        publish(&format!("beat-{name}"), version, Transient, (&topic, 1), false, pace * BEAT);
    }
}

fn subscribers(tasks: &mut JoinSet<()>, world: &Rc<World>, followers: u16) {
    use Session::{Durable, Transient};
    use Version::{V5, V311};
    use subscriber::Habit::{Comes, Moves, Stays};
    let mut subscribe = |id: &str, version, session, filters: &[(&str, u8)], habit| {
        let client = Client::new(world, options(id, version, session));
        let filters = filters.iter().map(|(filter, qos)| (Arc::from(*filter), *qos)).collect();
        tasks.spawn_local(Subscriber::new(Rc::clone(world), client, filters, habit).run());
    };
    for (name, version) in [("a", V5), ("b", V5), ("c", V311), ("d", V5), ("e", V5), ("f", V311)] {
        let filters = [("chaos/exact/+", 2), ("chaos/probe/+", 1)];
        subscribe(&format!("{DURABLE}{name}"), version, Durable, &filters, Stays);
    }
    for number in 1..=followers {
        let version = if number % 2 == 0 { V311 } else { V5 };
        let qos = if number % 3 == 0 { 2 } else { 1 };
        subscribe(&format!("{FOLLOWER}{number}"), version, Durable, &[("chaos/beat/+", qos)], Moves);
    }
    subscribe("nomad-a", V5, Durable, &[("chaos/exact/+", 2), ("chaos/least/#", 1)], Comes);
    subscribe("nomad-b", V311, Durable, &[("chaos/exact/a", 2), ("chaos/least/+", 2)], Comes);
    subscribe("transient-a", V5, Transient, &[("chaos/exact/+", 2), ("chaos/least/+", 1)], Stays);
    subscribe("transient-b", V311, Transient, &[("chaos/exact/#", 2)], Moves);
    subscribe("transient-c", V5, Transient, &[("chaos/#", 1)], Stays);
    subscribe("watcher-a", V5, Durable, &[("chaos/will/#", 2)], Stays);
    subscribe("watcher-b", V311, Durable, &[("chaos/will/#", 1)], Moves);
    let pool = [("$share/pool/chaos/shared/#", 2)];
    subscribe("member-a", V5, Durable, &pool, Stays);
    subscribe("member-b", V5, Durable, &pool, Comes);
    subscribe("member-c", V5, Transient, &pool, Stays);
    subscribe("member-d", V311, Transient, &pool, Stays);
}

/// Those that come and go for a purpose.
fn others(tasks: &mut JoinSet<()>, world: &Rc<World>) {
    use Session::{Durable, Transient};
    use Version::{V5, V311};
    let client = |id: &str, version, session| Client::new(world, options(id, version, session));
    let testators = [("a", V5, Transient, 0), ("b", V311, Transient, 0), ("c", V5, Transient, 0)];
    for (name, version, session, delay) in testators.into_iter().chain([("d", V5, Durable, LONGEST_DELAY)]) {
        let client = client(&format!("testator-{name}"), version, session);
        tasks.spawn_local(Testator::new(Rc::clone(world), client, delay).run());
    }
    for name in ["a", "b"] {
        let client = client(&format!("twin-{name}"), V5, Durable);
        tasks.spawn_local(Twin::new(Rc::clone(world), client, "chaos/least/#").run());
    }
    for (name, version) in [("a", V5), ("b", V311)] {
        let client = client(&format!("reader-{name}"), version, Transient);
        tasks.spawn_local(Reader::new(Rc::clone(world), client, "chaos/retained/#").run());
    }
}
