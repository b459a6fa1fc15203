//! What a block-quantised format gives the matmul: its tiles and the codes in them.
//!
//! ```text
//! out[o] = Σ over blocks: x_scale * (scale[o] * Σ over groups: factor[o] * dot[o]
//!                                    - min[o] * Σ over groups: minimum[o] * sum)
//! dot[o] = Σ_k (code[o][k] - offset) * x_code[k]
//! sum    = Σ_k x_code[k]
//! ```
//!
//! Factors, and in formats with minima those, are small integers; formats whose blocks are one group
//! have neither. The sums over `k` are exact in integers, for which the inputs of a block are rounded
//! too: to 8 bits where codes have 4 and in `w8a8`, to 16 bits elsewhere. (One scale for a whole row
//! would lose the small inputs of rows with outliers: ten times the error.) The sums over groups and
//! over blocks are chains of fused multiply-adds in rising order. So neither the SIMD level nor the
//! number of rows changes a bit.

use super::Block;
use super::width::Width;
use crate::simd::{Integers, LANES, Simd};

/// Bytes of one step: the codes of sixteen outputs for four inputs (bytes) or two (words).
pub(crate) const STEP: usize = 64;

/// Most steps in a tile.
pub(crate) const MAX_STEPS: usize = 128;

/// Most groups in a tile.
pub(crate) const MAX_GROUPS: usize = 16;

/// What the sums of a tile's groups are multiplied with, for sixteen outputs.
#[derive(Clone, Copy)]
pub(crate) struct Scales<S: Simd> {
    /// The factor of a block.
    pub(crate) scale: S::F32x16,
    /// That of its minima, negated, of formats that have some.
    pub(crate) minimum: S::F32x16,
    /// Integer factors of each group, of formats whose tiles have several: signed bytes.
    pub(crate) scales: [[u8; LANES]; MAX_GROUPS],
    /// Integer minima of each group.
    pub(crate) minima: [[u8; LANES]; MAX_GROUPS],
}

impl<S: Simd> Scales<S> {
    /// Room for those of a tile.
    #[inline(always)]
    pub(crate) fn room(simd: S) -> Self {
        let (none, factors) = (simd.splat(0.0), [[0; LANES]; MAX_GROUPS]);
        Self { scale: none, minimum: none, scales: factors, minima: factors }
    }
}

/// What is done with the codes of a group. A trait and not a closure, because a closure cannot be
/// made to be inlined always, and where it is not, no instruction of the level is used.
pub(crate) trait CodeSink<C> {
    /// Takes the codes of step `step`. Must be `#[inline(always)]`.
    fn take(&mut self, step: usize, codes: C);
}

/// The kernel's layout of a format: *tiles* of sixteen rows by one block of inputs.
///
/// A panel of sixteen rows is its tiles in order, from the first block of the rows to the last.
pub(crate) trait Tile: Copy + Send + Sync + 'static {
    /// The same weights, row by row, as files hold them.
    type Block: Block;
    /// How the codes meet the inputs.
    type Width: Width;
    /// Bytes of a tile.
    const BYTES: usize;
    /// Inputs whose products are added in integers.
    const GROUP: usize;
    /// Largest magnitude of a rounded input.
    const LARGEST: f32 = Self::Width::LARGEST;
    /// What is taken off each code.
    const OFFSET: i32;
    /// Steps in which the minima of a block's groups meet the sums of its inputs; 0 where weights have
    /// no minimum.
    const MINIMA: usize = 0;

    /// Interleaves one block of each of sixteen rows.
    fn pack(rows: &[Self::Block; LANES], tile: &mut [u8]);

    /// The block of row `lane`, as it was packed.
    fn unpack(tile: &[u8], lane: usize) -> Self::Block;

    /// Hands every step of a group to `sink`, in order.
    fn codes<S: Integers>(
        simd: S,
        tile: &[u8],
        group: usize,
        sink: &mut impl CodeSink<<Self::Width as Width>::Codes<S>>,
    );

    /// All codes, if they lie in the tile as [`Width::load`] takes them.
    #[inline(always)]
    fn ready(tile: &[u8]) -> Option<&[[u8; STEP]]> {
        let _ = tile;
        None
    }

    /// Writes what the sums are multiplied with.
    fn scales<S: Integers>(simd: S, tile: &[u8], scales: &mut Scales<S>);

    /// The minima of one step for each output: two words, the first in the lower half.
    #[inline(always)]
    fn minima(minima: &[[u8; LANES]; MAX_GROUPS], step: usize) -> [u32; LANES] {
        let _ = (minima, step);
        [0; LANES]
    }

    /// The words that meet them, of the sums of each group's inputs.
    #[inline(always)]
    fn input_sums(sums: &[i32], step: usize) -> [i32; 2] {
        let _ = (sums, step);
        [0; 2]
    }
}

