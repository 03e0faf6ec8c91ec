//! The zwerm program; all of it is in the library of this crate.

use std::process::ExitCode;

/// Messages are allocated by one thread and freed by another all the time: glibc is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    zwerm_node::main()
}
