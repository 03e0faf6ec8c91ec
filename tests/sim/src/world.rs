//! One run: nodes, clients and what goes wrong, millisecond by millisecond, and what the oracle says of it.
//!
//! Everything happens on one thread: the network moves, each node runs for a millisecond, each client is
//! asked. At the end everything is mended, all clients come to rest, and the replicas must be equal.
//! Start at [`run`].

use std::collections::BTreeMap;
use std::time::Duration;

use zwerm_oracle::{Report, Rules, check};

use crate::client::{Around, Client};
use crate::dice::Dice;
use crate::entropy;
use crate::nemesis::{Nemesis, Reach};
use crate::net::{End, Net, Place};
use crate::node::{Group, Node};
use crate::record::Record;
use crate::workload::{self, Sessions};

/// How long a cluster may take to form.
const FORMING_MS: u64 = 20_000;
/// How long clients and nodes do their work while things go wrong.
const RUN_MS: std::ops::Range<u64> = 8_000..20_000;
/// How long everything may take to come to rest afterwards.
const SETTLING_MS: u64 = 60_000;
/// How long it must rest: longer than the longest will delay and what a will may take.
const REST_MS: u64 = 13_000;
/// Longest time that a will may take when nothing is broken.
const WILL_PATIENCE_MS: u64 = 9_000;
/// Lines shown of replicas that differ.
const DIFFERENCES: usize = 40;
/// Nothing is called calm before nothing was broken for so long.
const CALM_MS: u64 = 6_000;
/// How long what was on its way to a client may still come.
const UNDER_WAY_MS: u64 = 200;

/// What is wanted of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) seed: u64,
    pub(crate) is_shown: bool,
    pub(crate) sessions: Sessions,
}

/// What became of a run.
pub(crate) struct Outcome {
    /// Equal for equal seeds.
    pub(crate) hash: u64,
    pub(crate) simulated: Duration,
    pub(crate) record: Record,
    pub(crate) report: Report,
    /// What is wrong besides the verdicts: it did not form, rest, or converge.
    pub(crate) troubles: Vec<String>,
    pub(crate) theme: String,
}

struct World {
    dice: Dice,
    net: Net,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    places: Vec<Place>,
    nemesis: Nemesis,
    record: Record,
    now_ms: u64,
    messages: u64,
    is_ending: bool,
}

/// What a client reaches of the world.
struct Surroundings<'a> {
    dice: &'a mut Dice,
    net: &'a Net,
    nodes: &'a [Node],
    record: &'a mut Record,
    messages: &'a mut u64,
    is_calm: bool,
    is_ending: bool,
}

impl Around for Surroundings<'_> {
    fn dial(&mut self, from: Place) -> Option<End> {
        let place = self.dice.within(0..u64::try_from(self.nodes.len()).unwrap_or_default());
        let node = self.nodes.get(usize::try_from(place).unwrap_or_default())?;
        let (near, far) = self.net.connect(from, node.place)?;
        node.accept(far).then_some(near)
    }

    fn record(&mut self) -> &mut Record {
        self.record
    }

    fn message(&mut self) -> u64 {
        *self.messages += 1;
        *self.messages
    }

    fn is_calm(&self) -> bool {
        self.is_calm
    }

    fn is_ending(&self) -> bool {
        self.is_ending
    }
}

/// Runs a seed, on a thread of its own: what a thread keeps of random numbers begins with it.
///
/// # Errors
/// The simulation itself cannot go on.
pub(crate) fn run(wanted: Wanted) -> anyhow::Result<Outcome> {
    let running = std::thread::Builder::new().name(format!("seed {}", wanted.seed)).spawn(move || {
        entropy::seed(wanted.seed);
        simulate(wanted)
    })?;
    running.join().map_err(|_| anyhow::anyhow!("seed {} panicked", wanted.seed))?
}

fn simulate(wanted: Wanted) -> anyhow::Result<Outcome> {
    let mut world = World::new(wanted)?;
    let mut troubles = Vec::new();
    if world.until(FORMING_MS, World::is_ready)? {
        world.work()?;
        troubles.extend(world.settle()?);
    } else {
        let reasons: Vec<_> = world.nodes.iter().map(|node| (node.place, node.not_ready())).collect();
        troubles.push(format!("the cluster did not form: {reasons:?}"));
    }
    Ok(world.judge(troubles))
}

impl World {
    fn new(wanted: Wanted) -> anyhow::Result<Self> {
        let mut dice = Dice::new(wanted.seed);
        let net = Net::new(dice.fork());
        let size = if dice.percent(70) { 3 } else { 5 };
        let slowest_ms = dice.within(1..8);
        net.set_delay(0, slowest_ms);
        let mut nodes: Vec<Node> = (1..=size).map(|place| Node::new(place, size, &net)).collect();
        for node in &mut nodes {
            node.start(0, dice.fork())?;
        }
        let clients = workload::clients(dice.fork(), wanted.sessions);
        let places = clients.iter().map(Client::place).collect();
        let nemesis = Nemesis::new(dice.fork());
        let record = Record::new(wanted.is_shown);
        Ok(Self {
            dice,
            net,
            nodes,
            clients,
            places,
            nemesis,
            record,
            now_ms: 0,
            messages: 0,
            is_ending: false,
        })
    }

