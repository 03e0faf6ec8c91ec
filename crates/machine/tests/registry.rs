//! The registry's rules as tables: claim, takeover, release, loss of a node, will delay, session expiry.

mod commands;

use commands::*;
use zwerm_machine::limits::MAX_OUTBOX_BYTES;
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::shard_reply::Reply;
use zwerm_machine::records::{Claim, Drained, Ignored, Owner, OwnerLost, Refusal, Release, ShardCommand};

/// Before and after: what a takeover of a client with a will does.
struct Takeover {
    old_is_durable: bool,
    clean_start: bool,
    delay_s: u32,
    session_present: bool,
    will_fires: bool,
}

const fn takeover(durable: bool, clean: bool, delay_s: u32, present: bool, fires: bool) -> Takeover {
    Takeover {
        old_is_durable: durable,
        clean_start: clean,
        delay_s,
        session_present: present,
        will_fires: fires,
    }
}

/// MQTT 5.0 sections 3.1.2.4, 3.1.2.5 and 3.1.3.2.2.
const TAKEOVERS: [Takeover; 8] = [
    takeover(false, false, 0, false, true),
    takeover(false, false, 9, false, true),
    takeover(false, true, 0, false, true),
    takeover(false, true, 9, false, true),
    takeover(true, false, 0, true, true),
    takeover(true, false, 9, true, false),
    takeover(true, true, 0, false, true),
    takeover(true, true, 9, false, true),
];

impl Takeover {
    fn first(&self) -> Claim {
        with_will(if self.old_is_durable { durable() } else { transient() }, "old", self.delay_s)
    }

    fn second(&self) -> Claim {
        Claim { node: 2, clean_start: self.clean_start, ..durable() }
    }

    fn label(&self) -> String {
        format!("durable {} clean {} delay {}", self.old_is_durable, self.clean_start, self.delay_s)
    }
}

#[test]
fn a_takeover_names_the_old_owner_and_fires_its_will_as_the_specification_says() {
    for row in TAKEOVERS {
        let mut shard = Replica::new();
        let first = shard.claims(&row.first());
        assert_eq!((first.session_present, first.previous), (false, None), "{}", row.label());
        let second = shard.claims(&row.second());
        let old = Owner { node: 1, incarnation: 1, epoch: first.epoch, connected: true };
        assert_eq!(second.previous, Some(old), "{}", row.label());
        assert_eq!(second.session_present, row.session_present, "{}", row.label());
        assert!(second.epoch > first.epoch);
        let fired: &[&str] = if row.will_fires { &["old"] } else { &[] };
        assert_eq!(shard.fired(), fired, "{}", row.label());
        let entry = shard.owner("client").unwrap();
        assert_eq!(entry.owner, Owner { node: 2, incarnation: 1, epoch: second.epoch, connected: true });
        assert_eq!(entry.will(), None, "the old will went with the old connection");
        shard.ticks(u64::MAX);
        assert_eq!(shard.fired(), fired, "and never fires later: {}", row.label());
    }
}

#[test]
fn a_client_that_comes_back_in_time_cancels_its_will_only_if_its_session_goes_on() {
    for (clean_start, fired) in [(false, &[][..]), (true, &["old"][..])] {
        let mut shard = Replica::new();
        let first = shard.claims(&with_will(durable(), "old", 9));
        shard.does(NOW, Command::Release(vanished(first.epoch)));
        assert_eq!(shard.next_due_ms(), Some(NOW + 9_000));
        let second = shard.claims_at(NOW + 8_999, &Claim { clean_start, ..durable() });
        assert_eq!(second.session_present, !clean_start);
        assert_eq!(second.previous.map(|owner| owner.connected), Some(false));
        assert_eq!(shard.fired(), fired);
        assert_eq!(shard.next_due_ms(), None, "a connected client has no timer");
    }
}

#[test]
fn a_claim_sees_what_a_tick_at_its_time_would_have_left() {
    // (when it comes back, session present, fired): the delay is 9 s, the session lives 100 s.
    for (after_ms, present, fired) in [
        (8_999, true, &[][..]),
        (9_000, true, &["old"][..]),
        (99_999, true, &["old"][..]),
        (100_000, false, &["old"][..]),
    ] {
        for tick_first in [false, true] {
            let mut shard = Replica::new();
            let first = shard.claims(&with_will(durable(), "old", 9));
            shard.does(NOW, Command::Release(vanished(first.epoch)));
            if tick_first {
                shard.ticks(NOW + after_ms);
            }
            let second = shard.claims_at(NOW + after_ms, &durable());
            assert_eq!(second.session_present, present, "after {after_ms} ms, tick {tick_first}");
            assert_eq!(second.previous.is_some(), present, "after {after_ms} ms, tick {tick_first}");
            assert_eq!(shard.fired(), fired, "after {after_ms} ms, tick {tick_first}");
        }
    }
}

