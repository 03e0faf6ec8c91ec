//! What grows, what is measured at each size, and what theory expects of it. Start at [`SERIES`].

use crate::work::{Measure, Work};

/// Something that grows.
#[derive(Debug)]
pub struct Series {
    /// What it is; the title of its table.
    pub name: &'static str,
    /// Sizes, the smallest first.
    pub points: &'static [Point],
    /// Configuration of zwerm that it needs.
    pub settings: &'static [&'static str],
    /// What is done at each size.
    pub loads: &'static [Load],
}

/// A size.
#[derive(Debug)]
pub struct Point {
    /// The head of its column.
    pub name: &'static str,
    /// How much of what grows.
    pub size: u64,
    /// Nodes of the cluster.
    pub nodes: u16,
}

/// What is done at each size, with a cluster that was started for it.
#[derive(Debug)]
pub struct Load {
    /// What.
    pub doing: Doing,
    /// What is measured.
    pub figures: &'static [Figure],
}

/// What is done with a cluster.
#[derive(Debug, Clone, Copy)]
pub enum Doing {
    /// `zwerm bench` with the arguments for a size; publishers on the first node, subscribers on the second if there is one.
    Bench(fn(u64) -> String),
    /// Nothing for so many seconds.
    Idle(u64),
}

/// A line of a table.
#[derive(Debug)]
pub struct Figure {
    /// For people, with its unit.
    pub name: &'static str,
    /// The figure.
    pub measure: Measure,
    /// How it should grow, and why.
    pub theory: &'static str,
}

impl Series {
    /// The lines of its table: load and figure.
    pub fn figures(&self) -> impl Iterator<Item = (&'static Load, &'static Figure)> {
        let loads: &'static [Load] = self.loads;
        loads.iter().flat_map(|load| load.figures.iter().map(move |figure| (load, figure)))
    }
}

impl Load {
    /// The arguments of `zwerm bench` at a size; `None` where it does nothing.
    #[must_use]
    pub fn line(&self, point: &Point) -> Option<String> {
        match self.doing {
            Doing::Bench(line) => Some(line(point.size)),
            Doing::Idle(_) => None,
        }
    }

    /// For people: the same with the size as a word.
    #[must_use]
    pub fn description(&self, points: &[Point]) -> String {
        match (self.doing, points) {
            (Doing::Idle(seconds), _) => format!("none for {seconds} s"),
            (Doing::Bench(line), [first, .., last]) => {
                let (first, last) = (line(first.size), line(last.size));
                if first == last {
                    format!("`zwerm bench {last}`")
                } else {
                    format!("`zwerm bench {first}` to `{last}`")
                }
            }
            (Doing::Bench(line), points) => {
                points.iter().map(|point| format!("`zwerm bench {}`", line(point.size))).collect()
            }
        }
    }

    /// What a broker is asked to do, given [`line`](Self::line).
    pub(super) fn work<'a>(&self, line: Option<&'a str>) -> Work<'a> {
        match (self.doing, line) {
            (Doing::Idle(seconds), _) => Work::Idle(seconds),
            (Doing::Bench(_), line) => Work::Bench(line.unwrap_or_default()),
        }
    }
}

const fn point(name: &'static str, size: u64) -> Point {
    Point { name, size, nodes: 1 }
}

const fn nodes(name: &'static str, nodes: u16) -> Point {
    Point { name, size: nodes as u64, nodes }
}

const fn figure(name: &'static str, measure: Measure, theory: &'static str) -> Figure {
    Figure { name, measure, theory }
}

const CPU: Measure = Measure::CpuPerMillion("deliver");

/// Messages of a size that a publisher has under way: 4 MiB of them at most, and a few.
fn under_way(size: u64) -> u64 {
    ((4 << 20) / size).clamp(4, 100)
}

const THOUSAND_TO_MILLION: &[Point] = &[
    point("1,000", 1_000),
    point("10,000", 10_000),
    point("100,000", 100_000),
    point("1,000,000", 1_000_000),
];

