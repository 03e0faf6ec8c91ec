//! What a run found, as text and as JSON.
//!
//! Knows no load. Start at [`Report`].

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The outcome of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The subcommand.
    pub scenario: &'static str,
    /// What was asked for, in words.
    pub load: String,
    /// What became of the messages; `None` where there were none.
    pub messages: Option<Messages>,
    /// The parts of the run, in order.
    pub phases: Vec<Phase>,
    /// Processes of the broker, if they are known.
    pub brokers: Vec<Broker>,
    /// Resident memory of the brokers that a connection takes, all together.
    pub bytes_per_connection: Option<u64>,
    /// Whether messages out of order break a promise: not in a shared subscription.
    #[serde(skip)]
    pub ordered: bool,
}

/// What became of the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Messages {
    /// With which quality of service they were published and subscribed to.
    pub qos: u8,
    /// Bytes of each payload.
    pub size: u32,
    /// Messages sent.
    pub published: u64,
    /// Deliveries that they should have led to.
    pub expected: u64,
    /// Deliveries, repeats not counted.
    pub delivered: u64,
    /// Deliveries that did not come.
    pub lost: u64,
    /// Deliveries that came again.
    pub repeated: u64,
    /// Deliveries after a later message of the same publisher.
    pub out_of_order: u64,
    /// Deliveries of what nobody of this run sent.
    pub strange: u64,
}

/// A part of a run that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// What was done: `deliver`, `connect`, ...
    pub name: &'static str,
    /// What was counted: `deliveries`, `connections`, ...
    pub unit: &'static str,
    /// How many.
    pub count: u64,
    /// How long it took.
    pub seconds: f64,
    /// How many a second.
    pub per_second: f64,
    /// User and system time of the brokers, all together.
    pub cpu_seconds: Option<f64>,
    /// The same for a million of what was counted.
    pub cpu_seconds_per_million: Option<f64>,
    /// Resident memory of the brokers, all together, that each of what was counted takes, in bytes.
    pub bytes_each: Option<u64>,
    /// How long each took.
    pub latency: Option<Latency>,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(missing_docs, reason = "the names are the percentiles")]
pub struct Latency {
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// A process of the broker.
#[derive(Debug, Clone, Serialize)]
pub struct Broker {
    /// Its id.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
    /// User and system time from the begin to the end of the run.
    pub cpu_seconds: f64,
    /// Resident memory before the run, in bytes.
    pub resident_before: u64,
    /// Resident memory at its end, in bytes.
    pub resident: u64,
    /// The most that it ever had, in bytes.
    pub resident_peak: u64,
}

impl Latency {
    /// Of a histogram in microseconds; `None` when it is empty.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        (!histogram.is_empty()).then(|| Self {
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        })
    }
}

impl Phase {
    /// `count` things in a time, at a cost.
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    pub(crate) fn new(
        (name, unit): (&'static str, &'static str),
        count: u64,
        time: Duration,
        cpu: Option<Duration>,
        latency: &Histogram<u64>,
    ) -> Self {
        let seconds = time.as_secs_f64();
        let cpu_seconds = cpu.map(|cpu| cpu.as_secs_f64());
        Self {
            name,
            unit,
            count,
            seconds,
            per_second: if seconds > 0.0 { count as f64 / seconds } else { 0.0 },
            cpu_seconds,
            cpu_seconds_per_million: cpu_seconds.filter(|_| count > 0).map(|cpu| cpu * 1e6 / count as f64),
            bytes_each: None,
            latency: Latency::of(latency),
        }
    }

    /// The same with the memory that it took: resident before, and after.
    pub(crate) fn with_memory(self, before: Option<u64>, after: Option<u64>) -> Self {
        let grown = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        Self { bytes_each: grown.and_then(|bytes| bytes.checked_div(self.count)), ..self }
    }
}

