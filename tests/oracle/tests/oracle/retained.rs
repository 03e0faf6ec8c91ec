//! P5: retained reads see what was acknowledged before.

use zwerm_oracle::{Breach, Promise, Stage};

use crate::script::Script;

fn published() -> Script {
    Script::new().transient("p", 1).transient("s", 1).kept("p", 1, "r").kept("p", 2, "r")
}

#[test]
fn a_subscribe_sees_the_last_value() {
    let read = published().subscribed("s", 1, "r").came("s", 1, 2, ("r", 1, true));
    read.drained("s", 1).passes();
}

#[test]
fn a_subscribe_that_sees_nothing_missed_it() {
    published().subscribed("s", 1, "r").drained("s", 1).fails(Promise::P5, Breach::Stale, 2);
}

#[test]
fn an_older_value_is_stale_whether_or_not_the_newer_one_follows() {
    let old = || published().subscribed("s", 1, "r").came("s", 1, 1, ("r", 1, true));
    old().fails(Promise::P5, Breach::Stale, 1);
    old().came("s", 1, 2, ("r", 1, true)).drained("s", 1).fails(Promise::P5, Breach::Stale, 1);
}

#[test]
fn a_value_that_was_published_meanwhile_may_be_seen_or_not() {
    let open = || published().publish_kept("p", 1, 3, ("r", 1, true, false)).subscribed("s", 1, "r");
    open().came("s", 1, 2, ("r", 1, true)).drained("s", 1).passes();
    open().came("s", 1, 3, ("r", 1, true)).drained("s", 1).passes();
}

#[test]
fn a_live_value_counts_and_no_older_one_may_follow_it() {
    let open = published().subscribe("s", 1, "r").publish_kept("p", 1, 3, ("r", 1, true, false));
    let live = open.acked("p", 1, 3, Stage::PubAck);
    let granted = zwerm_oracle::What::SubAck { packet_id: 1, granted: vec![zwerm_oracle::Granted::QoS(2)] };
    let live = live.got("s", 1, 3, "r").event("s", 1, granted);
    let again = live.clone();
    live.drained("s", 1).passes();
    again.came("s", 1, 2, ("r", 1, true)).fails(Promise::P5, Breach::Stale, 2);
}

#[test]
fn a_deleted_value_is_not_missed_and_one_set_again_is() {
    let deleted =
        || published().publish_kept("p", 1, 3, ("r", 1, true, true)).acked("p", 1, 3, Stage::PubAck);
    deleted().subscribed("s", 1, "r").drained("s", 1).passes();
    let stale = deleted().subscribed("s", 1, "r").came("s", 1, 2, ("r", 1, true));
    stale.fails(Promise::P5, Breach::Stale, 2);
    let again = deleted().kept("p", 4, "r").subscribed("s", 1, "r").drained("s", 1);
    again.fails(Promise::P5, Breach::Stale, 4);
}
