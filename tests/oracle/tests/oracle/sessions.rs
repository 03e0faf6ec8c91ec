//! Sessions themselves: Session Present says what is there.

use zwerm_oracle::{Breach, Promise};

use crate::script::Script;

#[test]
fn a_durable_session_that_is_gone_is_a_loss() {
    let gone = Script::new().durable("s", 1, false).lost("s", 1).durable("s", 2, false);
    gone.fails(Promise::P1, Breach::Session, None);
}

#[test]
fn a_session_may_be_gone_when_it_expired() {
    let begun = || Script::new().connect("s", 1, false, 5).connack("s", 1, false).lost("s", 1);
    begun().wait(6).connect("s", 2, false, 5).connack("s", 2, false).passes();
    let early = begun().wait(1).connect("s", 2, false, 5).connack("s", 2, false);
    early.fails(Promise::P1, Breach::Session, None);
}

#[test]
fn a_clean_start_finds_no_session() {
    let clean =
        Script::new().durable("s", 1, false).lost("s", 1).connect("s", 2, true, 0).connack("s", 2, true);
    clean.fails(Promise::P4, Breach::Session, None);
}

#[test]
fn a_session_that_nobody_made_is_not_there() {
    Script::new().connect("s", 1, false, 0).connack("s", 1, true).fails(Promise::P4, Breach::Session, None);
    let transient =
        Script::new().transient("s", 1).lost("s", 1).connect("s", 2, false, 0).connack("s", 2, true);
    transient.fails(Promise::P4, Breach::Session, None);
}

#[test]
fn a_connect_without_an_answer_may_have_made_or_ended_a_session() {
    let made = Script::new().connect("s", 1, false, 60).lost("s", 1);
    made.durable("s", 2, true).passes();
    let ended = Script::new().durable("s", 1, false).lost("s", 1).connect("s", 2, true, 0).lost("s", 2);
    ended.durable("s", 3, false).passes();
}

#[test]
fn what_a_clean_start_ended_is_owed_nothing() {
    Script::new()
        .transient("p", 1)
        .durable("s", 1, false)
        .subscribed("s", 1, "t")
        .lost("s", 1)
        .sent("p", 1, "t")
        .connect("s", 2, true, 60)
        .connack("s", 2, false)
        .drained("s", 2)
        .passes();
}
