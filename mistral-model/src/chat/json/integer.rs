//! Integers of any size.

use std::fmt;

/// A whole number as its decimal digits, so that none is too large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integer(Box<str>);

impl Integer {
    /// From digits as JSON allows them: perhaps a minus, no zero in front of others.
    pub(in crate::chat) fn from_digits(digits: &str) -> Self {
        // Python has no negative zero among its integers.
        Self(if digits == "-0" { "0" } else { digits }.into())
    }

    /// The number, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.0.starts_with('-')
    }
}

impl From<i64> for Integer {
    fn from(value: i64) -> Self {
        Self(value.to_string().into())
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
