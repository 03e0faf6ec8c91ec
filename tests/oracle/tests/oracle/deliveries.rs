//! P1, P2, P4 and P9: what is acknowledged comes, once where that was promised, and in order.

use zwerm_oracle::{Breach, Promise, Stage};

use crate::script::Script;

/// A transient publisher `p` and a transient subscriber `s` of `t/#`.
fn pair() -> Script {
    Script::new().transient("p", 1).transient("s", 1).subscribed("s", 1, "t/#")
}

#[test]
fn what_comes_in_order_is_right() {
    pair()
        .sent("p", 1, "t/a")
        .got("s", 1, 1, "t/a")
        .sent("p", 2, "t/a")
        .got("s", 1, 2, "t/a")
        .drained("s", 1)
        .passes();
}

#[test]
fn an_acknowledged_message_that_never_comes_is_lost() {
    let first = pair().sent("p", 1, "t/a").got("s", 1, 1, "t/a");
    first.sent("p", 2, "t/a").drained("s", 1).fails(Promise::P1, Breach::Lost, 2);
}

#[test]
fn the_first_message_after_suback_that_never_comes_was_not_routed() {
    pair().sent("p", 1, "t/a").drained("s", 1).fails(Promise::P4, Breach::Lost, 1);
}

#[test]
fn a_message_without_acknowledgement_may_be_lost() {
    pair().publish("p", 1, 1, "t/a", 1).drained("s", 1).passes();
}

#[test]
fn qos_0_may_be_lost() {
    pair()
        .publish("p", 1, 1, "t/a", 0)
        .publish("p", 1, 2, "t/a", 0)
        .came("s", 1, 2, ("t/a", 0, false))
        .passes();
}

#[test]
fn a_message_that_was_sent_before_suback_is_owed_to_nobody() {
    Script::new()
        .transient("p", 1)
        .transient("s", 1)
        .sent("p", 1, "t/a")
        .subscribed("s", 1, "t/#")
        .drained("s", 1)
        .passes();
}

#[test]
fn another_topic_is_owed_to_nobody() {
    pair().sent("p", 1, "u").drained("s", 1).passes();
}

#[test]
fn a_transient_session_that_ended_is_owed_nothing_more() {
    pair().sent("p", 1, "t/a").lost("s", 1).passes();
}

#[test]
fn a_hole_is_a_loss_even_if_the_connection_ended() {
    let hole = pair().sent("p", 1, "t/a").sent("p", 2, "t/a").sent("p", 3, "t/a");
    let hole = hole.got("s", 1, 1, "t/a").got("s", 1, 3, "t/a").lost("s", 1);
    hole.fails(Promise::P1, Breach::Lost, 2);
}

#[test]
fn after_unsubscribe_nothing_is_owed_and_what_comes_by_a_later_subscription_proves_no_hole() {
    pair()
        .sent("p", 1, "t/a")
        .unsubscribe("s", 1, "t/#")
        .sent("p", 2, "t/a")
        .subscribed("s", 1, "t/#")
        .sent("p", 3, "t/a")
        .got("s", 1, 3, "t/a")
        .drained("s", 1)
        .passes();
}

#[test]
fn a_durable_session_gets_on_a_later_connection_what_it_was_away_for() {
    let away =
        || Script::new().transient("p", 1).durable("s", 1, false).subscribed("s", 1, "t/#").lost("s", 1);
    let back = |script: Script| script.durable("s", 2, true);
    back(away().sent("p", 1, "t/a")).got("s", 2, 1, "t/a").drained("s", 2).passes();
    back(away().sent("p", 1, "t/a")).drained("s", 2).fails(Promise::P4, Breach::Lost, 1);
    let worked = back(away()).sent("p", 1, "t/a").got("s", 2, 1, "t/a").sent("p", 2, "t/a");
    worked.drained("s", 2).fails(Promise::P1, Breach::Lost, 2);
}

