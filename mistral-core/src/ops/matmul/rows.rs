//! How many rows of the input pass over weights together.
//!
//! Each has sixteen sums a panel: six rows fill twelve of AVX2's sixteen registers, twelve rows and
//! two panels 24 of AVX-512's 32. Every number here is compiled apart, for its sums stay in registers
//! only where it is known.

use crate::simd::Simd;

/// Whether a level has registers for the sums of twelve rows and two panels.
pub(super) const fn is_wide<S: Simd>() -> bool {
    S::SUMS >= 24
}

/// Most rows that pass over weights together.
pub(super) const fn most_rows<S: Simd>() -> usize {
    if is_wide::<S>() { 12 } else { S::SUMS }
}

/// How many of `left` rows pass over weights together next: one of the numbers that [`with_rows`]
/// knows.
#[inline(always)]
pub(super) fn row_group<S: Simd>(_simd: S, left: usize) -> usize {
    if is_wide::<S>() {
        match left {
            ..=4 => left,
            5..8 => 4,
            // Eight chains keep the multipliers busy, four do not.
            8..12 | 16 => 8,
            _ => 12,
        }
    } else {
        even_share(left, S::SUMS)
    }
}

/// How many of `left` rows to take next, at most `most`, so that all shares are of nearly one size:
/// 8 rows are 4 and 4, not 6 and 2.
#[inline(always)]
pub(super) fn even_share(left: usize, most: usize) -> usize {
    // Divisions are slow, and this stands in inner loops.
    match left {
        _ if left <= most => left,
        _ if left <= 2 * most => left.div_ceil(2),
        // So many rows are enough for full shares, whatever is left of them.
        _ if left > (most - 1) * (most - 1) => most,
        _ => left.div_ceil(left.div_ceil(most)),
    }
}

/// `with_rows!(wide, n, R => work)`: does `work` with the constant `R` for the `n` that [`row_group`]
/// gave. `wide`: whether twelve or eight rows may go together, and not six or five.
macro_rules! with_rows {
    ($is_wide:expr, $n:expr, $R:ident => $work:expr) => {
        with_rows!($is_wide, $n, $R => $work, [12 8], [6 5], [4 3 2])
    };
    ($is_wide:expr, $n:expr, $R:ident => $work:expr, [$($wide:literal)*], [$($narrow:literal)*], [$($any:literal)*]) => {
        match $n {
            $($wide if $is_wide => {
                const $R: usize = $wide;
                $work
            })*
            $($narrow if !$is_wide => {
                const $R: usize = $narrow;
                $work
            })*
            $($any => {
                const $R: usize = $any;
                $work
            })*
            _ => {
                const $R: usize = 1;
                $work
            }
        }
    };
}
pub(super) use with_rows;

/// As [`with_rows`], for numbers that are at most four, or twelve or eight if `wide`.
macro_rules! with_few_rows {
    ($is_wide:expr, $n:expr, $R:ident => $work:expr) => {
        with_rows!($is_wide, $n, $R => $work, [12 8], [], [4 3 2])
    };
}
pub(super) use with_few_rows;
