//! `q5_k`: 256 weights of 5 bits in eight groups with a scale and a minimum, 5.5 bits a weight.

use super::block::{self, Block};
use super::kernel::{CodeSink, MAX_GROUPS, STEP, Scales, Tile, each_quad};
use super::search;
use super::sub_scales::{GROUPS, SubScales, TILE_BYTES, pack_tile, tile_scales, unpack_tile};
use super::width::{QUAD, Wide};
use crate::simd::{Integers, LANES};

const WEIGHTS: usize = 256;

/// The largest code.
const TOP: u8 = 31;

/// 256 weights in eight groups of 32: `scale * scales[g] * code - minimum * minima[g]` with codes
/// 0..=31.
///
/// ```text
/// byte  0 1    2 3      4 .. 15         16 .. 47        48   ..  79   80 ..   144 .. 175
///       scale  minimum  scales, minima  bit 4 of codes  w0   ..  w31  w64 ..  w192 ..     low
///       f16    f16      of 6 bits                       w32  ..  w63  w96 ..  w224 ..     high
/// ```
///
/// The bytes from 48 on hold bits 0 to 3 of two codes, in their low and high nibbles. Byte
/// `16 + k` has the highest bit of weight `k` of each group `g` in bit `g`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Q5K {
    /// What the scales are multiplied with: an f16, little endian.
    pub scale: [u8; 2],
    /// What the minima are multiplied with: an f16, little endian.
    pub minimum: [u8; 2],
    /// Scales and minima of the groups, 6 bits each.
    pub sub_scales: [u8; 12],
    /// The highest bit of each code.
    pub high: [u8; WEIGHTS / 8],
    /// The lower four bits, two codes a byte.
    pub low: [u8; WEIGHTS / 2],
}

const _: () = assert!(size_of::<Q5K>() == 176);

impl Q5K {
    /// Codes in the order of the weights as the block holds them: `high` and `low`.
    #[inline(always)]
    pub(crate) fn pack_codes(codes: &[u8; WEIGHTS]) -> ([u8; WEIGHTS / 8], [u8; WEIGHTS / 2]) {
        let (mut high, mut low) = ([0; WEIGHTS / 8], [0; WEIGHTS / 2]);
        for (bytes, codes) in low.chunks_exact_mut(32).zip(codes.chunks_exact(64)) {
            block::join_nibbles(&codes[..32], &codes[32..], bytes);
        }
        for (group, codes) in codes.chunks_exact(32).enumerate() {
            for (high, code) in high.iter_mut().zip(codes) {
                *high |= (code >> 4 & 1) << group;
            }
        }
        (high, low)
    }

    /// The codes in the order of the weights.
    #[inline(always)]
    pub(crate) fn codes(&self) -> [u8; WEIGHTS] {
        let mut codes = [0; WEIGHTS];
        for (bytes, codes) in self.low.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            let (first, second) = codes.split_at_mut(32);
            block::split_nibbles(bytes, first, second);
        }
        for (group, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, high) in codes.iter_mut().zip(self.high) {
                *code |= (high >> group & 1) << 4;
            }
        }
        codes
    }
}

impl Default for Q5K {
    fn default() -> Self {
        Self::from_bytes(&[])
    }
}

impl block::sealed::Sealed for Q5K {}

impl Block for Q5K {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = size_of::<Self>();

    fn from_bytes(mut bytes: &[u8]) -> Self {
        Self {
            scale: block::take(&mut bytes),
            minimum: block::take(&mut bytes),
            sub_scales: block::take(&mut bytes),
            high: block::take(&mut bytes),
            low: block::take(&mut bytes),
        }
    }

    fn write(&self, out: &mut [u8]) {
        let parts: [&[u8]; 5] =
            [&self.scale, &self.minimum, &self.sub_scales, &self.high, &self.low];
        block::write_parts(parts, out);
    }

    /// Searches for the smallest squared error, all weights counting the same.
    fn quantise(weights: &[f32]) -> Self {
        let found = search::affine_block(weights, TOP);
        let (high, low) = Self::pack_codes(&found.codes);
        Self {
            scale: found.scale,
            minimum: found.minimum,
            sub_scales: found.sub.packed(),
            high,
            low,
        }
    }

