//! `q6_k`: 256 weights of 6 bits in sixteen groups with a scale, 6.5625 bits a weight.

use super::block::{self, Block};
use super::kernel::{CodeSink, STEP, Scales, Tile, each_quad, groups, load_scales};
use super::search;
use super::width::{QUAD, Wide};
use crate::simd::{Integers, LANES};

const WEIGHTS: usize = 256;

/// The code of weight 0.
const MIDDLE: f32 = 32.0;

/// 256 weights in sixteen groups of 16: `scale * scales[g] * (code - 32)` with codes 0..=63.
///
/// ```text
/// byte 0 .. 63   64 .. 127  128 .. 159  160 .. 191  192 .. 207  208 209
///      w0..128   w128..256  w0..128     w128..256   scales      scale
///      bits 0..4 of codes   bits 4..6 of codes      16 of i8    f16
///
/// of the weights k in 0..128 of each half:
///   k < 64    low nibble of byte k             k in 0..32    bits 0, 1 of byte k
///   k >= 64   high nibble of byte k - 64       k in 32..64   bits 2, 3 of byte k - 32, and so on
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Q6K {
    /// The lower four bits of the codes, two codes a byte.
    pub low: [u8; WEIGHTS / 2],
    /// The upper two bits of the codes, four codes a byte.
    pub high: [u8; WEIGHTS / 4],
    /// Scales of the groups.
    pub scales: [i8; WEIGHTS / 16],
    /// What the scales are multiplied with: an f16, little endian.
    pub scale: [u8; 2],
}

const _: () = assert!(size_of::<Q6K>() == 210);

impl Q6K {
    /// Codes in the order of the weights as the block holds them: `low` and `high`.
    #[inline(always)]
    pub(crate) fn pack_codes(codes: &[u8; WEIGHTS]) -> ([u8; WEIGHTS / 2], [u8; WEIGHTS / 4]) {
        let (mut low, mut high) = ([0; WEIGHTS / 2], [0; WEIGHTS / 4]);
        for (bytes, codes) in low.chunks_exact_mut(64).zip(codes.chunks_exact(128)) {
            block::join_nibbles(&codes[..64], &codes[64..], bytes);
        }
        for (bytes, codes) in high.chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
            for (quarter, codes) in codes.chunks_exact(32).enumerate() {
                for (byte, code) in bytes.iter_mut().zip(codes) {
                    *byte |= (code >> 4 & 3) << (2 * quarter);
                }
            }
        }
        (low, high)
    }

    /// The codes in the order of the weights.
    #[inline(always)]
    pub(crate) fn codes(&self) -> [u8; WEIGHTS] {
        let mut codes = [0; WEIGHTS];
        for (bytes, codes) in self.low.chunks_exact(64).zip(codes.chunks_exact_mut(128)) {
            let (first, second) = codes.split_at_mut(64);
            block::split_nibbles(bytes, first, second);
        }
        for (bytes, codes) in self.high.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
            for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
                for (byte, code) in bytes.iter().zip(codes) {
                    *code |= (byte >> (2 * quarter) & 3) << 4;
                }
            }
        }
        codes
    }
}

impl Default for Q6K {
    fn default() -> Self {
        Self::from_bytes(&[])
    }
}

impl block::sealed::Sealed for Q6K {}

impl Block for Q6K {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = size_of::<Self>();

    fn from_bytes(mut bytes: &[u8]) -> Self {
        Self {
            low: block::take(&mut bytes),
            high: block::take(&mut bytes),
            scales: block::take::<{ WEIGHTS / 16 }>(&mut bytes).map(|scale| scale as i8),
            scale: block::take(&mut bytes),
        }
    }

    fn write(&self, out: &mut [u8]) {
        let scales = self.scales.map(|scale| scale as u8);
        block::write_parts([&self.low, &self.high, &scales, &self.scale], out);
    }

    /// Searches for the smallest squared error, all weights counting the same.
    fn quantise(weights: &[f32]) -> Self {
        let found = search::symmetric_block(weights);
        let (low, high) = Self::pack_codes(&found.codes);
        Self { low, high, scales: found.scales, scale: found.scale }
    }

