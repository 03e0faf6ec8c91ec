//! `zwerm ctl backup`: has a node take a backup of the cluster, keeps it as a file, checks it; checks one that is there.
//!
//! The file has its name only when it is whole and on the disk; before, it is `FILE.partial`. Start at [`run`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use zwerm_cluster::Summary;

use super::{Chosen, Target};
use crate::archive::{check, to_json, to_text};
use crate::http::{Download, download};
use crate::status::{print, print_json};

const BACKUP: &str = "\
Examples:
  zwerm ctl backup cluster.zwermbak              through the first node of `zwerm up` that answers
  zwerm ctl backup /backup/$(date +%F).zwermbak --http http://10.0.0.1:8080 --token-file /etc/zwerm/token
  zwerm ctl backup verify cluster.zwermbak       is it whole, and what is in it?

One file has everything that the cluster keeps, of one moment: durable sessions with their queues, QoS 2 messages under
way, retained and delayed messages, wills. What was acknowledged before is in it. Publishing goes on; all shards hold still
for a moment. While it is taken, nodes keep on their disks what is acknowledged meanwhile. The file is checked before it
gets its name. Files of users, certificates and configurations are not in it. `zwerm restore` begins a new cluster with it.";

const VERIFY: &str = "\
Examples:
  zwerm ctl backup verify cluster.zwermbak
  zwerm ctl backup verify cluster.zwermbak --json | jq .sessions

Asks no node. Every checksum is compared, every state read, and every message that one names must be there.";

/// The node takes its time to bring all shards to rest, and waits this long for others.
const STALL: Duration = Duration::from_secs(90);
/// How often the progress is told.
const REPORT: Duration = Duration::from_secs(2);

/// Arguments of `zwerm ctl backup`.
#[derive(Debug, Args)]
#[command(after_help = BACKUP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verify: Option<Command>,
    /// File that the backup becomes; must not be there yet
    #[arg(required = true)]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a backup and say what is in it
    #[command(after_help = VERIFY)]
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
struct VerifyArguments {
    /// The backup
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { verify, file, target } = arguments;
    match (verify, file) {
        (Some(Command::Verify(VerifyArguments { file, json })), _) => tell(&file, json),
        (None, Some(file)) => take(&target, &file).await,
        // clap asks for one of both
        (None, None) => bail!("name a file"),
    }
}

/// Checks a file and says what is in it.
fn tell(file: &Path, json: bool) -> anyhow::Result<()> {
    show(file, &check(file)?, json)
}

fn show(file: &Path, summary: &Summary, json: bool) -> anyhow::Result<()> {
    if json { print_json(&to_json(file, summary)) } else { print(&to_text(file, summary)) }
}

async fn take(target: &Target, file: &Path) -> anyhow::Result<()> {
    if file.exists() {
        bail!("{} is there already; give another name, or move it away", file.display());
    }
    let (node, _) = target.any().await?;
    let partial = Partial::create(file)?;
    partial.fill(&node, target.json).await?;
    let summary = check(&partial.path).context("the backup that was taken is not whole")?;
    partial.finish(file)?;
    show(file, &summary, target.json)
}

/// A file that is being written. Dropped unfinished, it is deleted.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Whoever reads it reads every message: it is for its owner only.
    fn create(file: &Path) -> anyhow::Result<Self> {
        let mut name = file.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let made = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
        let file = made.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    /// Takes the archive from a node; it is on the disk when this returns.
    async fn fill(&self, node: &Chosen, quiet: bool) -> anyhow::Result<()> {
        let (mut bytes, began) = (0_u64, Instant::now());
        let mut told = began;
        let mut file = &self.file;
        let write = |piece: hyper::body::Bytes| {
            file.write_all(&piece)?;
            bytes += piece.len() as u64;
            if told.elapsed() >= REPORT && !quiet {
                told = Instant::now();
                // progress is a courtesy
                writeln!(io::stderr(), "{} MiB after {} s", bytes >> 20, began.elapsed().as_secs()).ok();
            }
            Ok(())
        };
        let path = "/api/v1/cluster/backup";
        match download(&node.address, path, node.token.as_deref(), STALL, write).await? {
            Download::Whole => Ok(self.file.sync_all()?),
            Download::Refused(code, answer) => Err(node.refusal(code, &answer)),
        }
    }

    /// Gives the file its name, durably.
    fn finish(self, name: &Path) -> anyhow::Result<()> {
        let action = || format!("cannot rename {} to {}", self.path.display(), name.display());
        fs::rename(&self.path, name).with_context(action)?;
        let dir = name.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).with_context(action)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // after it was given its name there is none
        fs::remove_file(&self.path).ok();
    }
}
