//! Exclusive subscriptions: who holds a filter, and from when on a holder is known to be gone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod commands;

use std::collections::{BTreeMap, BTreeSet};

use commands::*;
use proptest::prelude::*;
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::shard_reply::Reply;
use zwerm_machine::records::*;

const FILTER: &str = "$exclusive/a/+";

fn exclude(by: Option<Holder>, gone: Option<Holder>) -> Command {
    Command::Exclude(Exclude { filter: FILTER.into(), by, gone })
}

fn vacate(by: Option<Holder>) -> Command {
    Command::Vacate(Vacate { filter: FILTER.into(), by })
}

fn holds(by: Option<Holder>) -> Command {
    Command::Holds(Holds { filter: FILTER.into(), by })
}

fn subscribe(client_id: &str, epoch: u64) -> Command {
    let subscriptions = vec![Subscription { filter: FILTER.into(), qos: 1, ..Subscription::default() }];
    Command::Subscribe(Subscribe { client_id: client_id.into(), epoch, subscriptions, replay: false })
}

/// Who holds the filter after a connection asked for it.
fn excludes(shard: &mut Replica, by: Option<Holder>, gone: Option<Holder>) -> Option<Holder> {
    match shard.reply(NOW, exclude(by, gone)) {
        Reply::Excluded(excluded) => excluded.holder,
        other => panic!("not answered: {other:?}"),
    }
}

fn held(shard: &mut Replica, by: Option<Holder>) -> Held {
    match shard.reply(NOW, holds(by)) {
        Reply::Held(held) => held,
        other => panic!("not answered: {other:?}"),
    }
}

#[test]
fn the_first_holds_until_it_is_known_to_be_gone_or_gives_the_filter_back() {
    let mut shard = Replica::new();
    let (one, two) = (holder("one", 5), holder("two", 3));
    assert_eq!(excludes(&mut shard, one.clone(), None), one);
    assert_eq!(excludes(&mut shard, two.clone(), None), one);
    assert_eq!(excludes(&mut shard, two.clone(), holder("one", 4)), one, "another one is gone");
    assert_eq!(excludes(&mut shard, two.clone(), one.clone()), two);
    assert_eq!(excludes(&mut shard, one.clone(), one.clone()), two);
    let mut shard = shard.restored();
    assert_eq!(excludes(&mut shard, one.clone(), None), two);
    shard.does(NOW, vacate(one.clone()));
    assert_eq!(excludes(&mut shard, one.clone(), None), two, "only the holder gives back");
    shard.does(NOW, vacate(two));
    assert_eq!(shard.exclusives_len(), 0);
    assert_eq!(excludes(&mut shard, one.clone(), None), one);
}

#[test]
fn a_later_connection_of_the_holder_holds_and_an_earlier_one_does_not() {
    let mut shard = Replica::new();
    assert_eq!(excludes(&mut shard, holder("one", 5), None), holder("one", 5));
    assert_eq!(excludes(&mut shard, holder("one", 5), None), holder("one", 5));
    assert_eq!(excludes(&mut shard, holder("one", 7), None), holder("one", 7));
    assert_eq!(excludes(&mut shard, holder("one", 5), None), holder("one", 7));
    shard.does(NOW, vacate(holder("one", 5)));
    assert_eq!(shard.exclusives("").collect::<Vec<_>>(), [(FILTER, &holder("one", 7).unwrap())]);
    assert_eq!(shard.exclusives(FILTER).count(), 0);
    shard.does(NOW, vacate(holder("one", 9)));
    assert_eq!(shard.exclusives_len(), 0);
}

#[test]
fn a_transient_connection_holds_while_it_is_the_owner() {
    let mut shard = Replica::new();
    assert_eq!(held(&mut shard, holder("client", 1)), Held { held: false, before: 1 });
    let first = shard.claims(&transient()).epoch;
    assert_eq!(held(&mut shard, holder("client", first)), Held { held: true, before: first });
    let second = shard.claims(&transient()).epoch;
    assert_eq!(held(&mut shard, holder("client", first)), Held { held: false, before: second });
    assert_eq!(held(&mut shard, holder("client", second)), Held { held: true, before: second });
    shard.does(NOW, Command::OwnerLost(OwnerLost { node: 1, incarnation: 1 }));
    assert_eq!(held(&mut shard, holder("client", second)), Held { held: false, before: second + 1 });
}

