//! Compiles the crate with its fuzz targets.

fn main() {
    println!("cargo::rustc-cfg=tonic_etcd_fuzzing");
    println!("cargo::rerun-if-changed=build.rs");
}