    #[inline(always)]
    fn dequantise(&self, out: &mut [f32]) {
        let sub = SubScales::from_packed(&self.sub_scales);
        sub.dequantise(self.scale, self.minimum, &self.codes(), out);
    }
}

/// Sixteen rows by 256 inputs: the scales, then the codes of each group as in the tiles of `q5_0`.
///
/// ```text
/// byte 0    scales and minima, see `sub_scales.rs`
///      256  group 0: 256 bytes of lower bits, 64 bytes of uppermost bits
///      576  group 1 ..
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) enum Q5KTile {}

const LOW_BYTES: usize = 256;
const GROUP_BYTES: usize = LOW_BYTES + STEP;

/// Lower bits of the sums of a group's inputs. Minima of 6 bits with as many zeros are words.
const LOW_BITS: usize = 6;

impl Tile for Q5KTile {
    type Block = Q5K;
    type Width = Wide;
    const BYTES: usize = TILE_BYTES + 8 * GROUP_BYTES;
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MINIMA: usize = GROUPS;

    fn pack(rows: &[Q5K; LANES], tile: &mut [u8]) {
        tile.fill(0);
        let (scales, codes) = tile.split_at_mut(TILE_BYTES);
        for (lane, row) in rows.iter().enumerate() {
            for (i, code) in row.codes().into_iter().enumerate() {
                let (group, k) = (i / 32 * GROUP_BYTES, i % 32);
                let at = group + lane * 4 + QUAD[k % 4];
                codes[at + k / 8 * STEP] |= (code & 15) << (k / 4 % 2 * 4);
                codes[at + LOW_BYTES] |= (code >> 4) << (k / 4);
            }
            let sub = SubScales::from_packed(&row.sub_scales);
            pack_tile(lane, &sub, row.scale, row.minimum, scales);
        }
    }

    fn unpack(tile: &[u8], lane: usize) -> Q5K {
        let (scales, codes) = tile.split_at(TILE_BYTES);
        let (sub, scale, minimum) = unpack_tile(lane, scales);
        let (high, low) = Q5K::pack_codes(&std::array::from_fn(|i| {
            let (group, k) = (i / 32 * GROUP_BYTES, i % 32);
            let at = group + lane * 4 + QUAD[k % 4];
            let low = codes[at + k / 8 * STEP] >> (k / 4 % 2 * 4) & 15;
            low | (codes[at + LOW_BYTES] >> (k / 4) & 1) << 4
        }));
        Q5K { scale, minimum, sub_scales: sub.packed(), high, low }
    }

    #[inline(always)]
    fn codes<S: Integers>(simd: S, tile: &[u8], group: usize, sink: &mut impl CodeSink<S::Words>) {
        let (low, high) =
            tile[TILE_BYTES + group * GROUP_BYTES..][..GROUP_BYTES].split_at(LOW_BYTES);
        each_quad::<S, 1>(simd, low, high, sink);
    }

    #[inline(always)]
    fn scales<S: Integers>(simd: S, tile: &[u8], scales: &mut Scales<S>) {
        tile_scales(simd, &tile[..TILE_BYTES], scales);
    }

    /// One group a step: sums of 32 inputs of 16 bits have 21, which are multiplied in two parts.
    #[inline(always)]
    fn minima(minima: &[[u8; LANES]; MAX_GROUPS], step: usize) -> [u32; LANES] {
        let mut words = [0; LANES];
        for (words, minimum) in words.iter_mut().zip(&minima[step]) {
            *words = u32::from(*minimum) << LOW_BITS | u32::from(*minimum) << 16;
        }
        words
    }

    #[inline(always)]
    fn input_sums(sums: &[i32], step: usize) -> [i32; 2] {
        [sums[step] >> LOW_BITS, sums[step] & ((1 << LOW_BITS) - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_bit_of_the_high_bytes() {
        let codes = std::array::from_fn(|k| (k * 11 % 32) as u8);
        let (high, low) = Q5K::pack_codes(&codes);
        let block = Q5K { high, low, ..Q5K::default() };
        assert_eq!(block.codes(), codes);
        let (high, _) =
            Q5K::pack_codes(&std::array::from_fn(|k| if k == 32 * 5 + 3 { 16 } else { 15 }));
        assert_eq!(high, std::array::from_fn(|k| if k == 3 { 1 << 5 } else { 0 }));
    }
}
