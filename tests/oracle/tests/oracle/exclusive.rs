//! Exclusive subscriptions have one holder at a time.

use zwerm_oracle::{Breach, Granted, Promise, What};

use crate::script::Script;

const FILTER: &str = "$exclusive/t/+";

/// Two clients that were both granted it; then a message.
fn both() -> Script {
    let begun = Script::new().transient("p", 1).transient("a", 1).subscribed("a", 1, FILTER);
    begun.transient("b", 1).subscribed("b", 1, FILTER).wait(1).publish("p", 1, 7, "t/1", 0)
}

#[test]
fn a_message_for_the_first_holder_after_the_second_was_granted_is_a_breach() {
    let served = both().came("b", 1, 7, ("t/1", 0, false)).came("a", 1, 7, ("t/1", 0, false));
    served.fails(Promise::P3, Breach::TwoHolders, 7);
}

#[test]
fn a_first_holder_that_gets_nothing_any_more_holds_nothing() {
    both().came("b", 1, 7, ("t/1", 0, false)).lost("a", 1).passes();
}

#[test]
fn what_another_subscription_brings_is_no_breach() {
    let begun = Script::new().transient("p", 1).transient("a", 1).subscribed("a", 1, FILTER);
    let both = begun.subscribed("a", 1, "t/#").transient("b", 1).subscribed("b", 1, FILTER);
    both.wait(1).publish("p", 1, 7, "t/1", 0).came("a", 1, 7, ("t/1", 0, false)).passes();
}

#[test]
fn one_after_the_other_is_right_and_the_holder_must_get_what_is_acknowledged() {
    let begun = Script::new().transient("p", 1).transient("a", 1).subscribed("a", 1, FILTER);
    let begun = begun.sent("p", 1, "t/1").got("a", 1, 1, "t/1").unsubscribe("a", 1, FILTER);
    let next = begun.durable("b", 1, false).subscribed("b", 1, FILTER).sent("p", 2, "t/2");
    next.clone().got("b", 1, 2, "t/2").drained("b", 1).passes();
    next.drained("b", 1).fails(Promise::P4, Breach::Lost, 2);
}

#[test]
fn who_was_refused_is_owed_nothing() {
    let begun = Script::new().transient("p", 1).transient("a", 1).subscribed("a", 1, FILTER);
    let granted = vec![Granted::Refused];
    let refused = begun.transient("b", 1).subscribe("b", 1, FILTER);
    let refused = refused.event("b", 1, What::SubAck { packet_id: 1, granted });
    refused.sent("p", 1, "t/1").got("a", 1, 1, "t/1").drained("a", 1).drained("b", 1).passes();
}
