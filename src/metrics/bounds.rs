//! PURE: the bounds of buckets that gRPC recommends.
//!
//! All values are whole numbers: sizes, counts, and times in nanoseconds. Integers are compared, because a call looks for the bucket
//! of its duration. Users get the bounds in the unit of the instrument.

/// The bounds of the buckets of a histogram, in ascending order. Each belongs to its bucket.
#[derive(Debug, PartialEq)]
pub(crate) struct Bounds {
    /// In the unit of the instrument.
    pub(crate) values: &'static [f64],
    whole: &'static [u64],
    /// The first bound that is not below the smallest number with so many bits.
    first: [u8; 65],
}

impl Bounds {
    /// Of an instrument that is no histogram.
    pub(crate) const NONE: &'static Self = &Self::new(&[], &[]);

    const fn new(values: &'static [f64], whole: &'static [u64]) -> Self {
        let mut first = [0; 65];
        let (mut bits, mut index) = (1, 0);
        while bits < first.len() {
            while index < whole.len() && whole[index] < 1 << (bits - 1) {
                index += 1;
            }
            first[bits] = index as u8; // no list is that long
            bits += 1;
        }
        Self { values, whole, first }
    }

    /// Returns the index of the bucket of a value.
    #[inline]
    pub(crate) fn bucket_of(&self, value: u64) -> usize {
        let bits = u64::BITS - value.leading_zeros();
        let mut bucket = usize::from(self.first[bits as usize]); // at most 64
        // A few steps: between a power of two and the next one there are at most four bounds.
        while self.whole.get(bucket).is_some_and(|bound| *bound < value) {
            bucket += 1;
        }
        bucket
    }
}

/// Whole numbers in a unit that has so many parts.
const fn in_units<const N: usize>(whole: &[u64; N], parts: f64) -> [f64; N] {
    let mut values = [0.0; N];
    let mut index = 0;
    while index < N {
        values[index] = whole[index] as f64 / parts;
        index += 1;
    }
    values
}

/// Nanoseconds.
#[rustfmt::skip]
const TIMES: [u64; 41] = [
    0, 10_000, 50_000, 100_000, 300_000, 600_000, 800_000,
    1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 8_000_000,
    10_000_000, 13_000_000, 16_000_000, 20_000_000, 25_000_000, 30_000_000, 40_000_000, 50_000_000, 65_000_000, 80_000_000,
    100_000_000, 130_000_000, 160_000_000, 200_000_000, 250_000_000, 300_000_000, 400_000_000, 500_000_000, 650_000_000, 800_000_000,
    1_000_000_000, 2_000_000_000, 5_000_000_000, 10_000_000_000, 20_000_000_000, 50_000_000_000, 100_000_000_000,
];

/// Of times, in seconds (gRFC A66).
pub(crate) static LATENCY: Bounds = Bounds::new(&in_units(&TIMES, 1e9), &TIMES);

const BYTES: [u64; 14] = [
    0,
    1024,
    2048,
    4096,
    16_384,
    65_536,
    262_144,
    1_048_576,
    4_194_304,
    16_777_216,
    67_108_864,
    268_435_456,
    1_073_741_824,
    4_294_967_296,
];

/// Of sizes, in bytes (gRFC A66).
pub(crate) static SIZE: Bounds = Bounds::new(&in_units(&BYTES, 1.0), &BYTES);

/// Of retries and hedges of a call (gRFC A96).
pub(crate) static RETRIES: Bounds = Bounds::new(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1, 2, 3, 4, 5]);

/// Of transparent retries of a call (gRFC A96).
pub(crate) static TRANSPARENT_RETRIES: Bounds = Bounds::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 10.0], &[1, 2, 3, 4, 5, 10]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_grpc_recommends() {
        #[rustfmt::skip]
        let recommended = [
            0.0, 0.000_01, 0.000_05, 0.000_1, 0.000_3, 0.000_6, 0.000_8, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01,
            0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8,
            1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
        ];
        assert_eq!(LATENCY.values, recommended);
    }

    /// A recorder sorts the values in the unit of the instrument into the same buckets.
    #[test]
    fn a_bucket_is_the_first_whose_bound_is_not_below_the_value() {
        for (bounds, parts) in [(&LATENCY, 1e9), (&SIZE, 1.0), (&RETRIES, 1.0), (&TRANSPARENT_RETRIES, 1.0)] {
            let around = bounds.whole.iter().flat_map(|bound| [bound.saturating_sub(1), *bound, bound + 1]);
            let powers = (0..64).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1]);
            for value in around.chain(powers).chain([u64::MAX]) {
                let unit = value as f64 / parts;
                let expected = bounds.values.iter().position(|bound| unit <= *bound).unwrap_or(bounds.values.len());
                assert_eq!(bounds.bucket_of(value), expected, "{value}");
            }
        }
    }
}