/// Groups in a tile.
pub(crate) const fn groups<T: Tile>() -> usize {
    T::Block::WEIGHTS / T::GROUP
}

/// Whether a block has several groups with factors of their own.
pub(crate) const fn has_factors<T: Tile>() -> bool {
    groups::<T>() > 1
}

/// Steps in a group.
pub(crate) const fn steps<T: Tile>() -> usize {
    T::GROUP / T::Width::INPUTS
}

/// Sixteen little-endian 16-bit floats, widened.
#[inline(always)]
pub(crate) fn load_scales<S: Integers>(simd: S, bytes: &[u8]) -> S::F32x16 {
    // Plain loops here and below: `array::from_fn` and `map` are not always inlined.
    let mut halves = [half::f16::ZERO; LANES];
    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
        *half = half::f16::from_le_bytes(*bytes);
    }
    simd.load_f16(&halves)
}

/// Sixteen signed bytes as floats.
#[inline(always)]
pub(crate) fn widen_bytes<S: Integers>(simd: S, bytes: &[u8; LANES]) -> S::F32x16 {
    let mut floats = [0.0; LANES];
    for (float, byte) in floats.iter_mut().zip(bytes) {
        *float = f32::from(*byte as i8);
    }
    simd.load(&floats)
}

/// The lower and the upper half of each byte.
#[inline(always)]
pub(crate) fn nibble_pair<S: Integers>(simd: S, bytes: &[u8; STEP]) -> (S::Bytes, S::Bytes) {
    let both = simd.load_bytes(bytes);
    (simd.field::<0, 15>(both), simd.field::<4, 15>(both))
}

/// Joins codes of more than four bits: `low` has the lower four of eight inputs in each 64 bytes,
/// `high` the other `BITS` of all inputs in one 64 bytes, in the order of [`QUAD`].
#[inline(always)]
pub(crate) fn each_quad<S: Integers, const BITS: usize>(
    simd: S,
    low: &[u8],
    high: &[u8],
    sink: &mut impl CodeSink<S::Words>,
) {
    let high = simd.load_bytes(high.first_chunk().unwrap_or(&[0; STEP]));
    for (pair, bytes) in low.as_chunks::<STEP>().0.iter().enumerate() {
        let (first, second) = nibble_pair(simd, bytes);
        for (half, low) in [first, second].into_iter().enumerate() {
            let quad = 2 * pair + half;
            let high = match (BITS, quad) {
                (1, 0) => simd.field::<0, 1>(high),
                (1, 1) => simd.field::<1, 1>(high),
                (1, 2) => simd.field::<2, 1>(high),
                (1, 3) => simd.field::<3, 1>(high),
                (1, 4) => simd.field::<4, 1>(high),
                (1, 5) => simd.field::<5, 1>(high),
                (1, 6) => simd.field::<6, 1>(high),
                (1, _) => simd.field::<7, 1>(high),
                (_, 0) => simd.field::<0, 3>(high),
                (_, 1) => simd.field::<2, 3>(high),
                (_, 2) => simd.field::<4, 3>(high),
                _ => simd.field::<6, 3>(high),
            };
            let codes = simd.join_fields::<4>(low, high);
            sink.take(2 * quad, simd.even_bytes(codes));
            sink.take(2 * quad + 1, simd.odd_bytes(codes));
        }
    }
}
