//! Compiles `manifest.proto` with protox (pure Rust), so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=manifest.proto");
    println!("cargo::rerun-if-changed=build.rs");
    let descriptors = protox::compile(["manifest.proto"], ["."])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
