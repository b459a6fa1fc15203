//! How sixteen positions of one head are stored, and what attention does with them.
//!
//! Keys of consecutive positions lie in *panels* of sixteen, values in *columns* of sixteen
//! elements:
//!
//! ```text
//! keys     a vector for each d            values   a vector for each position
//!              position 0 1 .. 15           column 0       d = 0 1 .. 15
//!     d = 0             a e                     position 0     a b
//!     d = 1             b f                     position 1     e f
//!      ..                                        ..
//!     d = 0    position 16 17 .. 31         column 1       d = 16 17 .. 31
//!      ..                                       position 0     q r
//! ```
//!
//! Scores of sixteen positions are then sixteen sums over `d` side by side, and sixteen outputs
//! are sums over positions side by side: SIMD runs across results, never along a sum. And a query
//! reads all of it front to back, as memory likes it best.

use std::fmt::Debug;
use std::ops::Range;

use super::KvFormat;
use crate::simd::{Integers, LANES, Level};
use crate::tile::Sums;

/// Positions in a panel.
pub const PANEL: usize = LANES;

/// Positions in a block: the unit over which attention takes a softmax of its own.
///
/// Block `b` holds the positions `b * BLOCK .. (b + 1) * BLOCK`. The number is part of the
/// arithmetic of attention: changing it changes bits.
pub const BLOCK: usize = 128;

pub(super) mod sealed {
    pub trait Sealed {}
}

