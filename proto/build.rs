fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["helloworld.proto", "grpc_testing.proto", "bench.proto"];
    files.iter().for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let descriptors = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    // Payloads without a copy: tests send gigabytes of them.
    tonic_prost_build::configure()
        .file_descriptor_set_path(descriptors)
        .bytes(".grpc.testing")
        .bytes(".bench")
        .compile_protos(&files, &["."])?;
    Ok(())
}
