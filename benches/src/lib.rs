//! What is measured with several processes: `zwerm bench` on a cluster that is started for it, the comparison with
//! other brokers, and how zwerm's costs grow.
//!
//! The load itself is the crate `zwerm-bench`; nodes are started by the harness of `zwerm-tests`. `broker` and `started`
//! run a broker with settings that are equal, `work` is one measurement. The programs are in `src/bin/`, the micro
//! benchmarks in `benches/`. Start at [`compare`] and [`growth`].

pub mod broker;
pub mod compare;
mod figures;
pub mod growth;
mod heading;
mod nothing;
pub mod options;
mod started;
pub mod work;

pub use nothing::Nothing;
