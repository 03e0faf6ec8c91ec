//! `zwerm restore`: the data directory of the first node of a new cluster, from a backup.
//!
//! Asks no node. The directory becomes a node's at the very end; a restore that fails leaves it empty. Start at [`run`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use zwerm_cluster::{Seed, Summary, restore};
use zwerm_store::{Engine, SledEngine, SyncMode};

use crate::archive::{check, open, to_json};
use crate::identity;
use crate::status::{print, print_json};

const EXAMPLES: &str = "\
Examples:
  zwerm restore cluster.zwermbak --data-dir /var/lib/zwerm
  zwerm restore cluster.zwermbak --data-dir node-1 && zwerm serve --data-dir node-1 --name node-1

The directory must be empty or missing. The new cluster has another id than the old one, as many shards, and one node;
start that, then empty nodes with it in their cluster.peers: they join, and get their part of the shards. Clients of the
old cluster count as gone: their wills fire, their durable sessions wait for them. How long sessions had left when the
backup was taken, they have from now on. The old nodes must not run any more where clients could reach them.";

/// Memory of the database's page cache while it is written.
const CACHE: u64 = 64 << 20;

/// Arguments of `zwerm restore`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The backup
    file: PathBuf,
    /// Data directory of the new node; empty or missing
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes the data directory.
///
/// # Errors
/// The file is no backup or not whole, the directory is not empty or cannot be written.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { file, data_dir, json } = arguments;
    // before anything is written
    check(file)?;
    let prepared = identity::prepare(data_dir)?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = Seed {
        node: identity::new_id(),
        cluster_id: format!("{:032x}", rand::random::<u128>()),
        now_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    };
    let summary = write(file, &seed, &prepared.database())?;
    prepared.finish(seed.node, &seed.cluster_id)?;
    if *json {
        let mut said = to_json(file, &summary);
        if let Some(said) = said.as_object_mut() {
            said.insert("data_dir".to_owned(), data_dir.display().to_string().into());
            said.insert("new_cluster_id".to_owned(), seed.cluster_id.into());
            said.insert("node".to_owned(), format!("{:016x}", seed.node).into());
        }
        return print_json(&said);
    }
    print(&format!(
        "{} has {} durable sessions, {} queued and {} retained messages of cluster {}\n\
         start `zwerm serve` with it: it is the first node of the new cluster {}, which other empty nodes join\n",
        data_dir.display(),
        summary.sessions,
        summary.queued,
        summary.retained,
        summary.cluster_id,
        seed.cluster_id,
    ))
}

/// The database is closed when this returns.
fn write(file: &Path, seed: &Seed, database: &Path) -> anyhow::Result<Summary> {
    let engine: Arc<dyn Engine> = Arc::new(SledEngine::open(database, CACHE, SyncMode::Fsync)?);
    restore(open(file)?, seed, &engine).with_context(|| file.display().to_string())
}
