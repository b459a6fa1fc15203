//! Numbers on the command line: what is refused is told with what was expected.

use std::num::NonZeroUsize;

/// No number that can be meant.
#[derive(Debug, thiserror::Error)]
#[error("expected a number from {least} to {most}")]
pub(super) struct OutOfRange {
    least: u64,
    most: u64,
}

/// A number from 1 to `MOST`.
pub(super) fn count<const MOST: usize>(text: &str) -> Result<NonZeroUsize, OutOfRange> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= MOST);
    number.ok_or(OutOfRange { least: 1, most: MOST as u64 })
}

/// A number from 1 on.
pub(super) fn positive(text: &str) -> Result<NonZeroUsize, OutOfRange> {
    count::<{ usize::MAX }>(text)
}

/// A number from 0 to `MOST`.
pub(super) fn number_to<const MOST: usize>(text: &str) -> Result<usize, OutOfRange> {
    let number = text.parse().ok().filter(|number| *number <= MOST);
    number.ok_or(OutOfRange { least: 0, most: MOST as u64 })
}

/// A number from 0 on.
pub(super) fn number(text: &str) -> Result<usize, OutOfRange> {
    number_to::<{ usize::MAX }>(text)
}

/// A number of 64 bits.
pub(super) fn seed(text: &str) -> Result<u64, OutOfRange> {
    text.parse().map_err(|_| OutOfRange { least: 0, most: u64::MAX })
}