#[test]
fn a_release_ends_transient_sessions_and_starts_the_timers_of_durable_ones() {
    const FOR_EVER: u32 = u32::MAX;
    struct Row(u32, u32, bool, Option<u32>, bool, bool, Option<u64>);
    // expiry, delay, fire will, new expiry; fired at once, entry stays, next timer
    for Row(expiry_s, delay_s, fire_will, new_expiry, fired, stays, next_ms) in [
        Row(0, 0, true, None, true, false, None),
        Row(0, 9, true, None, true, false, None),
        Row(0, 9, false, None, false, false, None),
        Row(0, 9, true, Some(50), true, false, None),
        Row(100, 0, true, None, true, true, Some(100_000)),
        Row(100, 9, true, None, false, true, Some(9_000)),
        Row(100, 9, false, None, false, true, Some(100_000)),
        Row(100, 9, true, Some(5), false, true, Some(5_000)),
        Row(100, 9, true, Some(0), true, false, None),
        Row(100, 0, false, Some(0), false, false, None),
        Row(FOR_EVER, 0, true, None, true, true, None),
        Row(FOR_EVER, 9, true, None, false, true, Some(9_000)),
        Row(FOR_EVER, 9, false, None, false, true, None),
        Row(100, 9, false, Some(FOR_EVER), false, true, None),
        Row(FOR_EVER, FOR_EVER, true, None, false, true, Some(u64::from(FOR_EVER) * 1000)),
    ] {
        let label = format!("expiry {expiry_s} delay {delay_s} fire {fire_will} new {new_expiry:?}");
        let mut shard = Replica::new();
        let claimed = shard.claims(&with_will(Claim { expiry_s, ..durable() }, "will", delay_s));
        let release = Release {
            client_id: "client".into(),
            epoch: claimed.epoch,
            fire_will,
            expiry_s: new_expiry,
            sent: 0,
        };
        shard.does(NOW, Command::Release(release));
        assert_eq!(!shard.fired().is_empty(), fired, "{label}");
        assert_eq!(shard.clients(), usize::from(stays), "{label}");
        assert_eq!(shard.next_due_ms(), next_ms.map(|after| NOW + after), "{label}");
    }
}

#[test]
fn a_will_fires_at_the_end_of_its_delay_or_of_its_session_and_once() {
    for (expiry_s, delay_s, fires_after_ms) in [(100, 9, 9_000), (5, 9, 5_000), (9, 9, 9_000)] {
        let mut shard = Replica::new();
        let claimed = shard.claims(&with_will(Claim { expiry_s, ..durable() }, "will", delay_s));
        shard.does(NOW, Command::Release(vanished(claimed.epoch)));
        shard.ticks(NOW + fires_after_ms - 1);
        assert!(shard.fired().is_empty());
        shard.ticks(NOW + fires_after_ms);
        assert_eq!(shard.fired(), ["will"]);
        shard.ticks(NOW + 1_000_000);
        assert_eq!(shard.fired(), ["will"]);
        assert_eq!(shard.clients(), 0);
        assert_eq!(shard.next_due_ms(), None);
    }
}

#[test]
fn the_expiry_of_a_will_message_starts_when_it_fires() {
    let mut shard = Replica::new();
    let mut claim = with_will(durable(), "will", 9);
    claim.will.as_mut().unwrap().message_expiry_s = Some(30);
    let claimed = shard.claims(&claim);
    shard.does(NOW, Command::Release(vanished(claimed.epoch)));
    shard.ticks(NOW + 9_500);
    assert_eq!(shard.message(shard.outbox().next().unwrap().1.message).expires_at_ms, NOW + 9_500 + 30_000);
}

#[test]
fn a_lost_node_disconnects_whoever_it_owned_in_that_or_an_older_incarnation() {
    let mut shard = Replica::new();
    for (client_id, node, incarnation, expiry_s, delay_s) in [
        ("transient", 1, 5, 0, 9),
        ("durable, no delay", 1, 5, 100, 0),
        ("durable, delay", 1, 5, 100, 9),
        ("older", 1, 4, 0, 0),
        ("newer", 1, 6, 0, 0),
        ("elsewhere", 2, 5, 0, 0),
    ] {
        let claim = Claim { client_id: client_id.into(), node, incarnation, expiry_s, ..durable() };
        shard.claims(&with_will(claim, client_id, delay_s));
    }
    shard.does(NOW, Command::OwnerLost(OwnerLost { node: 1, incarnation: 5 }));
    assert_eq!(shard.fired(), ["durable, no delay", "older", "transient"], "by client id");
    let left: Vec<_> = shard.entries().map(|(client, entry)| (client, entry.owner.connected)).collect();
    let wanted =
        [("durable, delay", false), ("durable, no delay", false), ("elsewhere", true), ("newer", true)];
    assert_eq!(left, wanted);
    let before = shard.digest();
    shard.does(NOW + 50, Command::OwnerLost(OwnerLost { node: 1, incarnation: 5 }));
    shard.does(NOW + 50, Command::OwnerLost(OwnerLost { node: 1, incarnation: 4 }));
    assert_eq!(shard.digest(), before, "a repeat changes nothing");
    shard.ticks(NOW + 9_000);
    assert_eq!(shard.fired().len(), 4);
}

