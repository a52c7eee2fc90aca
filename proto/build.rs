fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=helloworld.proto");
    tonic_prost_build::configure().compile_protos(&["helloworld.proto"], &["."])?;
    Ok(())
}