impl Report {
    /// The phase of this name.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// Promises of MQTT that were not kept, in words.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        let Some(messages) = self.messages else { return Vec::new() };
        let broken = [
            (messages.qos > 0, messages.lost, "lost"),
            (messages.qos == 2, messages.repeated, "delivered twice"),
            (messages.qos > 0 && self.ordered, messages.out_of_order, "out of order"),
            (true, messages.strange, "nobody's"),
        ];
        let broken = broken.into_iter().filter(|(promised, count, _)| *promised && *count > 0);
        broken.map(|(_, count, what)| format!("messages {what}: {count} (QoS {})", messages.qos)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.scenario, self.load)?;
        for phase in &self.phases {
            write!(
                f,
                "{:<10} {} {} in {:.2} s: {:.0}/s",
                phase.name, phase.count, phase.unit, phase.seconds, phase.per_second
            )?;
            if let (Some(cpu), Some(each)) = (phase.cpu_seconds, phase.cpu_seconds_per_million) {
                write!(f, "; broker cpu {cpu:.2} s, {each:.3} s per million")?;
            }
            if let Some(bytes) = phase.bytes_each {
                write!(f, ", {bytes} bytes each")?;
            }
            writeln!(f)?;
            if let Some(latency) = phase.latency {
                let Latency { mean, p50, p90, p99, p999, max } = latency;
                writeln!(
                    f,
                    "           latency us: mean {mean:.0}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}"
                )?;
            }
        }
        if let Some(messages) = self.messages {
            let Messages { published, expected, delivered, lost, repeated, out_of_order, strange, .. } =
                messages;
            writeln!(
                f,
                "published  {published}; delivered {delivered} of {expected}: lost {lost}, repeated {repeated}, out of order {out_of_order}"
            )?;
            if strange > 0 {
                writeln!(f, "           {strange} messages of nobody in this run")?;
            }
        }
        for broker in &self.brokers {
            let Broker { pid, name, cpu_seconds, resident_before, resident, resident_peak } = broker;
            writeln!(
                f,
                "broker     {name} (process {pid}): cpu {cpu_seconds:.2} s, resident {:.1} MiB, before {:.1}, at most {:.1}",
                mib(*resident),
                mib(*resident_before),
                mib(*resident_peak)
            )?;
        }
        if let Some(bytes) = self.bytes_per_connection {
            writeln!(f, "memory     {bytes} bytes of the broker for each connection")?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with one decimal")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(messages: Messages, ordered: bool) -> Report {
        Report {
            scenario: "pub-sub",
            load: "one pair".to_owned(),
            messages: Some(messages),
            phases: Vec::new(),
            brokers: Vec::new(),
            bytes_per_connection: None,
            ordered,
        }
    }

    #[test]
    fn what_each_qos_promises_is_held_against_the_counts() {
        let bad = Messages { lost: 1, repeated: 2, out_of_order: 3, ..Messages::default() };
        let broken = |qos, ordered| report(Messages { qos, ..bad }, ordered).broken().len();
        assert_eq!([broken(0, true), broken(1, true), broken(2, true)], [0, 2, 3]);
        assert_eq!([broken(1, false), broken(2, false)], [1, 2]);
        assert!(report(Messages { qos: 2, ..Messages::default() }, true).broken().is_empty());
    }

    #[test]
    fn a_phase_says_rate_and_cost() {
        let mut latency = Histogram::new_with_bounds(1, 1_000, 3).unwrap();
        latency.record(7).unwrap();
        let time = Duration::from_secs(2);
        let phase =
            Phase::new(("deliver", "deliveries"), 1_000, time, Some(Duration::from_millis(500)), &latency);
        assert!((phase.per_second - 500.0).abs() < 1e-9);
        assert!((phase.cpu_seconds_per_million.unwrap() - 500.0).abs() < 1e-9);
        assert_eq!(phase.latency.unwrap().p50, 7);
        let phase = phase.with_memory(Some(5_000), Some(12_000));
        assert_eq!(phase.bytes_each, Some(7));
        let mut report = report(Messages { lost: 1, ..Messages::default() }, true);
        report.phases.push(phase);
        let text = report.to_string();
        for part in
            ["1000 deliveries in 2.00 s: 500/s", "500.000 s per million, 7 bytes each", "p99 7", "lost 1"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn nothing_counted_costs_nothing() {
        let latency = Histogram::new_with_bounds(1, 1_000, 3).unwrap();
        let phase = Phase::new(("deliver", "deliveries"), 0, Duration::ZERO, Some(Duration::ZERO), &latency);
        assert!(phase.latency.is_none() && phase.cpu_seconds_per_million.is_none());
        assert!(phase.with_memory(Some(0), Some(7)).bytes_each.is_none());
        let phase = Phase::new(("deliver", "deliveries"), 0, Duration::ZERO, None, &latency);
        assert!(phase.per_second.abs() < 1e-9);
    }
}