#[test]
fn a_claim_of_a_dead_incarnation_comes_too_late() {
    let mut shard = Replica::new();
    shard.does(NOW, Command::OwnerLost(OwnerLost { node: 1, incarnation: 5 }));
    for incarnation in [1, 5] {
        let late = Claim { incarnation, ..durable() };
        assert_eq!(shard.refuses(Command::Claim(late)), Refusal::StaleIncarnation);
    }
    shard.claims(&Claim { incarnation: 6, ..durable() });
    shard.claims(&Claim { node: 2, incarnation: 1, ..durable() });
}

#[test]
fn a_stale_or_second_release_is_ignored() {
    let mut shard = Replica::new();
    assert_eq!(shard.refuses(Command::Release(vanished(1))), Refusal::UnknownClient);
    let first = shard.claims(&with_will(durable(), "first", 9));
    let second = shard.claims(&with_will(durable(), "second", 9));
    for epoch in [0, first.epoch, second.epoch + 1] {
        assert_eq!(shard.refuses(Command::Release(vanished(epoch))), Refusal::StaleEpoch);
    }
    shard.does(NOW, Command::Release(vanished(second.epoch)));
    assert_eq!(shard.refuses(Command::Release(vanished(second.epoch))), Refusal::StaleEpoch);
    shard.ticks(u64::MAX);
    assert_eq!(shard.fired(), ["second"]);
}

#[test]
fn an_epoch_never_repeats_even_when_the_entry_is_gone() {
    let mut shard = Replica::new();
    let mut last = 0;
    for _ in 0..5 {
        let claimed = shard.claims(&transient());
        assert!(claimed.epoch > last);
        last = claimed.epoch;
        shard.does(NOW, Command::Release(vanished(last)));
        assert_eq!(shard.clients(), 0);
        shard = shard.restored();
    }
}

#[test]
fn the_outbox_keeps_its_order_and_its_sequence_when_it_is_drained() {
    let mut shard = Replica::new();
    for payload in ["a", "b", "c", "d"] {
        let claimed = shard.claims(&with_will(transient(), payload, 0));
        shard.does(NOW, Command::Release(vanished(claimed.epoch)));
    }
    shard.does(NOW, Command::Drained(Drained { upto: 2 }));
    assert_eq!(shard.outbox().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(shard.fired(), ["c", "d"]);
    shard.does(NOW, Command::Drained(Drained { upto: 1 }));
    shard.does(NOW, Command::Drained(Drained { upto: u64::MAX }));
    assert_eq!(shard.outbox_len(), 0);
    let claimed = shard.claims(&with_will(transient(), "e", 0));
    shard.does(NOW, Command::Release(vanished(claimed.epoch)));
    assert_eq!(shard.outbox().next().unwrap().0, 5, "a sequence is never used again");
}

#[test]
fn a_full_outbox_refuses_new_wills_until_it_is_drained_but_no_other_claims() {
    let mut shard = Replica::new();
    let large = "x".repeat(900_000);
    let mut taken = 0;
    while taken < 1_000 {
        let claim = with_will(transient(), &large, 0);
        let Reply::Claimed(claimed) = shard.reply(NOW, Command::Claim(claim)) else { break };
        shard.does(NOW, Command::Release(vanished(claimed.epoch)));
        taken += 1;
    }
    assert_eq!(taken, (MAX_OUTBOX_BYTES as u64).div_ceil(900_000 + 4));
    assert_eq!(shard.refuses(Command::Claim(with_will(transient(), "w", 0))), Refusal::Busy);
    shard.claims(&transient());
    shard.does(NOW, Command::Drained(Drained { upto: 1 }));
    shard.claims(&with_will(transient(), "w", 0));
}

#[test]
fn an_impossible_claim_is_refused() {
    let mut shard = Replica::new();
    let bad_will = |topic: &str, qos| {
        let mut claim = with_will(durable(), "w", 0);
        let message = claim.will.as_mut().unwrap().message.as_mut().unwrap();
        (message.topic, message.qos) = (topic.into(), qos);
        claim
    };
    let mut no_message = with_will(durable(), "w", 0);
    no_message.will.as_mut().unwrap().message = None;
    for (claim, reason) in [
        (Claim { client_id: String::new(), ..durable() }, Refusal::Invalid),
        (Claim { incarnation: 0, ..durable() }, Refusal::Invalid),
        (Claim { client_id: "c".repeat(65_536), ..durable() }, Refusal::Limit),
        (bad_will("", 0), Refusal::Invalid),
        (bad_will("a/#", 0), Refusal::Invalid),
        (bad_will("a", 3), Refusal::Invalid),
        (no_message, Refusal::Invalid),
        (with_will(durable(), &"x".repeat(1 << 20), 0), Refusal::Limit),
    ] {
        assert_eq!(shard.refuses(Command::Claim(claim)), reason);
    }
    let empty = ShardCommand::default();
    let ignored = Ignored { reason: Refusal::UnknownCommand.into() };
    assert_eq!(shard.shard.apply(&empty).reply, Some(Reply::Ignored(ignored)));
}
