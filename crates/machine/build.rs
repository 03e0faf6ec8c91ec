//! Compiles proto/records.proto without protoc: protox parses, prost-build generates.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let records = protos.join("records.proto");
    println!("cargo:rerun-if-changed={}", records.display());
    let descriptors = protox::compile([&records], [&protos])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
