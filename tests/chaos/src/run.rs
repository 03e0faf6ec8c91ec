//! A run from its beginning to its verdict: cluster, load, faults, rest, oracle, report.
//!
//! Start at [`run`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use zwerm_oracle::{History, Rules, What, check};
use zwerm_tests::{Surroundings, zwerm_binary};

use crate::Arguments;
use crate::cluster::{Cluster, GLANCE};
use crate::fault::{Deck, Kind};
use crate::load::{self, Size};
use crate::measure::measure;
use crate::nemesis::{Schedule, rage};
use crate::plan::Plan;
use crate::report::{Course, Report};
use crate::scoreboard;
use crate::world::{Phase, Placed, World};

/// What an old connection may still bring after a newer one was acknowledged: how long this program may need to
/// read what had reached the machine before.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// How long after it is due a will may come.
const WILL_PATIENCE: Duration = Duration::from_secs(15);
/// How long everything rests at least before the history is closed: the wills of the last moment must be missed
/// with certainty if they are missed.
const REST: Duration = WILL_PATIENCE.saturating_add(Duration::from_secs(load::LONGEST_DELAY as u64 + 2));
/// And how long at most.
const DRAINING: Duration = Duration::from_secs(120);
/// Nobody has received anything for so long: drained.
const QUIET: Duration = Duration::from_secs(3);
/// How long clients may take to leave.
const LEAVING: Duration = Duration::from_secs(20);
/// A fault lasts at most this share of the time to the next.
const LONGEST: f64 = 0.55;

/// Runs; whether every promise held.
///
/// # Errors
/// When the cluster does not start or does not recover, or a result cannot be written.
pub(crate) async fn run(arguments: &Arguments) -> Result<bool> {
    let binary = zwerm_binary()?;
    let surroundings = Surroundings::look();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("zwerm-chaos: {} s, a fault every {} s, --seed {seed}", arguments.seconds, arguments.every);
    println!("{} ({}, commit {})", binary.display(), surroundings.profile, surroundings.commit);
    let temporary = TempDir::with_prefix("zwerm-chaos-")?;
    let dir = arguments.keep.as_deref().unwrap_or(temporary.path());
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let is_empty = fs::read_dir(dir)?.next().is_none();
    ensure!(is_empty, "{} is not empty: a run needs nodes without a past", dir.display());
    let dir = dir.canonicalize()?;

    let plan = arguments.plan;
    let disk = (plan == Plan::Faults).then_some(arguments.disk);
    let mut cluster = Cluster::start(&binary, &dir, plan.shape(), disk).await?;
    let outcome = course(arguments, &mut cluster, seed).await;
    let (course, history, placed) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            cluster.show_logs();
            return Err(error);
        }
    };
    if arguments.keep.is_some() {
        write_history(&dir.join("history.txt"), &history, &placed)?;
    }
    let rules = Rules { under_way: UNDER_WAY, will_patience: WILL_PATIENCE, ..Rules::default() };
    let verdicts = check(&history, &rules);
    let report = Report::new(surroundings, &course, &history, &verdicts);
    print!("{report}");
    for verdict in verdicts.verdicts.iter().take(5) {
        println!("\n{}", verdict.render(&history, 12));
    }
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = &arguments.scoreboard {
        scoreboard::update(path, &report)?;
    }
    if !report.held() {
        cluster.show_logs();
    }
    Ok(report.held())
}

/// Load and faults, until everything has come to rest.
async fn course(
    arguments: &Arguments,
    cluster: &mut Cluster,
    seed: u64,
) -> Result<(Course, History, Vec<Placed>)> {
    let plan = arguments.plan;
    let world = Rc::new(World::new(cluster.addresses(), plan.first(), seed));
    let pace = Duration::from_millis(arguments.pace.max(1));
    let mut clients = load::spawn(&world, plan.first(), Size { pace, followers: arguments.followers });
    let every = Duration::from_secs(arguments.every);
    let kinds = match (arguments.calm, arguments.only.is_empty()) {
        (true, _) => Vec::new(),
        // What is measured most is dealt twice.
        (false, true) => Kind::value_variants().iter().copied().chain([Kind::Kill]).collect(),
        (false, false) => arguments.only.clone(),
    };
    let incidents = match plan.steps(Duration::from_secs(arguments.cut)) {
        Some(steps) => rage(cluster, &world, steps, Schedule { every, until: None }).await?,
        None => {
            let deck = Deck::new(seed, kinds, plan.first(), every.mul_f64(LONGEST));
            let until = Some(Duration::from_secs(arguments.seconds));
            rage(cluster, &world, deck, Schedule { every, until }).await?
        }
    };
    let end = world.now();

    world.begin(Phase::Settle);
    println!("{:8.1} s  all healed; coming to rest", end.as_secs_f64());
    let mut notes = come_to_rest(cluster, &world).await;
    let drained = world.now().saturating_sub(end);
    world.drained();
    let (history, placed) = world.take_history();
    world.begin(Phase::Over);
    // They have been judged: a client that does not get away is dropped with its connection.
    timeout(LEAVING, async {
        while let Some(client) = clients.join_next().await {
            notes.extend(client.err().map(|error| format!("a client ended badly: {error}")));
        }
    })
    .await
    .ok();
    notes.extend(cluster.panics());
    let effects = measure(history.events(), &placed, &incidents, end);
    let course = Course {
        seed,
        seconds: arguments.seconds,
        every: arguments.every,
        incidents: incidents.into_iter().zip(effects).collect(),
        rest: drained,
        notes,
        endings: world.endings(),
    };
    Ok((course, history, placed))
}

/// Waits until every client has finished and nobody receives anything any more; says what stood in the way.
async fn come_to_rest(cluster: &mut Cluster, world: &World) -> Vec<String> {
    let begin = Instant::now();
    let mut notes = Vec::new();
    loop {
        notes.extend(cluster.revive());
        let (finished, quiet) = world.rest();
        if finished && quiet >= QUIET && begin.elapsed() >= REST {
            return notes;
        }
        if begin.elapsed() >= DRAINING {
            let what = if finished { "messages still came" } else { "clients had not finished" };
            notes.push(format!("not at rest after {} s: {what}", DRAINING.as_secs()));
            return notes;
        }
        sleep(GLANCE).await;
    }
}

/// Every event, and after a CONNECT to which node it went.
fn write_history(path: &Path, history: &History, placed: &[Placed]) -> Result<()> {
    let nodes: HashMap<_, _> = placed.iter().map(|it| ((&it.client, it.connection), it.node)).collect();
    let mut file = BufWriter::new(File::create(path)?);
    for (place, event) in history.events().iter().enumerate() {
        write!(file, "[{place}] {event}")?;
        match nodes.get(&(&event.client, event.connection)) {
            Some(node) if matches!(event.what, What::Connect { .. }) => writeln!(file, " to node {node}")?,
            _ => writeln!(file)?,
        }
    }
    Ok(file.flush()?)
}
