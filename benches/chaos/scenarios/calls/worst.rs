//! The worst of several variants.

/// Keeps the worst value that it has seen, and whose it was.
#[derive(Debug)]
pub(super) struct Worst {
    most: bool,
    value: Option<f64>,
    of: String,
}

impl Worst {
    /// The higher, the worse.
    pub(super) fn most() -> Self {
        Self { most: true, value: None, of: String::new() }
    }

    /// The lower, the worse.
    pub(super) fn least() -> Self {
        Self { most: false, value: None, of: String::new() }
    }

    /// What is no number is worst of all.
    pub(super) fn see(&mut self, value: f64, of: &str) {
        let worse = self.value.is_none_or(|worst| if self.most { value > worst } else { value < worst });
        if worse || value.is_nan() {
            (self.value, self.of) = (Some(value), of.to_owned());
        }
    }

    /// Says whose it was as well; not a number where none was seen.
    pub(super) fn tell(&self, what: &str) -> f64 {
        let value = self.value.unwrap_or(f64::NAN);
        eprintln!("  {what}: {value:.2} with {}", self.of);
        value
    }
}
