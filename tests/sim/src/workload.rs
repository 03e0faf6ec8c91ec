//! Who the clients of a run are.
//!
//! The filters of one client do not overlap, so each message is due to it once. Start at [`clients`].

use zwerm_oracle::RetainedRead;
use zwerm_wire::{Protocol, QoS};

use crate::client::{Client, Habit, Plan, Publishing, Wish};
use crate::dice::Dice;
use crate::net::Place;

/// Clients are at places from here on; nodes come before.
const FIRST_PLACE: Place = 1_000;
const TOPICS: [&str; 4] = ["t/0", "t/1", "t/2", "t/3"];
const RETAINED_TOPICS: [&str; 3] = ["r/0", "r/1", "r/2"];
const ALL_QOS: [QoS; 4] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce];
const SAFE_QOS: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Which sessions outlive their connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// None.
    Transient,
    /// Some.
    Mixed,
}

struct Cast {
    dice: Dice,
    sessions: Sessions,
    clients: Vec<Client>,
}

/// The clients of a run.
pub(crate) fn clients(dice: Dice, sessions: Sessions) -> Vec<Client> {
    let mut cast = Cast { dice, sessions, clients: Vec::new() };
    let publishers = cast.dice.within(2..5);
    (0..publishers).for_each(|_| cast.publisher());
    let subscribers = cast.dice.within(2..5);
    (0..subscribers).for_each(|_| cast.subscriber());
    if cast.dice.percent(60) {
        cast.group();
    }
    if cast.dice.percent(60) {
        cast.retained();
    }
    if cast.dice.percent(60) {
        cast.mortals();
    }
    if cast.dice.percent(60) {
        cast.rivals();
    }
    cast.clients
}

impl Cast {
    fn plan(&mut self) -> Plan {
        let protocol = if self.dice.percent(50) { Protocol::V5 } else { Protocol::V311 };
        let is_durable = self.sessions == Sessions::Mixed && self.dice.percent(65);
        let expiry_s = match (is_durable, protocol) {
            (false, _) => 0,
            (true, Protocol::V5) => 3_600,
            (true, _) => u32::MAX,
        };
        Plan {
            protocol,
            clean: !is_durable && (protocol != Protocol::V5 || self.dice.percent(50)),
            expiry_s,
            begins_within_ms: 500,
            wishes: Vec::new(),
            publishing: None,
            will_delay_s: None,
            habit: Habit::Stays,
        }
    }

    fn add(&mut self, kind: &str, plan: Plan) {
        let number = self.clients.len();
        let lasts = if plan.expiry_s > 0 { "durable" } else { "transient" };
        let name = format!("{kind}{number}-{lasts}");
        let place = FIRST_PLACE + u64::try_from(number).unwrap_or_default();
        let dice = self.dice.fork();
        self.clients.push(Client::new(&name, place, plan, dice));
    }

    /// Some of the habits of a client that mostly stays.
    fn habit(&mut self) -> Habit {
        match self.dice.within(0..8) {
            0 => Habit::TakesOver { every_ms: (800, 6_000) },
            1 => Habit::Leaves { every_ms: (1_000, 8_000), away_ms: (10, 3_000) },
            2 => Habit::Dies { every_ms: (1_000, 8_000), away_ms: (10, 3_000) },
            3 => Habit::Resubscribes { every_ms: (1_000, 5_000) },
            _ => Habit::Stays,
        }
    }

    fn publisher(&mut self) {
        let first = self.dice.pick(&TOPICS);
        let second = self.dice.pick(&TOPICS);
        let mut topics: Vec<&str> = first.into_iter().chain(second).collect();
        topics.dedup();
        let fastest_ms = self.dice.within(5..80);
        let publishing = Publishing {
            topics,
            qos: ALL_QOS.to_vec(),
            every_ms: (fastest_ms, fastest_ms * 3),
            retain_percent: 0,
            delete_percent: 0,
        };
        let habit = self.habit();
        let plan = Plan { publishing: Some(publishing), habit, ..self.plan() };
        self.add("pub", plan);
    }

    fn wish(&mut self, filter: &str) -> Wish {
        let qos = self.dice.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce]).unwrap_or_default();
        Wish { filter: filter.into(), qos, retained: RetainedRead::Always }
    }

    fn subscriber(&mut self) {
        let filters: &[&str] = match self.dice.within(0..4) {
            0 => &["t/#", "w/#"],
            1 => &["t/+", "r/+"],
            2 => &["t/0", "t/1", "w/+"],
            _ => &["t/0", "+/3", "r/0"],
        };
        let wishes = filters.iter().map(|filter| self.wish(filter)).collect();
        let habit = self.habit();
        let plan = Plan { wishes, habit, ..self.plan() };
        self.add("sub", plan);
    }

    fn group(&mut self) {
        let qos = self.dice.pick(&SAFE_QOS).unwrap_or_default();
        for _ in 0..self.dice.within(2..4) {
            let wish = Wish { filter: "$share/g/t/+".into(), qos, retained: RetainedRead::Never };
            // An option that 3.1.1 does not have; of a shared subscription nothing retained is sent anyway.
            let habit = self.habit();
            let plan = Plan { wishes: vec![wish], habit, ..self.plan() };
            self.add("member", plan);
        }
    }

    /// Clients that want what one of them can have.
    fn rivals(&mut self) {
        for _ in 0..self.dice.within(2..5) {
            let wishes = vec![self.wish("$exclusive/t/+")];
            let habit = self.habit();
            let plan = Plan { wishes, habit, ..self.plan() };
            self.add("rival", plan);
        }
    }

    fn retained(&mut self) {
        let publishing = Publishing {
            topics: RETAINED_TOPICS.to_vec(),
            qos: SAFE_QOS.to_vec(),
            every_ms: (30, 300),
            retain_percent: 90,
            delete_percent: if self.dice.percent(30) { 10 } else { 0 },
        };
        for _ in 0..self.dice.within(1..3) {
            let plan = Plan { publishing: Some(publishing.clone()), ..self.plan() };
            self.add("keep", plan);
        }
        for _ in 0..self.dice.within(1..4) {
            let wishes = vec![self.wish("r/+")];
            let habit = Habit::Leaves { every_ms: (100, 2_000), away_ms: (1, 500) };
            let plan = Plan { wishes, habit, clean: true, expiry_s: 0, ..self.plan() };
            self.add("read", plan);
        }
    }

    fn mortals(&mut self) {
        let watcher = Plan { wishes: vec![self.wish("w/#")], ..self.plan() };
        self.add("watch", watcher);
        for _ in 0..self.dice.within(1..5) {
            let will_delay_s = Some(self.dice.pick(&[0, 0, 1, 2, 3]).unwrap_or_default());
            let habit = if self.dice.percent(25) {
                Habit::Leaves { every_ms: (300, 4_000), away_ms: (10, 5_000) }
            } else {
                Habit::Dies { every_ms: (300, 5_000), away_ms: (10, 6_000) }
            };
            let plan = Plan { will_delay_s, habit, ..self.plan() };
            self.add("mortal", plan);
        }
    }
}
