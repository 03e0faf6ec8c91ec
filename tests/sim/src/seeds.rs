//! Many seeds, each in a process of its own, some at the same time.
//!
//! Start at [`run`].

use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context as _;

/// Reads `0..200`.
///
/// # Errors
/// It is not of this form.
pub(crate) fn parse(text: &str) -> anyhow::Result<Range<u64>> {
    let (first, end) = text.split_once("..").context("seeds are given as FIRST..END")?;
    Ok(first.parse()?..end.parse()?)
}

/// Runs seeds until one fails; says whether none did.
///
/// # Errors
/// A process cannot be started.
pub(crate) fn run(seeds: Range<u64>, jobs: Option<usize>, options: &[String]) -> anyhow::Result<bool> {
    let jobs = jobs.or_else(|| thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let began = Instant::now();
    let worker = || -> anyhow::Result<()> {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let output = spawn(seed, options)?.wait_with_output()?;
            print!("{}", String::from_utf8_lossy(&output.stdout));
            if !output.status.success() {
                eprint!("{}", String::from_utf8_lossy(&output.stderr));
                println!("seed {seed} failed ({})", output.status);
                failed.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked")).and_then(|result| result)
        })
    })?;
    let failed = failed.load(Ordering::Relaxed);
    println!(
        "{} seeds in {:.1} s: {}",
        next.load(Ordering::Relaxed).min(seeds.end) - seeds.start,
        began.elapsed().as_secs_f64(),
        if failed { "FAILED" } else { "passed" }
    );
    Ok(!failed)
}

fn spawn(seed: u64, options: &[String]) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string()]).args(options);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("a seed's process cannot be started")
}
