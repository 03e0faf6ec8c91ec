//! How durable sessions begin, go on and end; subscriptions and the routes that follow.

use zwerm_machine::ShardRoute;
use zwerm_machine::limits::MAX_BURIED;
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::shard_reply::Reply;
use zwerm_machine::records::*;
use zwerm_wire::TopicFilter;

use crate::commands::*;
use crate::fixture::*;

fn route(shard: &Replica, filter: &str) -> Option<(u32, u32, u64)> {
    let filter = TopicFilter::new(filter.to_owned()).unwrap();
    shard.routes().get(&filter).map(|ShardRoute { members, online, since }| (*members, *online, *since))
}

#[test]
fn a_continued_session_comes_back_with_all_that_it_was() {
    let mut shard = Replica::new();
    let first = shard.claims(&claim_of("c"));
    assert!(first.durable && first.resumed.is_none());
    let subscription =
        Subscription { no_local: true, retain_as_published: true, identifier: 7, ..to("a/#", 2) };
    shard.subscribes("c", first.epoch, &[subscription.clone(), to("b", 0)]);
    for payload in ["1", "2", "3"] {
        shard.enqueues(enqueue(Message { qos: 2, ..message("a", payload) }));
    }
    shard.does(NOW, acknowledge("c", first.epoch, &[2], &[1]));
    let receive = |packet_id| Receive {
        client_id: "c".into(),
        epoch: first.epoch,
        packet_id,
        message: Some(Message { qos: 2, ..message("x", "in") }),
    };
    shard.does(NOW, Command::Receive(receive(9)));
    shard.does(NOW, Command::Receive(receive(4)));
    shard.does(NOW, gone("c", first.epoch, 2));
    let mut shard = shard.restored();
    let second = shard.claims(&claim_of("c"));
    assert!(second.session_present && second.durable);
    let resumed = Resumed {
        subscriptions: vec![Subscription { since: 1, ..subscription }, to("b", 0)],
        received: vec![4, 9],
        released: vec![1],
        maybe_sent: 2,
    };
    assert_eq!(second.resumed, Some(resumed));
    assert_eq!(shard.waiting("c"), ["3"]);
    assert_eq!(shard.session("c").unwrap().number(), first.epoch, "one session over all its claims");
}

#[test]
fn a_clean_start_ends_the_session_before_it_and_a_transient_claim_begins_none() {
    for claim in [
        Claim { clean_start: true, ..claim_of("c") },
        Claim { clean_start: true, expiry_s: 0, ..claim_of("c") },
    ] {
        let mut shard = Replica::new();
        shard.joins(&claim_of("c"), &[to("a", 1)]);
        shard.publishes("a", "1");
        let claimed = shard.claims(&claim);
        assert!(!claimed.session_present && claimed.resumed.is_none());
        assert_eq!(claimed.durable, claim.expiry_s > 0);
        assert_eq!(
            (shard.sessions(), shard.queued_messages(), shard.routes().len()),
            (usize::from(claimed.durable), 0, 0)
        );
        assert!(shard.messages.is_empty());
        assert_eq!(shard.publishes("a", "2"), (0, 0));
    }
}

#[test]
fn a_session_continued_with_expiry_0_goes_on_and_ends_with_that_connection() {
    let mut shard = Replica::new();
    shard.joins(&claim_of("c"), &[to("a", 1)]);
    let claimed = shard.claims(&Claim { expiry_s: 0, ..claim_of("c") });
    assert!(claimed.session_present && claimed.durable);
    assert_eq!(shard.publishes("a", "1"), (1, 0));
    shard.does(NOW, gone("c", claimed.epoch, 0));
    assert_eq!((shard.sessions(), shard.clients(), shard.routes().len()), (0, 0, 0));
}

#[test]
fn a_session_that_expires_leaves_nothing_behind() {
    let mut shard = Replica::new();
    let epoch = shard.joins(&claim_of("c"), &[to("a", 1), to("$share/g/a", 1)]);
    shard.publishes("a", "1");
    shard.does(NOW, gone("c", epoch, 0));
    shard.ticks(NOW + 99_999);
    assert_eq!(shard.waiting("c"), ["1"]);
    shard.ticks(NOW + 100_000);
    assert!(shard.session("c").is_none() && shard.routes().is_empty() && shard.messages.is_empty());
}

