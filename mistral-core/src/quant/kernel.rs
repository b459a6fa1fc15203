//! What a block-quantised format gives the matmul: its tiles and the codes in them.
//!
//! ```text
//! out[o] = Σ over groups of inputs:  scale[o] * x_scale * Σ_k (code[o][k] - offset) * x_code[k]
//!                                   - min[o] * Σ_k x[k]                  (formats with minima)
//! ```
//!
//! The inner sum is exact in integers, for which the inputs are rounded too: to 8 bits where codes
//! have 4, to 16 bits where they have more. Where a scale is a float times an integer of 6 bits and
//! codes have 4, that integer is a factor of the inner sum. The outer sum is one chain of fused
//! multiply-adds over rising groups. So neither the SIMD level nor the number of rows changes a bit.

use super::Block;
use crate::simd::{Integers, LANES, Simd};

/// Bytes of one step: the codes of sixteen outputs for four inputs (bytes) or two (words).
pub(crate) const STEP: usize = 64;

/// Most steps in a group.
pub(crate) const MAX_STEPS: usize = 16;

/// Most groups in a tile.
pub(crate) const MAX_GROUPS: usize = 16;

/// What the sums of a tile's groups are multiplied with, for sixteen outputs.
#[derive(Clone, Copy)]
pub(crate) struct Scales<S: Simd> {
    /// Factors of all groups.
    pub(crate) scale: S::F32x16,
    /// The factor of the minima, negated, of formats that have some.
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

/// How wide codes and inputs are when they meet.
pub(crate) trait Width: Copy + Send + Sync + 'static {
    /// Inputs in a step.
    const INPUTS: usize;
    /// Largest magnitude of a rounded input.
    const LARGEST: f32;
    /// The codes of one step.
    type Codes<S: Integers>: Copy;
    /// Sixteen sums.
    type Sums<S: Integers>: Copy;
    /// Sixteen factors of the sums of a group.
    type Factors<S: Integers>: Copy;

    /// One step's inputs from their rounded values.
    fn pack(inputs: &[i32]) -> [u8; 4];

    /// What sums start with: `-offset * Σ inputs`, in a form that [`Width::start`] takes.
    fn start_of(steps: &[[u8; 4]], offset: i32) -> i32;

    /// Loads the codes that [`Width::store`] stored.
    fn load<S: Integers>(simd: S, step: &[u8; STEP]) -> Self::Codes<S>;

    /// Stores codes.
    fn store<S: Integers>(simd: S, codes: Self::Codes<S>, step: &mut [u8; STEP]);

    /// Sums that start with what [`Width::start_of`] gave.
    fn start<S: Integers>(simd: S, start: i32) -> Self::Sums<S>;

    /// Adds the products of one step.
    fn dot<S: Integers>(
        simd: S,
        sums: Self::Sums<S>,
        codes: Self::Codes<S>,
        x: [u8; 4],
    ) -> Self::Sums<S>;

    /// The sums as `f32`.
    fn total<S: Integers>(simd: S, sums: Self::Sums<S>) -> S::F32x16;

    /// What [`Width::scaled`] takes, of a tile's scale and the bytes of a group.
    fn factors<S: Integers>(simd: S, scale: S::F32x16, bytes: &[u8; LANES]) -> Self::Factors<S>;

    /// Two numbers whose product is `sums * scale * bytes`.
    fn scaled<S: Integers>(
        simd: S,
        sums: Self::Sums<S>,
        scale: S::F32x16,
        factors: Self::Factors<S>,
    ) -> (S::F32x16, S::F32x16);
}

/// Unsigned codes of 4 bits against inputs of 8 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Narrow {}

/// Codes of up to 8 bits against inputs of 16 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wide {}

impl Width for Narrow {
    const INPUTS: usize = 4;
    const LARGEST: f32 = 127.0;
    type Codes<S: Integers> = S::Bytes;
    type Sums<S: Integers> = S::ByteSums;
    type Factors<S: Integers> = S::ByteScales;

    #[inline(always)]
    fn pack(inputs: &[i32]) -> [u8; 4] {
        let mut step = [0; 4];
        for (byte, input) in step.iter_mut().zip(inputs) {
            *byte = *input as u8;
        }
        step
    }

    #[inline(always)]
    fn start_of(steps: &[[u8; 4]], offset: i32) -> i32 {
        let (mut even, mut odd) = (0, 0);
        for [a, b, c, d] in steps.iter().map(|step| step.map(|byte| i32::from(byte as i8))) {
            even -= offset * (a + b);
            odd -= offset * (c + d);
        }
        (even & 0xffff) | (odd << 16)
    }

