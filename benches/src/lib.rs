//! What is measured with several processes: `zwerm bench` on a cluster that is started for it, and the comparison
//! with other brokers.
//!
//! The load itself is the crate `zwerm-bench`; nodes are started by the harness of `zwerm-tests`. The programs are
//! in `src/bin/`, the micro benchmarks in `benches/`. Start at [`compare`].

pub mod compare;
mod nothing;

pub use nothing::Nothing;