#[test]
fn a_long_queue_of_an_ended_session_goes_in_steps_that_ticks_take() {
    let mut shard = Replica::new();
    shard.joins(&claim_of("c"), &[to("a", 1)]);
    let messages = 2 * MAX_BURIED + 500;
    for _ in 0..messages {
        shard.publishes("a", "x");
    }
    shard.claims(&Claim { clean_start: true, ..claim_of("c") });
    assert_eq!((shard.queued_messages(), shard.routes().len()), (0, 0), "gone for everybody else at once");
    let mut shard = shard.restored();
    let mut left = vec![shard.messages.len()];
    while shard.next_due_ms() == Some(0) {
        shard.ticks(NOW);
        left.push(shard.messages.len());
    }
    assert!(left.len() == 3 && left[0] >= messages - MAX_BURIED - 64 && left[2] == 0, "{left:?}");
}

#[test]
fn what_may_have_been_sent_is_what_the_owner_said_or_else_its_window() {
    let owner_lost = || Command::OwnerLost(OwnerLost { node: 1, incarnation: 1 });
    let takeover = Command::Tick(Tick {});
    let released: Vec<u64> = (1..=63).collect();
    // Ends with, window of the claim, done and released before; maybe sent.
    for (end, window, done, received, sent) in [
        (gone("c", 1, 3), 10, &[][..], &[][..], 3),
        (gone("c", 1, 0), 10, &[], &[], 0),
        (gone("c", 1, 9_999), 10, &[], &[], 100),
        (owner_lost(), 4, &[], &[], 4),
        (owner_lost(), 4, &[1, 2], &[], 6),
        (owner_lost(), 4, &[2, 3, 70], &[], 6),
        (owner_lost(), 4, &[2], &[1, 3], 5),
        (owner_lost(), 64, &[], &released, 64),
        (owner_lost(), 1_000, &[], &[], 100),
        (owner_lost(), 0, &[], &[], 100),
        (takeover, 4, &[2], &[], 5),
    ] {
        let mut shard = Replica::new();
        let epoch = shard.joins(&Claim { window, ..claim_of("c") }, &[to("a", 2)]);
        for _ in 0..100 {
            shard.enqueues(enqueue(Message { qos: 2, ..message("a", "x") }));
        }
        shard.does(NOW, acknowledge("c", epoch, done, received));
        shard.does(NOW, end.clone());
        let claimed = shard.claims(&Claim { node: 2, ..claim_of("c") });
        let maybe_sent = claimed.resumed.unwrap().maybe_sent;
        assert_eq!(maybe_sent, sent, "{end:?} window {window} done {done:?} released {received:?}");
    }
}

#[test]
fn routes_name_what_is_wanted_with_qos_1_or_2_and_since_when() {
    let mut shard = Replica::new();
    let one = shard.claims(&claim_of("one")).epoch;
    let two = shard.claims(&claim_of("two")).epoch;
    let line = |existed, since| SubscribedLine { existed, since };
    assert_eq!(
        shard.subscribes("one", one, &[to("a", 1), to("b", 0), to("$share/g/a", 1)]),
        [line(false, 1), line(false, 0), line(false, 2)]
    );
    assert_eq!(
        shard.subscribes("two", two, &[to("a", 2), to("$share/g/a", 2), to("$share/g/a", 2)]),
        [line(false, 1), line(false, 2), line(true, 2)]
    );
    assert_eq!(shard.routes_version(), 3, "a second session changes no plain route");
    assert_eq!((route(&shard, "a"), route(&shard, "b")), (Some((1, 0, 1)), None));
    assert_eq!(route(&shard, "$share/g/a"), Some((2, 2, 2)));

    shard.subscribes("one", one, &[to("a", 0), to("$share/g/a", 0)]);
    assert_eq!((route(&shard, "a"), route(&shard, "$share/g/a")), (Some((1, 0, 1)), Some((1, 1, 2))));
    shard.does(NOW, gone("two", two, 0));
    assert_eq!(route(&shard, "$share/g/a"), Some((1, 0, 2)), "nobody is connected");
    let two = shard.claims(&claim_of("two")).epoch;
    let unsubscribe = Unsubscribe {
        client_id: "two".into(),
        epoch: two,
        filters: vec!["a".into(), "x".into(), "$share/g/a".into()],
    };
    let unsubscribed = shard.reply(NOW, Command::Unsubscribe(unsubscribe));
    assert_eq!(unsubscribed, Reply::Unsubscribed(Unsubscribed { existed: vec![true, false, true] }));
    assert!(shard.routes().is_empty());
    let version = shard.routes_version();
    assert_eq!(shard.subscribes("one", one, &[to("a", 1)]), [line(true, version + 1)], "it began anew");
    let back = shard.restored();
    assert_eq!((back.routes(), back.routes_version()), (shard.routes(), version + 1));
}

