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
const DURABLE: u32 = 3600;

/// What a client's session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Transient,
    Durable,
}

/// Names of the clients that are measured.
pub(crate) const PROBE: &str = "probe-";
pub(crate) const DURABLE_SUBSCRIBER: &str = "durable-";

fn options(id: &str, version: Version, session: Session) -> Options {
    let clean = session == Session::Transient;
    let expiry = match (session, version) {
        (Session::Transient, _) => 0,
        (Session::Durable, Version::V5) => DURABLE,
        (Session::Durable, Version::V311) => u32::MAX,
    };
    Options { id: id.into(), version, clean, expiry, will: None }
}

/// The client ids of the durable subscribers whose takeovers are measured.
pub(crate) fn is_durable_subscriber(id: &str) -> bool {
    id.starts_with(DURABLE_SUBSCRIBER)
}

/// The node a probe publishes to all the time, by its client id.
pub(crate) fn probed_node(id: &str) -> Option<Side> {
    id.strip_prefix(PROBE)?.parse().ok()
}

/// Starts all clients. `every` is the time between two messages of one publisher.
pub(crate) fn spawn(world: &Rc<World>, nodes: Side, every: Duration) -> JoinSet<()> {
    use Session::{Durable, Transient};
    use Version::{V5, V311};
    let mut tasks = JoinSet::new();
    let client = |id: &str, version, session| Client::new(world, options(id, version, session));
    let mut publish = |id: &str, version, session, (topic, qos, retain): (&str, u8, bool), pinned| {
        let client = client(id, version, session);
        let topic = Arc::from(topic);
        let publisher = Publisher { world: Rc::clone(world), client, topic, qos, retain, pinned, every };
        tasks.spawn_local(publisher.run());
    };
    for node in 1..=nodes {
        publish(
            &format!("{PROBE}{node}"),
            V5,
            Transient,
            (&format!("chaos/probe/{node}"), 1, false),
            Some(node),
        );
    }
    publish("publisher-a", V5, Durable, ("chaos/exact/a", 2, false), None);
    publish("publisher-b", V5, Durable, ("chaos/exact/b", 2, false), None);
    publish("publisher-c", V311, Durable, ("chaos/exact/c", 2, false), None);
    publish("publisher-d", V311, Durable, ("chaos/least/d", 1, false), None);
    publish("publisher-e", V311, Transient, ("chaos/exact/e", 2, false), None);
    publish("publisher-f", V5, Transient, ("chaos/least/f", 1, false), None);
    publish("publisher-s", V5, Durable, ("chaos/shared/s", 1, false), None);
    publish("publisher-t", V311, Transient, ("chaos/shared/t", 2, false), None);
    publish("publisher-r", V5, Transient, ("chaos/retained/r", 1, true), None);
    publish("publisher-q", V5, Durable, ("chaos/retained/q", 1, true), None);

    let mut subscribe = |id: &str, version, session, filters: &[(&str, u8)], habit| {
        let client = client(id, version, session);
        let filters = filters.iter().map(|(filter, qos)| (Arc::from(*filter), *qos)).collect();
        tasks.spawn_local(Subscriber::new(Rc::clone(world), client, filters, habit).run());
    };
    use subscriber::Habit::{Comes, Stays};
    for (name, version) in [("a", V5), ("b", V5), ("c", V311), ("d", V5), ("e", V5), ("f", V311)] {
        let filters = [("chaos/exact/+", 2), ("chaos/probe/+", 1)];
        subscribe(&format!("{DURABLE_SUBSCRIBER}{name}"), version, Durable, &filters, Stays);
    }
    subscribe("nomad-a", V5, Durable, &[("chaos/exact/+", 2), ("chaos/least/#", 1)], Comes);
    subscribe("nomad-b", V311, Durable, &[("chaos/exact/a", 2), ("chaos/least/+", 2)], Comes);
    subscribe("transient-a", V5, Transient, &[("chaos/exact/+", 2), ("chaos/least/+", 1)], Stays);
    subscribe("transient-b", V311, Transient, &[("chaos/exact/#", 2)], Stays);
    subscribe("transient-c", V5, Transient, &[("chaos/#", 1)], Stays);
    subscribe("watcher-a", V5, Durable, &[("chaos/will/#", 2)], Stays);
    subscribe("watcher-b", V311, Durable, &[("chaos/will/#", 1)], Stays);
    let pool = [("$share/pool/chaos/shared/#", 2)];
    subscribe("member-a", V5, Durable, &pool, Stays);
    subscribe("member-b", V5, Durable, &pool, Comes);
    subscribe("member-c", V5, Transient, &pool, Stays);
    subscribe("member-d", V311, Transient, &pool, Stays);

    for (name, version, session) in
        [("a", V5, Transient), ("b", V311, Transient), ("c", V5, Transient), ("d", V5, Durable)]
    {
        let delay = if session == Durable { 3 } else { 0 };
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
    tasks
}
