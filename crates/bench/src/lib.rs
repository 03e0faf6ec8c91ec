//! `zwerm bench`: load on any MQTT broker, and the proof of what came of it.
//!
//! Every message says who sent it, as which of his messages, and when; so loss, duplicates, order and latency are
//! counted, not guessed. It knows MQTT 3.1.1 by the crate mqttbytes and nothing of zwerm: a broker must not be
//! measured with its own codec on both ends. Packets are encoded once and patched (`packet`), connections are
//! tasks of few threads (`connection`), so that the broker is what is slow.
//!
//! Start at [`run`]; the kinds of load are in `scenarios`, what a message proves is in `tally`.

mod arguments;
mod board;
mod connection;
mod pace;
mod packet;
mod process;
mod publisher;
mod report;
mod scenarios;
mod stamp;
mod subscriber;
mod tally;

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::{Builder, Runtime};

pub use arguments::{Arguments, Common, Scenario};
pub use process::{cpu_seconds, peak_resident_bytes, raise_open_files, resident_bytes};
pub use report::{Latency, Messages, Phase, Report};

/// Runs one scenario and prints its report: text, or JSON with `--json`.
///
/// # Errors
/// When the broker cannot be reached or ends a connection, and when messages of QoS 1 or 2 were lost, came out
/// of order, or at QoS 2 twice; the report is printed before.
pub fn run(arguments: &Arguments) -> Result<()> {
    let report = measure(arguments)?;
    let text = if arguments.common.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        json
    } else {
        report.to_string()
    };
    io::stdout().write_all(text.as_bytes()).context("writing the report")?;
    let broken = report.broken();
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

/// Runs one scenario on threads of its own.
///
/// # Errors
/// When the broker cannot be reached or ends a connection. Lost messages are no error here: see
/// [`Report::broken`].
pub fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = runtime(arguments.common.threads)?;
    let report = runtime.block_on(scenarios::measure(&arguments.scenario, &arguments.common));
    runtime.shutdown_background();
    report
}

fn runtime(threads: usize) -> Result<Runtime> {
    let built = if threads <= 1 {
        Builder::new_current_thread().enable_all().build()
    } else {
        Builder::new_multi_thread().worker_threads(threads).enable_all().build()
    };
    built.context("starting the threads of the load")
}
