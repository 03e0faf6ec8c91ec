//! What is reported, and how long it takes.

use std::time::{Duration, Instant};

use zwerm_oracle::{Breach, Rules, check};

use crate::script::Script;

#[test]
fn a_report_counts_and_a_verdict_shows_its_events() {
    let script = Script::new().transient("p", 1).transient("s", 1).subscribed("s", 1, "t").sent("p", 1, "t");
    let script = script.sent("p", 2, "t").got("s", 1, 2, "t").drained("s", 1);
    let report = check(&script.history, &Rules::default());
    assert_eq!((report.counts.published, report.counts.acknowledged, report.counts.delivered), (2, 2, 1));
    assert_eq!((report.count(Breach::Lost), report.count(Breach::Twice)), (1, 0));
    let shown = report.verdicts[0].render(&script.history, 3);
    assert!(shown.starts_with("P4 Lost: 1 to t (QoS 1) was acknowledged to p"), "{shown}");
    assert!(shown.contains("> [6]") && shown.contains("p#1  Publish { message: 1"), "{shown}");
}

#[test]
fn a_hundred_thousand_messages_to_ten_subscribers_take_seconds_at_most() {
    let names: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
    let mut script = Script::new().transient("p", 1);
    for name in &names {
        script = script.transient(name, 1).subscribed(name, 1, "t/+");
    }
    for message in 1..=100_000 {
        let topic = format!("t/{}", message % 50);
        script = script.sent("p", message, &topic);
        for name in &names {
            script = script.got(name, 1, message, &topic);
        }
    }
    for name in &names {
        script = script.drained(name, 1);
    }
    let began = Instant::now();
    script.passes();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
