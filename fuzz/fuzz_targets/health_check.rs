#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tonic_etcd::fuzzing::run("health_check", bytes));
