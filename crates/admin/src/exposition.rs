//! The Prometheus text format, version 0.0.4, written from counters that live elsewhere.
//!
//! Sets the `zwerm_` prefix and the `_total` suffix so that no caller can forget them, and writes each
//! family's HELP and TYPE once. It knows no metric by name. Label values must come from a closed set: no
//! client ids, no topics. Start at [`Exposition::counter`].

use std::fmt::Write as _;

/// A page of metrics under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// A histogram as its owner counted it.
#[derive(Debug, Clone, Copy)]
pub struct Buckets<'a> {
    /// Upper bound and number of observations in that bucket alone (not cumulative), bounds rising.
    pub counts: &'a [(f64, u64)],
    /// Observations above the last bound.
    pub above: u64,
    /// Sum of all observed values.
    pub sum: f64,
}

impl Exposition {
    /// An empty page.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter without labels. `name` without `zwerm_` and `_total`, with its unit: `received_bytes`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [([], value)]);
    }

    /// A counter with one sample per set of labels.
    pub fn counters<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], u64)>,
    ) {
        let name = format!("zwerm_{name}_total");
        self.family(&name, help, "counter");
        for (labels, value) in samples {
            self.sample(&name, &labels, &value);
        }
    }

    /// A gauge without labels. `name` without `zwerm_`, with its unit.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [([], value)]);
    }

    /// A gauge with one sample per set of labels.
    pub fn gauges<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], f64)>,
    ) {
        let name = format!("zwerm_{name}");
        self.family(&name, help, "gauge");
        for (labels, value) in samples {
            self.sample(&name, &labels, &value);
        }
    }

    /// A histogram without labels. `name` without `zwerm_`, with its unit.
    pub fn histogram(&mut self, name: &str, help: &str, buckets: Buckets<'_>) {
        let name = format!("zwerm_{name}");
        self.family(&name, help, "histogram");
        let bucket = format!("{name}_bucket");
        let mut seen = 0_u64;
        for (bound, count) in buckets.counts {
            seen += count;
            self.sample(&bucket, &[("le", &bound.to_string())], &seen);
        }
        seen += buckets.above;
        self.sample(&bucket, &[("le", "+Inf")], &seen);
        self.sample(&format!("{name}_sum"), &[], &buckets.sum);
        self.sample(&format!("{name}_count"), &[], &seen);
    }

    /// The finished page.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn family(&mut self, name: &str, help: &str, kind: &str) {
        debug_assert!(is_metric_name(name), "{name} is no metric name");
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &dyn std::fmt::Display) {
        if labels.is_empty() {
            return self.line(format_args!("{name} {value}"));
        }
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // writing to a String cannot fail
        if self.text.write_fmt(line).is_ok() {
            self.text.push('\n');
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn is_metric_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_described_once_and_then_sampled() {
        let mut page = Exposition::new();
        page.counter("received_bytes", "bytes from clients", 7);
        page.counters(
            "dropped_messages",
            "given up",
            [([("reason", "full")], 1), ([("reason", "expired")], 2)],
        );
        page.gauge("connections", "now", 3.0);
        assert_eq!(
            page.finish(),
            "# HELP zwerm_received_bytes_total bytes from clients\n\
             # TYPE zwerm_received_bytes_total counter\n\
             zwerm_received_bytes_total 7\n\
             # HELP zwerm_dropped_messages_total given up\n\
             # TYPE zwerm_dropped_messages_total counter\n\
             zwerm_dropped_messages_total{reason=\"full\"} 1\n\
             zwerm_dropped_messages_total{reason=\"expired\"} 2\n\
             # HELP zwerm_connections now\n\
             # TYPE zwerm_connections gauge\n\
             zwerm_connections 3\n"
        );
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_in_infinity() {
        let mut page = Exposition::new();
        page.histogram("sync_seconds", "s", Buckets { counts: &[(0.001, 2), (0.5, 3)], above: 1, sum: 4.25 });
        assert_eq!(
            page.finish(),
            "# HELP zwerm_sync_seconds s\n\
             # TYPE zwerm_sync_seconds histogram\n\
             zwerm_sync_seconds_bucket{le=\"0.001\"} 2\n\
             zwerm_sync_seconds_bucket{le=\"0.5\"} 5\n\
             zwerm_sync_seconds_bucket{le=\"+Inf\"} 6\n\
             zwerm_sync_seconds_sum 4.25\n\
             zwerm_sync_seconds_count 6\n"
        );
    }

    #[test]
    fn labels_and_help_are_escaped() {
        let mut page = Exposition::new();
        page.gauges("info", "two\nlines \\", [([("name", "a\"b\\c\nd")], 1.0)]);
        assert_eq!(
            page.finish(),
            "# HELP zwerm_info two\\nlines \\\\\n# TYPE zwerm_info gauge\nzwerm_info{name=\"a\\\"b\\\\c\\nd\"} 1\n"
        );
    }
}
