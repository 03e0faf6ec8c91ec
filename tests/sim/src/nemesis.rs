//! What goes wrong, and when it is mended.
//!
//! A seed has a theme, some of all kinds of fault, so that runs differ in more than their order. At most a
//! minority of the nodes is impaired at a time, but for a power cut of all at once. Knows no clients but that
//! their links can be cut. Start at [`Nemesis::tick`].

use std::collections::BTreeSet;

use crate::dice::Dice;
use crate::net::{Net, Place};
use crate::node::Node;
use crate::record::Record;

/// Between two faults.
const PAUSE_MS: std::ops::Range<u64> = 200..3_000;
/// How long a fault lasts: mostly short, sometimes longer than a lease and an election.
const SHORT_MS: std::ops::Range<u64> = 50..1_200;
const LONG_MS: std::ops::Range<u64> = 1_000..7_000;
/// How far clocks jump.
const JUMP_MS: u64 = 5_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Crash,
    CrashAll,
    Isolate,
    Deafen,
    Mute,
    CutPair,
    StallOneWay,
    Reset,
    Slow,
    Stop,
    Jump,
    CutClient,
}

const KINDS: [Kind; 12] = [
    Kind::Crash,
    Kind::CrashAll,
    Kind::Isolate,
    Kind::Deafen,
    Kind::Mute,
    Kind::CutPair,
    Kind::StallOneWay,
    Kind::Reset,
    Kind::Slow,
    Kind::Stop,
    Kind::Jump,
    Kind::CutClient,
];

/// What mends a fault.
#[derive(Debug, Clone, Copy)]
enum Remedy {
    Start(Place),
    Join(Place),
    Heal(Place, Place),
    Hasten(Place, Place),
    Continue(Place),
}

/// Breaks things.
pub(crate) struct Nemesis {
    dice: Dice,
    theme: Vec<Kind>,
    next_ms: u64,
    remedies: Vec<(u64, Remedy)>,
    /// Nodes that are cut off, stopped or dead.
    impaired: BTreeSet<Place>,
    stopped: BTreeSet<Place>,
    /// Stopped nodes that have just been continued.
    continued: BTreeSet<Place>,
    /// By how much clocks were moved in all, in milliseconds.
    pub(crate) jumped_ms: u64,
    /// Until when something was broken.
    pub(crate) broken_until_ms: u64,
}

/// What it can reach.
pub(crate) struct Reach<'a> {
    pub(crate) nodes: &'a mut [Node],
    pub(crate) clients: &'a [Place],
    pub(crate) net: &'a Net,
    pub(crate) record: &'a mut Record,
}

impl Nemesis {
    /// It does nothing until it is told to [`begin`](Self::begin).
    pub(crate) fn new(mut dice: Dice) -> Self {
        let share = dice.within(20..70);
        let theme = KINDS.into_iter().filter(|kind| {
            let share = if *kind == Kind::CrashAll { share / 4 } else { share };
            dice.percent(share)
        });
        let theme: Vec<Kind> = theme.collect();
        Self {
            dice,
            theme,
            next_ms: u64::MAX,
            remedies: Vec::new(),
            impaired: BTreeSet::new(),
            stopped: BTreeSet::new(),
            continued: BTreeSet::new(),
            jumped_ms: 0,
            broken_until_ms: 0,
        }
    }

    /// From this time on things go wrong.
    pub(crate) fn begin(&mut self, at_ms: u64) {
        self.next_ms = at_ms;
    }

    /// What it may do, for people.
    pub(crate) fn theme(&self) -> String {
        format!("{:?}", self.theme)
    }

    /// Whether a node is stopped now.
    pub(crate) fn is_stopped(&self, node: Place) -> bool {
        self.stopped.contains(&node)
    }

    /// Whether a node was continued since the last call.
    pub(crate) fn was_continued(&mut self, node: Place) -> bool {
        self.continued.remove(&node)
    }

    /// Mends what is due and breaks what is due.
    pub(crate) fn tick(&mut self, now_ms: u64, reach: &mut Reach<'_>) -> anyhow::Result<()> {
        self.mend(now_ms, reach)?;
        if now_ms >= self.next_ms {
            self.next_ms = now_ms + self.dice.within(PAUSE_MS);
            if let Some(kind) = self.dice.pick(&self.theme) {
                self.break_something(kind, now_ms, reach);
            }
        }
        Ok(())
    }

    /// Mends everything, and breaks no more.
    pub(crate) fn end(&mut self, now_ms: u64, reach: &mut Reach<'_>) -> anyhow::Result<()> {
        self.next_ms = u64::MAX;
        self.remedies.iter_mut().for_each(|(due_ms, _)| *due_ms = now_ms);
        self.mend(now_ms, reach)
    }

