//! The bounds of buckets that gRPC recommends.

/// Of times, in seconds (gRFC A66).
pub(crate) const LATENCY: &[f64] = &[
    0.0, 0.000_01, 0.000_05, 0.000_1, 0.000_3, 0.000_6, 0.000_8, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01,
    0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8,
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// Of sizes, in bytes (gRFC A66).
pub(crate) const SIZE: &[f64] = &[
    0.0,
    1024.0,
    2048.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

/// Of retries and hedges of a call (gRFC A96).
pub(crate) const RETRIES: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0];

/// Of transparent retries of a call (gRFC A96).
pub(crate) const TRANSPARENT_RETRIES: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0];
