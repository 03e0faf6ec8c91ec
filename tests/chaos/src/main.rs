//! Chaos: nodes as real processes, each in a network namespace of its own, a load of real MQTT clients
//! (rumqttc), faults at regular intervals, and at the end the oracle, which holds every acknowledgement against
//! every delivery.
//!
//! With `--pods` another thing is done to such nodes: they are pods of an emulated StatefulSet ([`pods`]).
//!
//! Knows nothing of the broker but its command line, its ports and MQTT. Where namespaces are not allowed it says
//! "skipped" and ends well. Exit codes: 0 all promises held, or skipped; 1 not. Start at [`main`], then
//! [`run::run`].

mod client;
mod cluster;
mod disk;
mod fault;
mod library;
mod load;
mod measure;
mod nemesis;
mod network;
mod node;
mod plan;
mod pods;
mod report;
mod run;
mod sandbox;
mod scoreboard;
mod spread;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::runtime::Builder;
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::fault::Kind;
use crate::network::Network;
use crate::plan::Plan;
use crate::sandbox::Place;

/// Breaks, grows and shrinks a cluster of real nodes under load and checks that no promise was broken.
#[derive(Debug, Parser)]
#[command(name = "zwerm-chaos", version)]
struct Arguments {
    /// How long the load and the faults last
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,
    /// From one fault to the next
    #[arg(long, default_value_t = 15, value_name = "SECONDS")]
    every: u64,
    /// Which faults come when; printed, so that a run can be repeated [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// What happens to the cluster; only faults are dealt, need a seed and last for some seconds
    #[arg(long, value_enum, default_value = "faults", value_name = "PLAN")]
    plan: Plan,
    /// How long a minority is cut off, where that is planned
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    cut: u64,
    /// Only faults of this kind; may be repeated [default: all]
    #[arg(long, value_enum, value_name = "KIND")]
    only: Vec<Kind>,
    /// Instead: emulates a Kubernetes StatefulSet, whose pods come back with other addresses, and scales it
    #[arg(long, conflicts_with_all = ["seconds", "every", "only", "calm", "json", "scoreboard"])]
    pods: bool,
    /// No faults at all: the load and the oracle alone
    #[arg(long, conflicts_with = "only")]
    calm: bool,
    /// Between two messages of one publisher
    #[arg(long, default_value_t = 50, value_name = "MILLISECONDS")]
    pace: u64,
    /// Durable subscribers that are there to be moved when their node is killed
    #[arg(long, default_value_t = 60, value_name = "NUMBER")]
    followers: u16,
    /// Size of the disk that can be full
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    disk: u32,
    /// Writes the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the result into the scoreboard document
    #[arg(long, value_name = "FILE")]
    scoreboard: Option<PathBuf>,
    /// Keeps the logs and data of the nodes, and the history, in this directory
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// Uses the zwerm that is there; otherwise cargo builds it first
    #[arg(long)]
    no_build: bool,
}

/// The program.
fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("zwerm-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if sandbox::is_outside() && !arguments.no_build {
        zwerm_tests::build_zwerm()?;
    }
    let runtime = || Builder::new_current_thread().enable_all().build().context("starting the runtime");
    match sandbox::enter()? {
        Place::Refused(why) => {
            println!("skipped: this machine allows no namespaces: {why}");
            Ok(ExitCode::SUCCESS)
        }
        Place::Probe => {
            runtime()?.block_on(async {
                let mut network = Network::build(1).await?;
                network.cut(1, network::CLIENTS).await?;
                network.heal().await
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Place::Inside => runtime()?.block_on(LocalSet::new().run_until(async {
            tokio::select! {
                held = scenario(&arguments) => Ok(if held? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
                interrupted = interrupted() => {
                    interrupted?;
                    println!("interrupted");
                    Ok(ExitCode::FAILURE)
                }
            }
        })),
    }
}

/// What was asked for; whether everything held.
async fn scenario(arguments: &Arguments) -> Result<bool> {
    if arguments.pods {
        let seed = arguments.seed.unwrap_or_else(rand::random);
        return pods::run(seed, arguments.keep.as_deref()).await.map(|()| true);
    }
    run::run(arguments).await
}

/// Ctrl-C, or SIGTERM: the first process of a namespace gets only the signals that it waits for.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = ctrl_c() => Ok(interrupted?),
        _ = terminate.recv() => Ok(()),
    }
}