    fn mend(&mut self, now_ms: u64, reach: &mut Reach<'_>) -> anyhow::Result<()> {
        if !self.remedies.is_empty() {
            self.broken_until_ms = now_ms;
        }
        let (due, later) = self.remedies.iter().partition(|(due_ms, _)| *due_ms <= now_ms);
        self.remedies = later;
        let due: Vec<(u64, Remedy)> = due;
        for (_, remedy) in due {
            reach.record.fault(now_ms, format!("mended: {remedy:?}"));
            match remedy {
                Remedy::Start(place) => {
                    self.impaired.remove(&place);
                    let dice = self.dice.fork();
                    if let Some(node) = reach.nodes.iter_mut().find(|node| node.place == place) {
                        node.start(now_ms, dice)?;
                    }
                }
                Remedy::Join(place) => {
                    self.impaired.remove(&place);
                    others(reach, place).for_each(|other| reach.net.heal(place, other));
                }
                Remedy::Heal(one, other) => reach.net.heal(one, other),
                Remedy::Hasten(one, other) => {
                    reach.net.delay(one, other, None);
                    reach.net.delay(other, one, None);
                }
                Remedy::Continue(place) => {
                    self.impaired.remove(&place);
                    self.stopped.remove(&place);
                    self.continued.insert(place);
                }
            }
        }
        Ok(())
    }

    fn break_something(&mut self, kind: Kind, now_ms: u64, reach: &mut Reach<'_>) {
        let places: Vec<Place> = reach.nodes.iter().map(|node| node.place).collect();
        let whole: Vec<Place> =
            places.iter().copied().filter(|place| !self.impaired.contains(place)).collect();
        let range = if self.dice.percent(60) { SHORT_MS } else { LONG_MS };
        let until_ms = now_ms + self.dice.within(range);
        let (Some(one), Some(other)) = (self.dice.pick(&whole), self.dice.pick(&whole)) else { return };
        let mut remedy = |remedy| self.remedies.push((until_ms, remedy));
        match kind {
            Kind::Crash | Kind::Isolate | Kind::Deafen | Kind::Mute | Kind::Stop => {
                if self.impaired.len() >= (places.len() - 1) / 2 {
                    return;
                }
                self.impaired.insert(one);
                self.impair(kind, one, until_ms, reach);
            }
            Kind::CrashAll => {
                for place in whole {
                    self.impaired.insert(place);
                    let until_ms = now_ms + self.dice.within(SHORT_MS);
                    self.impair(Kind::Crash, place, until_ms, reach);
                }
            }
            Kind::CutPair if one != other => {
                reach.net.cut(one, other);
                remedy(Remedy::Heal(one, other));
            }
            Kind::StallOneWay if one != other => {
                reach.net.stall(one, other);
                remedy(Remedy::Heal(one, other));
            }
            Kind::Reset if one != other => reach.net.reset(one, other),
            Kind::Slow if one != other => {
                let most_ms = self.dice.within(20..400);
                reach.net.delay(one, other, Some((most_ms / 2, most_ms)));
                reach.net.delay(other, one, Some((most_ms / 2, most_ms)));
                remedy(Remedy::Hasten(one, other));
            }
            Kind::Jump => {
                let by_ms = self.dice.within(1..JUMP_MS);
                self.jumped_ms += by_ms;
                let by_ms = i64::try_from(by_ms).unwrap_or_default();
                let by_ms = if self.dice.percent(50) { by_ms } else { -by_ms };
                let node = reach.nodes.iter().find(|node| node.place == one);
                node.into_iter().for_each(|node| node.jump(by_ms));
                reach.record.fault(now_ms, format!("the clock of {one} jumps by {by_ms} ms"));
                return;
            }
            Kind::CutClient => {
                let Some(client) = self.dice.pick(reach.clients) else { return };
                places.iter().for_each(|node| reach.net.reset(client, *node));
                reach.record.fault(now_ms, format!("the connections of client {client} are cut"));
                return;
            }
            _ => return,
        }
        self.broken_until_ms = now_ms;
        reach.record.fault(now_ms, format!("{kind:?} {one} {other} until {until_ms} ms"));
    }

    fn impair(&mut self, kind: Kind, place: Place, until_ms: u64, reach: &mut Reach<'_>) {
        let remedy = match kind {
            Kind::Crash => {
                if let Some(node) = reach.nodes.iter_mut().find(|node| node.place == place) {
                    node.crash(self.dice.fork());
                }
                Remedy::Start(place)
            }
            Kind::Stop => {
                self.stopped.insert(place);
                Remedy::Continue(place)
            }
            _ => {
                for other in others(reach, place) {
                    if kind != Kind::Mute {
                        reach.net.stall(other, place);
                    }
                    if kind != Kind::Deafen {
                        reach.net.stall(place, other);
                    }
                }
                Remedy::Join(place)
            }
        };
        self.remedies.push((until_ms, remedy));
    }
}

fn others(reach: &Reach<'_>, place: Place) -> impl Iterator<Item = Place> + use<> {
    let others: Vec<Place> =
        reach.nodes.iter().map(|node| node.place).filter(|other| *other != place).collect();
    others.into_iter()
}
