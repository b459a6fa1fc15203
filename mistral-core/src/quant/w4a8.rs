//! `w4a8`: 256 weights of 4 bits, 4.4375 bits a weight, which meet inputs of 8 bits as 8 bits.

use std::marker::PhantomData;

use super::block::{self, Block};
use super::kernel::{CodeSink, STEP, Scales, Tile, load_scales, nibble_pair};
use super::octets::{OFFSET, OctetBlock, OctetWidth, WEIGHTS, group_position, position};
use super::search;
use crate::simd::{Integers, LANES};

/// Weights with a step and a base in common.
pub(super) const GROUP: usize = 32;

/// Groups in a block.
pub(super) const GROUPS: usize = WEIGHTS / GROUP;

/// The largest code.
pub(super) const TOP: u8 = 15;

/// 256 weights in eight groups of 32: `scale * (steps[g] * code + bases[g] - 128)` with codes 0..=15.
/// What is in brackets is a whole number of 8 bits, -128..=127; if it were outside, it counts modulo
/// 256.
///
/// ```text
/// byte  0 1    2     3 ..  5      6  7 ..  13     14    15   ..  141
///       scale  s0-1  ..    s3-1   b0 b1    b7     w0    w1   ..  w127    low nibbles
///       f16    s4-1  ..    s7-1                   w128  w129 ..  w255    high nibbles
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct W4A8 {
    /// An f16, little endian.
    pub scale: [u8; 2],
    /// The steps of the groups, 1..=16, less one: two a byte.
    pub steps: [u8; GROUPS / 2],
    /// What code 0 stands for in each group, with 128 added.
    pub bases: [u8; GROUPS],
    /// Two codes a byte.
    pub codes: [u8; WEIGHTS / 2],
}

const _: () = assert!(size_of::<W4A8>() == 142);

/// A weight without its scale, with 128 added.
#[inline(always)]
fn octet(code: u8, step: u8, base: u8) -> u8 {
    code.wrapping_mul(step).wrapping_add(base)
}

/// The steps of eight groups, for each of which there are `N` in a row.
#[inline(always)]
fn unpack_steps<const N: usize>(packed: &[u8]) -> [[u8; N]; GROUPS] {
    let mut steps = [[0; N]; GROUPS];
    let (low, high) = steps.as_flattened_mut().split_at_mut(N * GROUPS / 2);
    block::split_nibbles(packed, low, high);
    for step in steps.as_flattened_mut() {
        *step += 1;
    }
    steps
}

impl Default for W4A8 {
    fn default() -> Self {
        Self::from_bytes(&[])
    }
}

impl block::sealed::Sealed for W4A8 {}

impl Block for W4A8 {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = size_of::<Self>();

    fn from_bytes(mut bytes: &[u8]) -> Self {
        Self {
            scale: block::take(&mut bytes),
            steps: block::take(&mut bytes),
            bases: block::take(&mut bytes),
            codes: block::take(&mut bytes),
        }
    }

    fn write(&self, out: &mut [u8]) {
        block::write_parts([&self.scale, &self.steps, &self.bases, &self.codes], out);
    }

    /// Searches for the smallest squared error, all weights counting the same.
    fn quantise(weights: &[f32]) -> Self {
        let found = search::octet_block(weights);
        let mut block = Self { scale: found.scale, bases: found.bases, ..Self::default() };
        let steps = found.steps.map(|step| step - 1);
        block::join_nibbles(&steps[..GROUPS / 2], &steps[GROUPS / 2..], &mut block.steps);
        let (low, high) = found.codes.split_at(WEIGHTS / 2);
        block::join_nibbles(low, high, &mut block.codes);
        block
    }

    #[inline(always)]
    fn dequantise(&self, out: &mut [f32]) {
        let scale = block::half(self.scale);
        let mut codes = [0; WEIGHTS];
        let (low, high) = codes.split_at_mut(WEIGHTS / 2);
        block::split_nibbles(&self.codes, low, high);
        let steps = unpack_steps::<1>(&self.steps);
        let groups = codes.chunks_exact(GROUP).zip(out.chunks_mut(GROUP));
        for (((codes, out), [step]), base) in groups.zip(steps).zip(self.bases) {
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from((octet(*code, step, base) ^ OFFSET) as i8);
            }
        }
    }
}

/// Sixteen rows by 256 inputs: what the groups have, then the codes of eight inputs at a time.
///
/// ```text
/// byte 0    scales of o0 .. o15, f16
///      32   steps less one: o0: g0|g4, o1: g0|g4, .. | o0: g1|g5, ..   64 bytes: low half | high half
///      96   bases: g0 of o0 .. o15, g1 of ..                          128 bytes
///      224  o0: k0|k4 k2|k6 k1|k5 k3|k7 | o1: ..                       64 bytes: low half | high half
///      288  o0: k8|k12 ..                                              32 times
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct W4A8Tile<W>(PhantomData<W>);

