//! Compiles proto/records.proto without protoc: protox parses, prost-build generates.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked when it runs: what is compiled in would be a checkout that may be gone.
    let protos = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let records = protos.join("records.proto");
    println!("cargo:rerun-if-changed={}", records.display());
    let descriptors = protox::compile([&records], [&protos])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
