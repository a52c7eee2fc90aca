//! The greeter, as volo's own generator writes it.

fn main() {
    let proto = std::path::PathBuf::from("../../../proto");
    println!("cargo:rerun-if-changed={}", proto.join("helloworld.proto").display());
    volo_build::Builder::protobuf()
        .add_service(proto.join("helloworld.proto"))
        .include_dirs(vec![proto])
        .write()
        .expect("volo's generator");
}