const STEPS: usize = 2 * LANES;
const BASES: usize = STEPS + GROUPS / 2 * LANES;
const CODES: usize = BASES + GROUPS * LANES;

impl OctetBlock for W4A8 {
    type Tile<W: OctetWidth> = W4A8Tile<W>;
}

/// Where the code of input `k` of row `lane` stands: which byte, and how far up.
const fn nibble(lane: usize, k: usize) -> (usize, usize) {
    (CODES + position(lane, k / 8 * 4 + k % 4), k / 4 % 2 * 4)
}

impl<W: OctetWidth> Tile for W4A8Tile<W> {
    type Block = W4A8;
    type Width = W;
    const BYTES: usize = CODES + WEIGHTS / 2 * LANES;
    const GROUP: usize = WEIGHTS;
    const LARGEST: f32 = 127.0;
    const OFFSET: i32 = OFFSET as i32;

    fn pack(rows: &[W4A8; LANES], tile: &mut [u8]) {
        tile.fill(0);
        for (lane, row) in rows.iter().enumerate() {
            tile[2 * lane..][..2].copy_from_slice(&row.scale);
            for (group, steps) in row.steps.iter().enumerate() {
                tile[STEPS + group_position(lane, group)] = *steps;
            }
            for (group, base) in row.bases.iter().enumerate() {
                tile[BASES + group_position(lane, group)] = *base;
            }
            for (i, codes) in row.codes.iter().enumerate() {
                for (k, code) in [(i, codes & 15), (i + WEIGHTS / 2, codes >> 4)] {
                    let (at, shift) = nibble(lane, k);
                    tile[at] |= code << shift;
                }
            }
        }
    }

    fn unpack(tile: &[u8], lane: usize) -> W4A8 {
        let code = |k: usize| {
            let (at, shift) = nibble(lane, k);
            tile[at] >> shift & 15
        };
        W4A8 {
            scale: std::array::from_fn(|i| tile[2 * lane + i]),
            steps: std::array::from_fn(|g| tile[STEPS + group_position(lane, g)]),
            bases: std::array::from_fn(|g| tile[BASES + group_position(lane, g)]),
            codes: std::array::from_fn(|i| code(i) | code(i + WEIGHTS / 2) << 4),
        }
    }

    #[inline(always)]
    fn codes<S: Integers>(
        simd: S,
        tile: &[u8],
        _group: usize,
        sink: &mut impl CodeSink<W::Codes<S>>,
    ) {
        let steps = unpack_steps::<LANES>(&tile[STEPS..BASES]);
        let bases = tile[BASES..CODES].as_chunks::<LANES>().0;
        let codes = tile[CODES..].chunks_exact(GROUP / 2 * LANES);
        for (g, ((codes, steps), bases)) in codes.zip(&steps).zip(bases).enumerate() {
            let (steps, bases) = (simd.spread_bytes(steps), simd.spread_bytes(bases));
            for (pair, bytes) in codes.as_chunks::<STEP>().0.iter().enumerate() {
                let quad = g * GROUP / 4 + 2 * pair;
                let (low, high) = nibble_pair(simd, bytes);
                W::hand(simd, quad, simd.scale_bytes(low, steps, bases), sink);
                W::hand(simd, quad + 1, simd.scale_bytes(high, steps, bases), sink);
            }
        }
    }

    #[inline(always)]
    fn scales<S: Integers>(simd: S, tile: &[u8], scales: &mut Scales<S>) {
        scales.scale = load_scales(simd, &tile[..STEPS]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_whole_number_of_scales() {
        let mut block = W4A8 { scale: block::half_bytes(0.5), ..W4A8::default() };
        block.steps[1] = 6 << 4; // group 5, whose step is 7
        block.bases[5] = 100;
        block.codes[5 * GROUP - WEIGHTS / 2] = 9 << 4; // weight 160, the first of group 5
        block.codes[3] = 4; // weight 3: group 0, whose step is 1 and whose base is -128
        let mut weights = [0.0; WEIGHTS];
        block.dequantise(&mut weights);
        assert_eq!(weights[160], 0.5 * (7.0 * 9.0 + 100.0 - 128.0));
        assert_eq!(weights[161], 0.5 * (100.0 - 128.0));
        assert_eq!(weights[3], 0.5 * (4.0 - 128.0));
    }
}