    #[inline(always)]
    fn dequantise(&self, out: &mut [f32]) {
        let scale = block::half(self.scale);
        let codes = self.codes();
        let groups = out.chunks_mut(16).zip(codes.chunks_exact(16)).zip(self.scales);
        for ((out, codes), group_scale) in groups {
            let scale = scale * f32::from(group_scale);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * (f32::from(*code) - MIDDLE);
            }
        }
    }
}

/// Sixteen rows by 256 inputs: the scales, then the codes of each group.
///
/// ```text
/// byte 0    sub-scales: group 0: o0 .. o15, group 1 ..
///      256  scales of o0 .. o15, f16
///      288  o0: k0|k4 k2|k6 k1|k5 k3|k7 | o1: ..    lower bits: low half | high half
///      352  o0: k8|k12 ..
///      416  o0: bits 2i, 2i+1 of four bytes: upper bits of k4i k4i+2 k4i+1 k4i+3 | o1: ..
///      480  group 1 ..
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) enum Q6KTile {}

const SCALES: usize = 16 * LANES;
const CODES: usize = SCALES + 2 * LANES;
const LOW_BYTES: usize = 128;
const GROUP_BYTES: usize = LOW_BYTES + STEP;

impl Tile for Q6KTile {
    type Block = Q6K;
    type Width = Wide;
    const BYTES: usize = CODES + 16 * GROUP_BYTES;
    const GROUP: usize = 16;
    const OFFSET: i32 = 32;

    fn pack(rows: &[Q6K; LANES], tile: &mut [u8]) {
        tile.fill(0);
        for (lane, row) in rows.iter().enumerate() {
            for (i, code) in row.codes().into_iter().enumerate() {
                let (group, k) = (CODES + i / 16 * GROUP_BYTES, i % 16);
                let at = group + lane * 4 + QUAD[k % 4];
                tile[at + k / 8 * STEP] |= (code & 15) << (k / 4 % 2 * 4);
                tile[at + LOW_BYTES] |= (code >> 4) << (k / 4 * 2);
            }
            for (g, scale) in row.scales.iter().enumerate() {
                tile[g * LANES + lane] = *scale as u8;
            }
            tile[SCALES + 2 * lane..][..2].copy_from_slice(&row.scale);
        }
    }

    fn unpack(tile: &[u8], lane: usize) -> Q6K {
        let scale = [tile[SCALES + 2 * lane], tile[SCALES + 2 * lane + 1]];
        let scales = std::array::from_fn(|g| tile[g * LANES + lane] as i8);
        let (low, high) = Q6K::pack_codes(&std::array::from_fn(|i| {
            let (group, k) = (CODES + i / 16 * GROUP_BYTES, i % 16);
            let at = group + lane * 4 + QUAD[k % 4];
            let low = tile[at + k / 8 * STEP] >> (k / 4 % 2 * 4) & 15;
            low | (tile[at + LOW_BYTES] >> (k / 4 * 2) & 3) << 4
        }));
        Q6K { low, high, scales, scale }
    }

    #[inline(always)]
    fn codes<S: Integers>(simd: S, tile: &[u8], group: usize, sink: &mut impl CodeSink<S::Words>) {
        let (low, high) = tile[CODES + group * GROUP_BYTES..][..GROUP_BYTES].split_at(LOW_BYTES);
        each_quad::<S, 2>(simd, low, high, sink);
    }

    #[inline(always)]
    fn scales<S: Integers>(simd: S, tile: &[u8], scales: &mut Scales<S>) {
        scales.scale = load_scales(simd, &tile[SCALES..]);
        scales.scales.copy_from_slice(&tile.as_chunks().0[..groups::<Self>()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_bits_of_four_codes_share_a_byte() {
        let codes = std::array::from_fn(|k| (k * 13 % 64) as u8);
        let (low, high) = Q6K::pack_codes(&codes);
        let block = Q6K { low, high, ..Q6K::default() };
        assert_eq!(block.codes(), codes);
        // Weight 128 + 70 of the second half: high nibble of byte 6, bits 4, 5 of byte 6.
        let (low, high) = Q6K::pack_codes(&std::array::from_fn(|k| if k == 198 { 63 } else { 0 }));
        assert_eq!(low, std::array::from_fn(|k| if k == 64 + 6 { 0xf0 } else { 0 }));
        assert_eq!(high, std::array::from_fn(|k| if k == 32 + 6 { 0b11_0000 } else { 0 }));
    }
}