    /// Lets a millisecond pass.
    fn step(&mut self, with_clients: bool) -> anyhow::Result<()> {
        self.now_ms += 1;
        let now_ms = self.now_ms;
        self.net.advance(now_ms);
        let mut reach =
            Reach { nodes: &mut self.nodes, clients: &self.places, net: &self.net, record: &mut self.record };
        self.nemesis.tick(now_ms, &mut reach)?;
        for node in &self.nodes {
            if !self.nemesis.is_stopped(node.place) {
                let slept = self.nemesis.was_continued(node.place);
                node.run_to(now_ms, slept);
            }
        }
        if with_clients {
            let mut around = Surroundings {
                dice: &mut self.dice,
                net: &self.net,
                nodes: &self.nodes,
                record: &mut self.record,
                messages: &mut self.messages,
                is_calm: now_ms > self.nemesis.broken_until_ms + CALM_MS,
                is_ending: self.is_ending,
            };
            self.clients.iter_mut().for_each(|client| client.tick(now_ms, &mut around));
        }
        Ok(())
    }

    /// Lets time pass until a condition holds. False: it did not in time.
    fn until(&mut self, most_ms: u64, holds: fn(&Self) -> bool) -> anyhow::Result<bool> {
        let with_clients = self.messages > 0 || self.is_ending;
        for round in 0..most_ms {
            self.step(with_clients)?;
            // It costs more than a millisecond of nothing.
            if round % 50 == 0 && holds(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_ready(&self) -> bool {
        self.nodes.iter().all(|node| node.not_ready().is_empty())
    }

    fn work(&mut self) -> anyhow::Result<()> {
        let calm_ms = self.dice.within(500..2_500);
        self.nemesis.begin(self.now_ms + calm_ms);
        for _ in 0..self.dice.within(RUN_MS) {
            self.step(true)?;
        }
        Ok(())
    }

    /// Mends everything and waits until all is quiet and equal; says what does not become so.
    fn settle(&mut self) -> anyhow::Result<Option<String>> {
        self.is_ending = true;
        let mut reach =
            Reach { nodes: &mut self.nodes, clients: &self.places, net: &self.net, record: &mut self.record };
        self.nemesis.end(self.now_ms, &mut reach)?;
        self.record.fault(self.now_ms, "all is mended; nothing new is begun");
        let settled = |world: &Self| world.is_ready() && world.clients.iter().all(Client::is_settled);
        let began_ms = self.now_ms;
        while self.now_ms < began_ms + SETTLING_MS {
            if !self.until(SETTLING_MS, settled)? {
                break;
            }
            let rested_ms = self.now_ms + REST_MS;
            while self.now_ms < rested_ms && settled(self) {
                self.step(true)?;
            }
            if self.now_ms >= rested_ms {
                self.drained();
                let equal = self.until(SETTLING_MS, Self::is_equal)?;
                return Ok((!equal).then(|| self.differences()));
            }
        }
        let waiting = self.clients.iter().filter(|client| !client.is_settled()).map(Client::waits_for);
        let waiting: Vec<String> = waiting.collect();
        let unready: Vec<_> = self.nodes.iter().map(|node| (node.place, node.not_ready())).collect();
        Ok(Some(format!("it did not come to rest: {waiting:#?} {unready:?}")))
    }

    fn drained(&mut self) {
        let now_ms = self.now_ms;
        let mut around = Surroundings {
            dice: &mut self.dice,
            net: &self.net,
            nodes: &self.nodes,
            record: &mut self.record,
            messages: &mut self.messages,
            is_calm: true,
            is_ending: true,
        };
        self.clients.iter().for_each(|client| client.drained(now_ms, &mut around));
    }

    /// By group: which node holds what.
    fn digests(&self) -> BTreeMap<Group, Vec<(u64, &Node)>> {
        let mut groups: BTreeMap<Group, Vec<(u64, &Node)>> = BTreeMap::new();
        for node in &self.nodes {
            for (group, digest) in node.digests() {
                groups.entry(group).or_default().push((digest, node));
            }
        }
        groups
    }

    fn is_equal(&self) -> bool {
        self.differing().is_empty()
    }

    /// Groups whose replicas are not equal, with two nodes that differ.
    fn differing(&self) -> Vec<(Group, [&Node; 2])> {
        let differing = self.digests().into_iter().filter_map(|(group, digests)| {
            let (first, one) = digests.first().copied()?;
            let (_, other) = digests.iter().find(|(digest, _)| *digest != first)?;
            Some((group, [one, *other]))
        });
        differing.collect()
    }

    /// How they differ, line by line, for people.
    fn differences(&self) -> String {
        let mut said = "the replicas differ:\n".to_owned();
        for (group, nodes) in self.differing() {
            let [one, other] = nodes.map(|node| node.described(group));
            let pairs = one.lines().zip(other.lines()).enumerate();
            let unequal = pairs.filter(|(_, (one, other))| one != other).take(DIFFERENCES);
            said.push_str(&format!("{group:?} of nodes {:?}\n", nodes.map(|node| node.place)));
            for (line, (one, other)) in unequal {
                said.push_str(&format!("  line {line}: {} | {}\n", one.trim(), other.trim()));
            }
        }
        said
    }

    fn judge(self, troubles: Vec<String>) -> Outcome {
        let rules = Rules {
            under_way: Duration::from_millis(UNDER_WAY_MS),
            will_patience: Duration::from_millis(WILL_PATIENCE_MS),
            clock_slack: Duration::from_millis(500 + 2 * self.nemesis.jumped_ms),
        };
        let report = check(&self.record.history, &rules);
        Outcome {
            hash: self.record.hash(),
            simulated: Duration::from_millis(self.now_ms),
            report,
            troubles,
            theme: format!("{} nodes, {}", self.nodes.len(), self.nemesis.theme()),
            record: self.record,
        }
    }
}
