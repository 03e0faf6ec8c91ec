//! The zwerm program; all of it but its allocator is in the library of this crate.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Messages are allocated by one thread and freed by another all the time: glibc is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the allocator keeps freed memory before the system gets it back, in milliseconds. It reads this from
/// the environment when the process begins; its default, a second, is 70 MiB more under load.
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "100");

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|command| command == "serve") {
        begin_with_purge_delay();
    }
    zwerm_node::main()
}

/// Begins the program anew (the same process) with the allocator's setting, unless it has one. To set it any other
/// way takes `unsafe`. Where it cannot be done, the node works with the default.
fn begin_with_purge_delay() {
    let (name, value) = PURGE_DELAY;
    if std::env::var_os(name).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let _error = Command::new(program).args(std::env::args_os().skip(1)).env(name, value).exec();
    }
}
