//! `q4_k`: 256 weights of 4 bits in eight groups with a scale and a minimum, 4.5 bits a weight.

use super::block::{self, Block};
use super::kernel::{CodeSink, MAX_GROUPS, STEP, Scales, Tile, nibble_pair};
use super::search;
use super::sub_scales::{GROUPS, SubScales, TILE_BYTES, pack_tile, tile_scales, unpack_tile};
use super::width::Narrow;
use crate::simd::{Integers, LANES};

const WEIGHTS: usize = 256;

/// The largest code.
const TOP: u8 = 15;

/// 256 weights in eight groups of 32: `scale * scales[g] * code - minimum * minima[g]` with codes
/// 0..=15.
///
/// ```text
/// byte  0 1    2 3      4 .. 15         16   17   ..  47   48 ..   112 .. 143
///       scale  minimum  scales, minima  w0   w1   ..  w31  w64 ..  w192 ..     low nibbles
///       f16    f16      of 6 bits       w32  w33  ..  w63  w96 ..  w224 ..     high nibbles
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Q4K {
    /// What the scales are multiplied with: an f16, little endian.
    pub scale: [u8; 2],
    /// What the minima are multiplied with: an f16, little endian.
    pub minimum: [u8; 2],
    /// Scales and minima of the groups, 6 bits each.
    pub sub_scales: [u8; 12],
    /// Two codes a byte.
    pub codes: [u8; WEIGHTS / 2],
}

const _: () = assert!(size_of::<Q4K>() == 144);

impl Q4K {
    /// Codes in the order of the weights as the block holds them.
    #[inline(always)]
    pub(crate) fn pack_codes(codes: &[u8; WEIGHTS]) -> [u8; WEIGHTS / 2] {
        let mut packed = [0; WEIGHTS / 2];
        for (bytes, codes) in packed.chunks_exact_mut(32).zip(codes.chunks_exact(64)) {
            block::join_nibbles(&codes[..32], &codes[32..], bytes);
        }
        packed
    }

    /// The codes in the order of the weights.
    #[inline(always)]
    pub(crate) fn codes(&self) -> [u8; WEIGHTS] {
        let mut codes = [0; WEIGHTS];
        for (bytes, codes) in self.codes.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            let (low, high) = codes.split_at_mut(32);
            block::split_nibbles(bytes, low, high);
        }
        codes
    }
}

impl Default for Q4K {
    fn default() -> Self {
        Self::from_bytes(&[])
    }
}

impl block::sealed::Sealed for Q4K {}

impl Block for Q4K {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = size_of::<Self>();

    fn from_bytes(mut bytes: &[u8]) -> Self {
        Self {
            scale: block::take(&mut bytes),
            minimum: block::take(&mut bytes),
            sub_scales: block::take(&mut bytes),
            codes: block::take(&mut bytes),
        }
    }

    fn write(&self, out: &mut [u8]) {
        block::write_parts([&self.scale, &self.minimum, &self.sub_scales, &self.codes], out);
    }

    /// Searches for the smallest squared error, all weights counting the same.
    fn quantise(weights: &[f32]) -> Self {
        let found = search::affine_block(weights, TOP);
        Self {
            scale: found.scale,
            minimum: found.minimum,
            sub_scales: found.sub.packed(),
            codes: Self::pack_codes(&found.codes),
        }
    }

    #[inline(always)]
    fn dequantise(&self, out: &mut [f32]) {
        let sub = SubScales::from_packed(&self.sub_scales);
        sub.dequantise(self.scale, self.minimum, &self.codes(), out);
    }
}

/// Sixteen rows by 256 inputs: the scales, then the codes as in the tiles of `q4_0`.
///
/// ```text
/// byte 0    scales and minima, see `sub_scales.rs`
///      256  o0: k0|k4 k1|k5 k2|k6 k3|k7 | o1: ..      64 bytes: low half | high half
///      320  o0: k8|k12 ..                             256 bytes a group
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) enum Q4KTile {}

const GROUP_BYTES: usize = 256;

impl Tile for Q4KTile {
    type Block = Q4K;
    type Width = Narrow;
    const BYTES: usize = TILE_BYTES + 8 * GROUP_BYTES;
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;
    const MINIMA: usize = GROUPS / 2;

    fn pack(rows: &[Q4K; LANES], tile: &mut [u8]) {
        tile.fill(0);
        let (scales, codes) = tile.split_at_mut(TILE_BYTES);
        for (lane, row) in rows.iter().enumerate() {
            for (k, code) in row.codes().into_iter().enumerate() {
                codes[k / 8 * STEP + lane * 4 + k % 4] |= code << (k / 4 % 2 * 4);
            }
            let sub = SubScales::from_packed(&row.sub_scales);
            pack_tile(lane, &sub, row.scale, row.minimum, scales);
        }
    }

    fn unpack(tile: &[u8], lane: usize) -> Q4K {
        let (scales, codes) = tile.split_at(TILE_BYTES);
        let (sub, scale, minimum) = unpack_tile(lane, scales);
        let code = |k: usize| codes[k / 8 * STEP + lane * 4 + k % 4] >> (k / 4 % 2 * 4) & 15;
        let codes = Q4K::pack_codes(&std::array::from_fn(code));
        Q4K { scale, minimum, sub_scales: sub.packed(), codes }
    }

    #[inline(always)]
    fn codes<S: Integers>(simd: S, tile: &[u8], group: usize, sink: &mut impl CodeSink<S::Bytes>) {
        let codes = &tile[TILE_BYTES + group * GROUP_BYTES..][..GROUP_BYTES];
        for (pair, bytes) in codes.as_chunks::<STEP>().0.iter().enumerate() {
            let (low, high) = nibble_pair(simd, bytes);
            sink.take(2 * pair, low);
            sink.take(2 * pair + 1, high);
        }
    }

    #[inline(always)]
    fn scales<S: Integers>(simd: S, tile: &[u8], scales: &mut Scales<S>) {
        tile_scales(simd, &tile[..TILE_BYTES], scales);
    }

    /// Two groups a step: sums of 32 inputs of 8 bits have 13.
    #[inline(always)]
    fn minima(minima: &[[u8; LANES]; MAX_GROUPS], step: usize) -> [u32; LANES] {
        let mut words = [0; LANES];
        let pairs = minima[2 * step].iter().zip(&minima[2 * step + 1]);
        for (words, (first, second)) in words.iter_mut().zip(pairs) {
            *words = u32::from(*first) | u32::from(*second) << 16;
        }
        words
    }

    #[inline(always)]
    fn input_sums(sums: &[i32], step: usize) -> [i32; 2] {
        [sums[2 * step], sums[2 * step + 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_share_bytes_in_pairs() {
        let codes = std::array::from_fn(|k| (k * 7 % 16) as u8);
        let block = Q4K { codes: Q4K::pack_codes(&codes), ..Q4K::default() };
        assert_eq!(block.codes(), codes);
        assert_eq!(block.codes[33], codes[65] | codes[97] << 4);
    }
}