#[test]
fn commands_of_an_owner_before_or_of_no_session_are_ignored() {
    let mut shard = Replica::new();
    let old = shard.joins(&claim_of("c"), &[to("a", 1)]);
    shard.claims(&claim_of("c"));
    let transient = shard.claims(&Claim { expiry_s: 0, ..claim_of("t") }).epoch;
    let commands = |client: &str, epoch| {
        let client_id = client.to_owned();
        let message = Some(Message { qos: 2, ..message("x", "in") });
        [
            subscribe(client, epoch, &[to("b", 1)]),
            Command::Unsubscribe(Unsubscribe {
                client_id: client_id.clone(),
                epoch,
                filters: vec!["a".into()],
            }),
            Command::Receive(Receive { client_id: client_id.clone(), epoch, packet_id: 1, message }),
            Command::Complete(Complete { client_id: client_id.clone(), epoch, packet_id: 1 }),
            acknowledge(client, epoch, &[1], &[]),
            Command::EndReplay(EndReplay { client_id, epoch }),
        ]
    };
    for (client, epoch, reason) in [
        ("c", old, Refusal::StaleEpoch),
        ("nobody", old, Refusal::UnknownClient),
        ("t", transient, Refusal::NoSession),
    ] {
        for command in commands(client, epoch) {
            assert_eq!(shard.refuses(command), reason);
        }
    }
    let released = shard.claims(&claim_of("c")).epoch;
    shard.does(NOW, gone("c", released, 0));
    for command in commands("c", released) {
        assert_eq!(shard.refuses(command), Refusal::StaleEpoch);
    }
}

#[test]
fn an_impossible_subscription_is_refused_with_all_of_its_command() {
    let mut shard = Replica::new();
    let epoch = shard.claims(&claim_of("c")).epoch;
    for bad in [to("", 1), to("a/#/b", 1), to("a", 3), to("$share/g", 1)] {
        assert_eq!(shard.refuses(subscribe("c", epoch, &[to("a", 1), bad])), Refusal::Invalid);
    }
    let unsubscribe = Unsubscribe { client_id: "c".into(), epoch, filters: vec!["#/a".into()] };
    assert_eq!(shard.refuses(Command::Unsubscribe(unsubscribe)), Refusal::Invalid);
    let many: Vec<_> = (0..65_537).map(|number| to(&format!("a/{number}"), 1)).collect();
    assert_eq!(shard.refuses(subscribe("c", epoch, &many)), Refusal::Limit);
}

#[test]
fn whoever_has_something_new_or_a_new_owner_is_touched() {
    let mut shard = Replica::new();
    let epoch = shard.joins(&claim_of("one"), &[to("a", 1)]);
    shard.joins(&claim_of("two"), &[to("a", 1), to("b", 1)]);
    let touched = |shard: &mut Replica, act: &dyn Fn(&mut Replica)| {
        shard.touched.clear();
        act(shard);
        std::mem::take(&mut shard.touched).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(touched(&mut shard, &|shard| _ = shard.publishes("a", "1")), ["one", "two"]);
    assert_eq!(touched(&mut shard, &|shard| _ = shard.publishes("b", "2")), ["two"]);
    assert!(touched(&mut shard, &|shard| _ = shard.publishes("c", "3")).is_empty());
    assert!(touched(&mut shard, &|shard| shard.does(NOW, acknowledge("one", epoch, &[1], &[]))).is_empty());
    assert_eq!(touched(&mut shard, &|shard| _ = shard.claims(&claim_of("one"))), ["one"]);
    let lost = Command::OwnerLost(OwnerLost { node: 1, incarnation: 1 });
    assert_eq!(touched(&mut shard, &|shard| shard.does(NOW, lost.clone())), ["one", "two"]);
}
