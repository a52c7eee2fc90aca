//! The bar that a measurement is held against.

use std::fmt;

/// What a measured value must be.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Bar {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Just this.
    Equal(f64),
}

impl Bar {
    /// Whether `value` reaches the bar. A value that is not a number reaches none.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bar) => value <= bar,
            Self::AtLeast(bar) => value >= bar,
            Self::Equal(bar) => (value - bar).abs() <= bar.abs() * 1e-9,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // In full: a rounded bar would be another one.
            Self::AtMost(bar) => write!(f, "≤ {bar}"),
            Self::AtLeast(bar) => write!(f, "≥ {bar}"),
            Self::Equal(bar) => write!(f, "= {bar}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Bar;

    #[test]
    fn bars() {
        assert!(Bar::AtMost(1.25).holds(1.25) && !Bar::AtMost(1.25).holds(1.26));
        assert!(Bar::AtLeast(2.0).holds(2.0) && !Bar::AtLeast(2.0).holds(1.9));
        assert!(Bar::Equal(0.0).holds(0.0) && !Bar::Equal(0.0).holds(1.0) && Bar::Equal(0.3).holds(0.1 + 0.2));
        assert!(!Bar::AtMost(1.0).holds(f64::NAN));
    }

    #[test]
    fn bars_are_shown_in_full() {
        assert_eq!(Bar::AtMost(1.255).to_string(), "≤ 1.255");
        assert_eq!(Bar::Equal(0.0).to_string(), "= 0");
    }
}
