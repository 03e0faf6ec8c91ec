//! The zwerm program.
fn main() {}