#[test]
fn a_durable_session_holds_what_it_has_and_its_connection_what_it_is_about_to_have() {
    let mut shard = Replica::new();
    let first = shard.claims(&durable()).epoch;
    assert!(held(&mut shard, holder("client", first)).held, "its SUBSCRIBE may be on its way");
    shard.does(NOW, Command::Release(vanished(first)));
    assert!(!held(&mut shard, holder("client", first)).held);
    let late = shard.refuses(subscribe("client", first));
    assert_eq!(late, Refusal::StaleEpoch, "what is gone does not come back");
    let second = shard.claims(&durable()).epoch;
    shard.reply(NOW, subscribe("client", second));
    shard.does(NOW, Command::Release(vanished(second)));
    assert!(held(&mut shard, holder("client", second)).held, "while it is away");
    assert!(held(&mut shard.restored(), holder("client", second)).held);
    let third = shard.claims(&Claim { node: 2, ..durable() }).epoch;
    assert!(held(&mut shard, holder("client", second)).held, "when it is continued");
    let filters = vec![FILTER.into()];
    shard.reply(NOW, Command::Unsubscribe(Unsubscribe { client_id: "client".into(), epoch: third, filters }));
    assert!(!held(&mut shard, holder("client", second)).held);
    assert!(held(&mut shard, holder("client", third)).held);
    shard.reply(NOW, subscribe("client", third));
    shard.does(NOW, Command::Release(vanished(third)));
    shard.ticks(NOW + 99_999);
    assert!(held(&mut shard, holder("client", third)).held);
    shard.ticks(NOW + 100_000);
    assert!(!held(&mut shard, holder("client", third)).held, "when it has expired");
}

#[test]
fn what_is_no_exclusive_filter_and_no_connection_is_refused() {
    let mut shard = Replica::new();
    let command = |filter: &str| Exclude { filter: filter.into(), by: holder("one", 1), gone: None };
    for filter in ["", "a", "$share/g/a", "$exclusive/", "$exclusive/a/#/b"] {
        assert_eq!(shard.refuses(Command::Exclude(command(filter))), Refusal::Invalid, "{filter}");
        let vacate = Vacate { filter: filter.into(), by: holder("one", 1) };
        assert_eq!(shard.refuses(Command::Vacate(vacate)), Refusal::Invalid, "{filter}");
        let holds = Holds { filter: filter.into(), by: holder("one", 1) };
        assert_eq!(shard.refuses(Command::Holds(holds)), Refusal::Invalid, "{filter}");
    }
    for by in [None, holder("", 1)] {
        assert_eq!(shard.refuses(exclude(by, None)), Refusal::Invalid);
    }
    assert_eq!(shard.refuses(exclude(holder(&"x".repeat(65_536), 1), None)), Refusal::Limit);
    assert_eq!(shard.refuses(vacate(None)), Refusal::Invalid);
    assert_eq!(shard.refuses(holds(None)), Refusal::Invalid);
}

const CLIENTS: [&str; 3] = ["one", "two", "three"];

