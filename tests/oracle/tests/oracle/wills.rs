//! P6: wills fire once, when they are due and only then.

use zwerm_oracle::{Breach, Promise};

use crate::script::Script;

/// A watcher `s` of `w`.
fn watched() -> Script {
    Script::new().transient("s", 1).subscribed("s", 1, "w")
}

#[test]
fn a_will_comes_when_the_connection_is_lost() {
    let lost = || watched().with_will("c", 1, (1, 0), 0).connack("c", 1, false).lost("c", 1);
    lost().got("s", 1, 1, "w").wait(60).drained("s", 1).passes();
    lost().wait(60).drained("s", 1).fails(Promise::P6, Breach::WillMissed, 1);
    // It may yet come.
    lost().wait(3).drained("s", 1).passes();
}

#[test]
fn a_will_comes_once() {
    let lost = watched().with_will("c", 1, (1, 0), 0).connack("c", 1, false).lost("c", 1);
    let second = zwerm_oracle::What::Delivered {
        message: 1,
        topic: "w".into(),
        qos: 1,
        retain: false,
        dup: false,
        packet_id: Some(2),
    };
    lost.got("s", 1, 1, "w").event("s", 1, second).fails(Promise::P6, Breach::WillTwice, 1);
}

#[test]
fn a_will_never_comes_after_disconnect() {
    let left = || watched().with_will("c", 1, (1, 0), 0).connack("c", 1, false).left("c", 1);
    left().wait(60).drained("s", 1).passes();
    left().got("s", 1, 1, "w").fails(Promise::P6, Breach::WillWrong, 1);
}

#[test]
fn a_client_that_is_back_in_time_keeps_its_will_back() {
    let back = || {
        let lost = watched().with_will("c", 1, (1, 30), 60).connack("c", 1, false).lost("c", 1).wait(5);
        lost.with_will("c", 2, (2, 30), 60).connack("c", 2, true)
    };
    back().wait(60).drained("s", 1).drained("c", 2).passes();
    back().got("s", 1, 1, "w").fails(Promise::P6, Breach::WillWrong, 1);
}

#[test]
fn a_client_that_comes_back_late_finds_its_will_gone_out() {
    let late = || {
        let lost = watched().with_will("c", 1, (1, 5), 600).connack("c", 1, false).lost("c", 1).wait(100);
        lost.with_will("c", 2, (2, 5), 600).connack("c", 2, true).wait(60)
    };
    late().drained("s", 1).drained("c", 2).fails(Promise::P6, Breach::WillMissed, 1);
    late().got("s", 1, 1, "w").drained("s", 1).drained("c", 2).passes();
}

#[test]
fn the_will_of_a_client_that_is_connected_does_not_come() {
    let connected = watched().with_will("c", 1, (1, 0), 0).connack("c", 1, false).got("s", 1, 1, "w");
    connected.drained("c", 1).fails(Promise::P6, Breach::WillWrong, 1);
}

#[test]
fn a_will_without_delay_comes_also_when_its_client_takes_over() {
    let again = watched().with_will("c", 1, (1, 0), 60).connack("c", 1, false).with_will("c", 2, (2, 0), 60);
    let again = again.connack("c", 2, true).lost("c", 1).wait(60);
    again.drained("s", 1).drained("c", 2).fails(Promise::P6, Breach::WillMissed, 1);
}

#[test]
fn the_will_of_a_connect_without_an_answer_may_come_or_not() {
    let lost = || watched().with_will("c", 1, (1, 0), 0).lost("c", 1);
    lost().wait(60).drained("s", 1).passes();
    lost().got("s", 1, 1, "w").wait(60).drained("s", 1).passes();
}
