//! P3: one owner per client id.

use zwerm_oracle::{Breach, Promise};

use crate::script::Script;

fn taken_over() -> Script {
    let begun = Script::new().transient("p", 1).transient("s", 1).subscribed("s", 1, "t");
    begun.transient("s", 2).publish("p", 1, 1, "t", 0)
}

#[test]
fn bytes_under_way_may_still_come_on_the_old_connection() {
    taken_over().came("s", 1, 1, ("t", 0, false)).lost("s", 1).passes();
}

#[test]
fn an_old_connection_that_goes_on_has_a_second_owner() {
    let late = taken_over().wait(1).came("s", 1, 1, ("t", 0, false));
    late.fails(Promise::P3, Breach::OldOwner, None);
}

#[test]
fn which_of_two_connections_that_begin_together_is_newer_nobody_knows() {
    Script::new()
        .connect("s", 1, true, 0)
        .connect("s", 2, true, 0)
        .connack("s", 2, false)
        .wait(1)
        .connack("s", 1, false)
        .subscribed("s", 1, "t")
        .passes();
}