#[test]
fn pubrec_to_a_durable_publisher_is_not_yet_the_promise_and_pubcomp_is() {
    let begun = Script::new().durable("p", 1, false).transient("s", 1).subscribed("s", 1, "t/#");
    let received = begun.publish("p", 1, 1, "t/a", 2).acked("p", 1, 1, Stage::PubRec);
    let completed = received.clone();
    received.drained("s", 1).passes();
    let completed = completed.acked("p", 1, 1, Stage::PubComp).drained("s", 1);
    completed.fails(Promise::P2, Breach::Lost, 1);
}

#[test]
fn a_pubcomp_on_another_connection_is_that_of_the_message() {
    Script::new()
        .durable("p", 1, false)
        .transient("s", 1)
        .subscribed("s", 1, "t/#")
        .publish("p", 1, 1, "t/a", 2)
        .acked("p", 1, 1, Stage::PubRec)
        .lost("p", 1)
        .durable("p", 2, true)
        .acked("p", 2, 1, Stage::PubComp)
        .drained("s", 1)
        .fails(Promise::P2, Breach::Lost, 1);
}

#[test]
fn a_qos_2_message_comes_once() {
    let once = || pair().sent_once("p", 1, "t/a").came("s", 1, 1, ("t/a", 2, false));
    once().released("s", 1, 1).drained("s", 1).passes();
    // Again under the same identifier before PUBREL: the handshake goes on.
    once().came("s", 1, 1, ("t/a", 2, false)).released("s", 1, 1).passes();
    let again = once().released("s", 1, 1).came("s", 1, 1, ("t/a", 2, false));
    again.fails(Promise::P2, Breach::Twice, 1);
}

#[test]
fn a_qos_2_message_under_another_identifier_came_twice() {
    let topic = || "t/a".into();
    let second = zwerm_oracle::What::Delivered {
        message: 1,
        topic: topic(),
        qos: 2,
        retain: false,
        dup: true,
        packet_id: Some(9),
    };
    let once = pair().sent_once("p", 1, "t/a").came("s", 1, 1, ("t/a", 2, false));
    once.event("s", 1, second).fails(Promise::P2, Breach::Twice, 1);
}

#[test]
fn a_qos_1_message_may_come_twice() {
    pair().sent("p", 1, "t/a").got("s", 1, 1, "t/a").got("s", 1, 1, "t/a").drained("s", 1).passes();
}

#[test]
fn a_message_that_overtakes_breaks_the_order() {
    let sent = || pair().sent("p", 1, "t/a").sent("p", 2, "t/a");
    sent().got("s", 1, 2, "t/a").got("s", 1, 1, "t/a").fails(Promise::P9, Breach::Reordered, 1);
    let repeated = sent().got("s", 1, 1, "t/a").got("s", 1, 2, "t/a").got("s", 1, 1, "t/a");
    repeated.passes();
}

#[test]
fn what_a_publisher_sends_again_may_come_late_to_who_did_not_want_it_meanwhile() {
    let away = || pair().unsubscribe("s", 1, "t/#").publish("p", 1, 1, "t/a", 1).subscribed("s", 1, "t/#");
    away().sent("p", 2, "t/a").got("s", 1, 2, "t/a").got("s", 1, 1, "t/a").passes();
    let late = pair().publish("p", 1, 1, "t/a", 1).sent("p", 2, "t/a").got("s", 1, 2, "t/a");
    let late = late.unsubscribe("s", 1, "t/#").subscribed("s", 1, "t/#").got("s", 1, 1, "t/a");
    late.fails(Promise::P9, Breach::Reordered, 1);
}

#[test]
fn other_topics_and_other_publishers_may_overtake() {
    let sent = pair().transient("q", 1).sent("p", 1, "t/a").sent("p", 2, "t/b").sent("q", 3, "t/a");
    sent.got("s", 1, 3, "t/a").got("s", 1, 2, "t/b").got("s", 1, 1, "t/a").drained("s", 1).passes();
}

