//! Compiles proto/peer.proto and proto/archive.proto with protox: no `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = format!("{}/../../proto", std::env::var("CARGO_MANIFEST_DIR")?);
    for proto in ["peer.proto", "archive.proto"] {
        println!("cargo:rerun-if-changed={root}/{proto}");
    }
    let descriptors = protox::compile(["peer.proto", "archive.proto"], [&root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