    #[inline(always)]
    fn load<S: Integers>(simd: S, step: &[u8; STEP]) -> S::Bytes {
        simd.load_bytes(step)
    }

    #[inline(always)]
    fn store<S: Integers>(simd: S, codes: S::Bytes, step: &mut [u8; STEP]) {
        simd.store_bytes(codes, step);
    }

    #[inline(always)]
    fn start<S: Integers>(simd: S, start: i32) -> S::ByteSums {
        simd.start_bytes(start as i16, (start >> 16) as i16)
    }

    #[inline(always)]
    fn dot<S: Integers>(simd: S, sums: S::ByteSums, codes: S::Bytes, x: [u8; 4]) -> S::ByteSums {
        simd.dot_bytes(sums, codes, x)
    }

    #[inline(always)]
    fn total<S: Integers>(simd: S, sums: S::ByteSums) -> S::F32x16 {
        simd.total_bytes(sums)
    }

    #[inline(always)]
    fn factors<S: Integers>(simd: S, _: S::F32x16, bytes: &[u8; LANES]) -> S::ByteScales {
        simd.load_byte_scales(bytes)
    }

    /// The first is exact: sums are below `2^16`, factors have 6 bits.
    #[inline(always)]
    fn scaled<S: Integers>(
        simd: S,
        sums: S::ByteSums,
        scale: S::F32x16,
        factors: S::ByteScales,
    ) -> (S::F32x16, S::F32x16) {
        (simd.scaled_bytes(sums, factors), scale)
    }
}

impl Width for Wide {
    const INPUTS: usize = 2;
    const LARGEST: f32 = 32767.0;
    type Codes<S: Integers> = S::Words;
    type Sums<S: Integers> = S::WordSums;
    type Factors<S: Integers> = S::F32x16;

    #[inline(always)]
    fn pack(inputs: &[i32]) -> [u8; 4] {
        let mut step = [0; 4];
        for (bytes, input) in step.as_chunks_mut::<2>().0.iter_mut().zip(inputs) {
            *bytes = (*input as i16).to_le_bytes();
        }
        step
    }

    #[inline(always)]
    fn start_of(steps: &[[u8; 4]], offset: i32) -> i32 {
        let pair = |[a, b, c, d]: [u8; 4]| {
            i32::from(i16::from_le_bytes([a, b])) + i32::from(i16::from_le_bytes([c, d]))
        };
        -offset * steps.iter().map(|step| pair(*step)).sum::<i32>()
    }

    #[inline(always)]
    fn load<S: Integers>(simd: S, step: &[u8; STEP]) -> S::Words {
        simd.load_words(step)
    }

    #[inline(always)]
    fn store<S: Integers>(simd: S, codes: S::Words, step: &mut [u8; STEP]) {
        simd.store_words(codes, step);
    }

    #[inline(always)]
    fn start<S: Integers>(simd: S, start: i32) -> S::WordSums {
        simd.start_words(start)
    }

    #[inline(always)]
    fn dot<S: Integers>(simd: S, sums: S::WordSums, codes: S::Words, x: [u8; 4]) -> S::WordSums {
        simd.dot_words(sums, codes, x)
    }

    #[inline(always)]
    fn total<S: Integers>(simd: S, sums: S::WordSums) -> S::F32x16 {
        simd.total_words(sums)
    }

    #[inline(always)]
    fn factors<S: Integers>(simd: S, scale: S::F32x16, bytes: &[u8; LANES]) -> S::F32x16 {
        simd.mul(scale, widen_bytes(simd, bytes))
    }

    /// The second is exact: scales have 11 bits, factors 7.
    #[inline(always)]
    fn scaled<S: Integers>(
        simd: S,
        sums: S::WordSums,
        _: S::F32x16,
        factors: S::F32x16,
    ) -> (S::F32x16, S::F32x16) {
        (simd.total_words(sums), factors)
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
    /// Inputs that share a scale.
    const GROUP: usize;
    /// What is taken off each code.
    const OFFSET: i32;
    /// Whether weights have a minimum besides the scale.
    const MINIMA: bool;

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

    /// Writes what the sums are multiplied with.
    fn scales<S: Integers>(simd: S, tile: &[u8], scales: &mut Scales<S>);
}

/// Groups in a tile.
pub(crate) const fn groups<T: Tile>() -> usize {
    T::Block::WEIGHTS / T::GROUP
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

/// Where the inputs k0, k1, k2, k3 stand in four bytes that become two steps of words: those of one
/// step are every other byte.
pub(crate) const QUAD: [usize; 4] = [0, 2, 1, 3];

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