fn group() -> Script {
    let one = Script::new().transient("p", 1).transient("a", 1).subscribed("a", 1, "$share/g/t/#");
    one.transient("b", 1).subscribed("b", 1, "$share/g/t/#")
}

#[test]
fn one_member_of_a_group_gets_a_message() {
    group().sent("p", 1, "t/a").got("b", 1, 1, "t/a").drained("a", 1).drained("b", 1).passes();
    let nobody = group().sent("p", 1, "t/a").drained("a", 1).drained("b", 1);
    nobody.fails(Promise::P1, Breach::Lost, 1);
}

#[test]
fn a_transient_member_that_is_gone_with_its_node_may_have_had_the_message() {
    group().sent("p", 1, "t/a").lost("b", 1).drained("a", 1).passes();
}

#[test]
fn what_a_member_left_that_said_farewell_goes_to_another() {
    let farewell = |script: Script| script.left("b", 1);
    farewell(group().sent("p", 1, "t/a")).drained("a", 1).fails(Promise::P1, Breach::Lost, 1);
    farewell(group().sent("p", 1, "t/a")).got("a", 1, 1, "t/a").drained("a", 1).passes();
    // It may have been sent it, and then nobody else may be.
    farewell(group().sent_once("p", 1, "t/a")).drained("a", 1).passes();
}

#[test]
fn what_an_ended_durable_session_held_goes_to_another_unless_it_may_have_been_sent_with_qos_2() {
    let one = Script::new().transient("p", 1).durable("a", 1, false).subscribed("a", 1, "$share/g/t/#");
    let both = one.transient("b", 1).subscribed("b", 1, "$share/g/t/#");
    let ended = |script: Script| script.transient("a", 2).drained("b", 1);
    ended(both.clone().sent("p", 1, "t/a").lost("a", 1)).fails(Promise::P1, Breach::Lost, 1);
    ended(both.clone().sent_once("p", 1, "t/a").lost("a", 1)).passes();
    ended(both.lost("a", 1).sent_once("p", 1, "t/a")).fails(Promise::P2, Breach::Lost, 1);
}

#[test]
fn a_durable_member_that_is_away_may_hold_the_message() {
    let one = Script::new().transient("p", 1).durable("a", 1, false).subscribed("a", 1, "$share/g/t/#");
    let both = one.transient("b", 1).subscribed("b", 1, "$share/g/t/#");
    both.sent("p", 1, "t/a").lost("a", 1).drained("b", 1).passes();
}

#[test]
fn a_qos_2_message_goes_to_one_member_whatever_becomes_of_it() {
    let one = Script::new().transient("p", 1).durable("a", 1, false).subscribed("a", 1, "$share/g/t/#");
    let both = one.transient("b", 1).subscribed("b", 1, "$share/g/t/#");
    let first = || both.clone().sent_once("p", 1, "t/a").came("a", 1, 1, ("t/a", 2, false));
    let twice = first().lost("a", 1).came("b", 1, 1, ("t/a", 2, false)).drained("b", 1);
    twice.fails(Promise::P2, Breach::Twice, 1);
    // Also when its session has ended (MQTT-4.8.2-5).
    let first = group().sent_once("p", 1, "t/a").came("a", 1, 1, ("t/a", 2, false)).lost("a", 1);
    first.came("b", 1, 1, ("t/a", 2, false)).drained("b", 1).fails(Promise::P2, Breach::Twice, 1);
}

#[test]
fn a_message_under_another_topic_is_forged() {
    pair().sent("p", 1, "t/a").got("s", 1, 1, "t/b").fails(Promise::P1, Breach::Forged, 1);
}

#[test]
fn a_message_that_nobody_published_is_forged() {
    pair().got("s", 1, 7, "t/a").fails(Promise::P1, Breach::Forged, 7);
}