/// All of them.
pub const SERIES: &[Series] = &[
    Series {
        name: "idle connections",
        points: &[point("1,000", 1_000), point("5,000", 5_000), point("15,000", 15_000)],
        // what comes at a pace costs more, for less of it goes together
        settings: &["limits.connect_rate=0"],
        loads: &[
            Load {
                doing: Doing::Bench(|size| format!("connect --connections {size}")),
                figures: &[
                    figure(
                        "CPU s per million connects",
                        Measure::CpuPerMillion("connect"),
                        "flat: a claim in a shard each",
                    ),
                    figure(
                        "bytes each",
                        Measure::BytesPerConnection,
                        "flat; what a node takes once is spread over more",
                    ),
                ],
            },
            Load {
                doing: Doing::Bench(|size| {
                    format!("pub-sub --pairs 10 -q 1 --seconds 3 --idle-connections {size}")
                }),
                figures: &[figure(
                    "CPU s per million deliveries, 10 pairs, QoS 1",
                    CPU,
                    "flat: who is idle is not looked at",
                )],
            },
        ],
    },
    Series {
        name: "filters",
        points: THOUSAND_TO_MILLION,
        settings: &[],
        loads: &[
            Load {
                doing: Doing::Bench(|size| format!("pub-sub --pairs 10 --seconds 3 --idle-filters {size}")),
                figures: &[
                    figure(
                        "CPU s per million filters subscribed",
                        Measure::CpuPerMillion("filters"),
                        "its logarithm: sorted maps; the snapshots of control are linear",
                    ),
                    figure(
                        "bytes each",
                        Measure::BytesEach("filters"),
                        "flat; what a node takes once is spread over more",
                    ),
                    figure(
                        "CPU s per million deliveries, 10 pairs, QoS 0",
                        CPU,
                        "flat: one lookup by topic, then cached",
                    ),
                ],
            },
            Load {
                doing: Doing::Bench(|size| {
                    format!("pub-sub --pairs 10 -q 1 --seconds 3 --idle-filters {size}")
                }),
                figures: &[figure("the same, QoS 1", CPU, "flat")],
            },
        ],
    },
    Series {
        name: "nodes",
        points: &[nodes("1", 1), nodes("3", 3), nodes("5", 5)],
        settings: &[],
        loads: &[
            Load {
                doing: Doing::Bench(|_| "pub-sub --pairs 10 --seconds 3".to_owned()),
                figures: &[figure(
                    "CPU s of all nodes per million deliveries, 10 pairs, QoS 0",
                    CPU,
                    "a step from 1 to 3 (a lane lies between), then flat",
                )],
            },
            Load {
                doing: Doing::Bench(|_| "pub-sub --pairs 10 -q 1 --seconds 3".to_owned()),
                figures: &[figure("the same, QoS 1", CPU, "the same step, then flat")],
            },
            Load {
                doing: Doing::Idle(5),
                figures: &[figure(
                    "% of a core, all nodes, idle",
                    Measure::IdlePercent,
                    "with replicas (17, 51, 53) and something for each node, not with nodes squared",
                )],
            },
        ],
    },
    Series {
        name: "bytes of a payload",
        points: &[
            point("16 B", 16),
            point("256 B", 256),
            point("4 KiB", 4 << 10),
            point("64 KiB", 64 << 10),
            point("1 MiB", 1 << 20),
        ],
        settings: &["mqtt.max_packet_size=2MiB"],
        loads: &[Load {
            doing: Doing::Bench(|size| {
                format!("pub-sub --pairs 2 -q 1 --seconds 3 --size {size} --inflight {}", under_way(size))
            }),
            figures: &[
                figure(
                    "CPU s per million deliveries",
                    CPU,
                    "flat while the message costs more than its bytes, then linear",
                ),
                figure(
                    "CPU s per GiB",
                    Measure::CpuPerGib("deliver"),
                    "falls to what copying through two sockets costs",
                ),
            ],
        }],
    },
    Series {
        name: "messages in a durable queue",
        points: THOUSAND_TO_MILLION,
        settings: &[],
        loads: &[Load {
            doing: Doing::Bench(|size| format!("durable --publishers 4 --messages {}", size / 4)),
            figures: &[
                figure(
                    "CPU s per million queued",
                    Measure::CpuPerMillion("queue"),
                    "flat or falling: batches grow to their bound",
                ),
                figure(
                    "CPU s per million taken",
                    Measure::CpuPerMillion("take"),
                    "flat: read in pages, from any place",
                ),
                figure(
                    "resident bytes each",
                    Measure::BytesEach("queue"),
                    "falls to a place in a list: what a node needs to write at all is spread over more",
                ),
            ],
        }],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    use super::*;
    use crate::work::load;

    #[test]
    fn every_line_can_be_run_and_every_table_and_figure_has_a_name_of_its_own() {
        let endpoints = [SocketAddr::from(([127, 0, 0, 1], 1))];
        for series in SERIES {
            assert!(series.points.is_sorted_by_key(|point| point.size), "{}", series.name);
            for (load_of, point) in
                series.loads.iter().flat_map(|load| series.points.iter().map(move |point| (load, point)))
            {
                if let Some(line) = load_of.line(point) {
                    load(&line, &endpoints, &[], false).unwrap();
                }
            }
            let figures: BTreeSet<&str> = series.figures().map(|(_, figure)| figure.name).collect();
            assert_eq!(figures.len(), series.figures().count(), "{}", series.name);
        }
        let names: BTreeSet<&str> = SERIES.iter().map(|series| series.name).collect();
        assert_eq!(names.len(), SERIES.len());
    }

    #[test]
    fn large_payloads_are_few_at_a_time() {
        assert_eq!([16, 4 << 10, 64 << 10, 1 << 20].map(under_way), [100, 100, 64, 4]);
    }
}