/// What connections do about one filter, each step a command on its own: others come between.
#[derive(Debug, Clone)]
enum Step {
    /// A connection, durable or not, and its clean start.
    Connect(usize, bool, bool),
    Disconnect(usize),
    /// Asks for the filter, naming the holder that it knows to be gone.
    Exclude(usize),
    /// Asks for the present holder.
    Ask(usize),
    /// What follows when it is the holder: its subscription.
    Subscribe(usize),
    /// The end of its subscription, then of its holding.
    Unsubscribe(usize),
    Vacate(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS.len();
    prop_oneof![
        3 => (client.clone(), any::<bool>(), any::<bool>()).prop_map(|(client, durable, clean)| Step::Connect(client, durable, clean)),
        2 => client.clone().prop_map(Step::Disconnect),
        6 => client.clone().prop_map(Step::Exclude),
        5 => client.clone().prop_map(Step::Ask),
        5 => client.clone().prop_map(Step::Subscribe),
        2 => client.clone().prop_map(Step::Unsubscribe),
        2 => client.prop_map(Step::Vacate),
    ]
}

/// A client as its node sees it.
#[derive(Debug, Clone, Default)]
struct Player {
    epoch: u64,
    durable: bool,
    connected: bool,
    /// What it was told of the filter last.
    told: Option<Holder>,
    gone: Option<Holder>,
    subscribed: bool,
    /// Unsubscribed, and the filter is not given back yet.
    to_vacate: bool,
}

impl Player {
    fn by(&self, client: usize) -> Option<Holder> {
        holder(CLIENTS[client], self.epoch)
    }
}

/// Plays a step the way the broker does.
fn play(shard: &mut Replica, players: &mut [Player], step: &Step) {
    match *step {
        Step::Connect(client, durable, clean_start) => {
            let claim = Claim {
                client_id: CLIENTS[client].into(),
                clean_start,
                expiry_s: if durable { 100 } else { 0 },
                ..commands::durable()
            };
            let claimed = shard.claims(&claim);
            let kept = claimed.session_present && players[client].subscribed;
            players[client] = Player {
                epoch: claimed.epoch,
                durable: claimed.durable,
                connected: true,
                subscribed: kept,
                ..Player::default()
            };
        }
        Step::Disconnect(client) => {
            let player = &mut players[client];
            if std::mem::take(&mut player.connected) {
                let release = Release { client_id: CLIENTS[client].into(), ..vanished(player.epoch) };
                shard.does(NOW, Command::Release(release));
                let outlives = player.durable && shard.session(CLIENTS[client]).is_some();
                player.subscribed &= outlives;
                player.told = None;
            }
        }
        Step::Exclude(client) => {
            let player = &mut players[client];
            if player.connected && !player.to_vacate {
                player.told = excludes(shard, player.by(client), player.gone.take());
            }
        }
        Step::Ask(client) => {
            let player = &mut players[client];
            let told = player.told.clone();
            if told.is_some() && told != player.by(client) && !held(shard, told.clone()).held {
                player.gone = told;
            }
        }
        Step::Subscribe(client) => {
            let player = &mut players[client];
            if player.connected && player.told.is_some() && player.told == player.by(client) {
                if player.durable {
                    let reply = shard.reply(NOW, subscribe(CLIENTS[client], player.epoch));
                    assert!(matches!(reply, Reply::Subscribed(_)));
                }
                player.subscribed = true;
            }
        }
        Step::Unsubscribe(client) => {
            let player = &mut players[client];
            if player.connected && player.subscribed {
                if player.durable {
                    let (client_id, filters) = (CLIENTS[client].into(), vec![FILTER.into()]);
                    let unsubscribe = Unsubscribe { client_id, epoch: player.epoch, filters };
                    shard.reply(NOW, Command::Unsubscribe(unsubscribe));
                }
                (player.subscribed, player.to_vacate, player.told) = (false, true, None);
            }
        }
        Step::Vacate(client) => {
            let player = &mut players[client];
            if std::mem::take(&mut player.to_vacate) && player.connected {
                shard.does(NOW, vacate(player.by(client)));
            }
        }
    }
}

proptest! {
    #[test]
    fn never_two_hold_a_filter_however_their_steps_interleave(steps in prop::collection::vec(step(), 0..120)) {
        let mut shard = Replica::new();
        let mut players = vec![Player::default(); CLIENTS.len()];
        // Once gone, a holder is gone for ever.
        let mut gone: BTreeSet<(String, u64)> = BTreeSet::new();
        let mut epochs: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for step in &steps {
            play(&mut shard, &mut players, step);
            let holding: Vec<usize> =
                (0..CLIENTS.len()).filter(|client| players[*client].subscribed).collect();
            prop_assert!(holding.len() <= 1, "{holding:?} after {step:?}");
            if let Some(client) = holding.first() {
                let (_, by) = shard.exclusives("").next().unwrap();
                prop_assert_eq!(&by.client_id, CLIENTS[*client]);
            }
            let known: Vec<Holder> = shard.exclusives("").map(|(_, by)| by.clone()).collect();
            for by in known {
                epochs.entry(by.client_id).or_default().insert(by.epoch);
            }
            for (client_id, epochs) in &epochs {
                for epoch in epochs {
                    let is_holder = shard.exclusives("").any(|(_, by)| by.client_id == *client_id && by.epoch == *epoch);
                    let held = held(&mut shard, holder(client_id, *epoch)).held;
                    let name = (client_id.clone(), *epoch);
                    if !held && is_holder {
                        gone.insert(name);
                    } else if is_holder {
                        prop_assert!(!gone.contains(&name), "{name:?} came back after {step:?}");
                    }
                }
            }
        }
        prop_assert_eq!(shard.restored().digest(), shard.digest());
    }
}