/// A format of keys and values, as a type: `f32`, [`struct@half::f16`], [`struct@half::bf16`] or
/// [`Int8`](super::Int8). Sealed.
///
/// The functions without documentation of use to callers belong to the kernels; panels are bytes
/// in them, on borders of 32.
pub trait KvElement:
    sealed::Sealed + Copy + Default + PartialEq + Debug + Send + Sync + 'static
{
    /// The same format as a value.
    const FORMAT: KvFormat;

    /// What many queries read a block as: widened once, where that pays.
    #[doc(hidden)]
    type Wide: KvElement;

    /// Bytes of the keys of sixteen positions of one head; a multiple of 32.
    fn key_panel_bytes(head_dim: usize) -> usize;

    /// Bytes of the values of sixteen positions of one head; a multiple of 32.
    fn value_panel_bytes(head_dim: usize) -> usize;

    /// Rounds a key into a lane of a panel.
    #[doc(hidden)]
    fn write_key(panel: &mut [u8], lane: usize, key: &[f32]);

    /// Rounds a value into a row.
    #[doc(hidden)]
    fn write_value(to: ValueRowsMut<'_>, row: usize, value: &[f32]);

    /// Widens a key.
    #[doc(hidden)]
    fn read_key(panel: &[u8], lane: usize, key: &mut [f32]);

    /// Widens a value.
    #[doc(hidden)]
    fn read_value(from: ValueRows<'_>, row: usize, value: &mut [f32]);

    /// Copies the key of a lane as it is.
    #[doc(hidden)]
    fn copy_key(to: (&mut [u8], usize), from: (&[u8], usize), head_dim: usize);

    /// Copies the values of `n` rows as they are.
    #[doc(hidden)]
    fn copy_values(
        to: (ValueRowsMut<'_>, usize),
        from: (ValueRows<'_>, usize),
        n: usize,
        head_dim: usize,
    );

    /// Puts a key that lies in one row into a lane, as it is.
    #[doc(hidden)]
    fn place_key(panel: &mut [u8], lane: usize, row: &[Self]);

    /// Puts sixteen keys, each of which lies in one row, into a panel, as they are.
    #[doc(hidden)]
    fn place_keys(level: Level, panel: &mut [u8], rows: [&[Self]; PANEL]);

    /// Puts a value that lies in one piece into a row, as it is.
    #[doc(hidden)]
    fn place_value(to: ValueRowsMut<'_>, row: usize, value: &[Self]);

    /// Widens one row.
    #[doc(hidden)]
    fn widen_row(row: &[Self], out: &mut [f32]);

    /// Brings the keys of a panel into the wide format. Must be `#[inline(always)]`.
    #[doc(hidden)]
    fn widen_keys<S: Integers>(simd: S, from: &[u8], to: &mut [u8]);

    /// Brings the values of sixteen positions, from row `.1` on, into the wide format. Must be
    /// `#[inline(always)]`.
    #[doc(hidden)]
    fn widen_values<S: Integers>(
        simd: S,
        from: (ValueRows<'_>, usize),
        to: (ValueRowsMut<'_>, usize),
    );

    /// Brings a scaled query into row `row`. Must be `#[inline(always)]`.
    #[doc(hidden)]
    fn load_query<S: Integers>(simd: S, queries: &mut Queries, row: usize);

    /// `scores[r][p] = query[first + r] . key[p]` for the sixteen keys of each panel. Must be
    /// `#[inline(always)]`.
    #[doc(hidden)]
    fn scores<S: Integers, const R: usize, const P: usize>(
        simd: S,
        queries: (&Queries, usize),
        panels: [&[u8]; P],
    ) -> Sums<S, R, P>;

    /// Hands `Σ_j p[r][j] value[j]` over the positions that row `r` sees to `sink`, for `P` columns
    /// of sixteen elements at a time. Must be `#[inline(always)]`.
    #[doc(hidden)]
    fn outputs<S: Integers, const R: usize, const P: usize>(
        simd: S,
        p: &[[f32; BLOCK]; R],
        seen: &Seen<R>,
        values: Values<'_>,
        sink: &mut impl OutputSink<S>,
    );
}

/// What is done with sums over values. A trait, because a closure cannot be made to be inlined.
#[doc(hidden)]
pub trait OutputSink<S: Integers> {
    /// Takes sixteen sums of a row. Must be `#[inline(always)]`.
    fn take(&mut self, row: usize, column: usize, sums: S::F32x16);
}

/// Queries of one head's group, scaled, as kernels want them.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Queries {
    head_dim: usize,
    /// `(rows, head_dim)`
    pub(super) floats: Vec<f32>,
    /// `(rows, blocks of 32, 16)`: two 16-bit integers each.
    pub(super) steps: Vec<[u8; 4]>,
    /// `(rows, blocks of 32)`
    pub(super) scales: Vec<f32>,
}

impl Queries {
    /// Makes room for at least `rows` rows; what was there may remain.
    pub fn reserve(&mut self, rows: usize, head_dim: usize, format: KvFormat) {
        self.head_dim = head_dim;
        self.floats.resize(self.floats.len().max(rows * head_dim), 0.0);
        if format == KvFormat::Int8 {
            let blocks = rows * head_dim.div_ceil(32);
            self.steps.resize(self.steps.len().max(blocks * 16), [0; 4]);
            self.scales.resize(self.scales.len().max(blocks), 0.0);
        }
    }

    /// Elements of a query.
    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Row `row`, to be filled before [`KvElement::load_query`].
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.floats[row * self.head_dim..][..self.head_dim]
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.floats[row * self.head_dim..][..self.head_dim]
    }
}

/// Values of one head: `rows` positions, column by column.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ValueRows<'a> {
    /// In the format's layout.
    pub bytes: &'a [u8],
    /// Positions that there is room for.
    pub rows: usize,
}

/// As [`ValueRows`], for writing.
#[doc(hidden)]
#[derive(Debug)]
pub struct ValueRowsMut<'a> {
    /// In the format's layout.
    pub bytes: &'a mut [u8],
    /// Positions that there is room for.
    pub rows: usize,
}

/// The values of a block.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// Where the values of each run of `positions` positions lie, and in which row the first of
    /// them; a run that nobody sees may be empty.
    pub runs: &'a [(ValueRows<'a>, usize)],
    /// Positions in a run: sixteen, or a whole block.
    pub positions: usize,
    /// `head_dim` in vectors, rounded up.
    pub width: usize,
}

/// Which positions of a block each of `R` rows sees, counted from its start.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Seen<const R: usize> {
    /// Those of each row.
    pub rows: [Range<usize>; R],
    /// From the first to the last that at least one row sees.
    pub any: Range<usize>,
    /// Those that every row sees; rows that see nothing don't count.
    pub all: Range<usize>,
}

impl<const R: usize> Seen<R> {
    /// `None` if no row sees anything.
    #[inline(always)]
    pub fn new(rows: [Range<usize>; R]) -> Option<Self> {
        let mut seeing = rows.iter().filter(|range| !range.is_empty());
        let first = seeing.next()?;
        let (mut any, mut all) = (first.clone(), first.clone());
        for row in seeing {
            any = any.start.min(row.start)..any.end.max(row.end);
            all = all.start.max(row.start)..all.end.min(row.end);
        }
        if all.is_empty() {
            all = 0..0;
        }
        Some(Self { rows, any, all })
    }

    /// Whether some row sees more than `all`.
    #[inline(always)]
    pub(super) fn is_ragged(&self) -> bool {
        self.any != self.all
    }
}
