//! `q4_0`: 32 weights of 4 bits and a scale, 4.5 bits a weight.

use half::f16;

use super::block::{self, Block};
use super::kernel::{CodeSink, STEP, Scales, Tile, load_scales, nibble_pair};
use super::width::Narrow;
use crate::simd::{Integers, LANES};

const WEIGHTS: usize = 32;

/// The code of weight 0.
const MIDDLE: f32 = 8.0;

/// 32 weights `scale * (code - 8)` with codes 0..=15.
///
/// ```text
/// byte  0 1    2    3    ..  17
///       scale  w0   w1   ..  w15      f16, then low nibbles
///              w16  w17  ..  w31      and high nibbles
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Q4_0 {
    /// An f16, little endian.
    pub scale: [u8; 2],
    /// Two codes a byte.
    pub codes: [u8; WEIGHTS / 2],
}

const _: () = assert!(size_of::<Q4_0>() == 18);

impl Q4_0 {
    /// A block of 32 codes in the order of the weights.
    #[inline(always)]
    pub(crate) fn from_codes(scale: [u8; 2], codes: &[u8; WEIGHTS]) -> Self {
        let mut block = Self { scale, ..Self::default() };
        let (low, high) = codes.split_at(WEIGHTS / 2);
        block::join_nibbles(low, high, &mut block.codes);
        block
    }

    /// The codes in the order of the weights.
    #[inline(always)]
    pub(crate) fn codes(&self) -> [u8; WEIGHTS] {
        let mut codes = [0; WEIGHTS];
        let (low, high) = codes.split_at_mut(WEIGHTS / 2);
        block::split_nibbles(&self.codes, low, high);
        codes
    }
}

impl block::sealed::Sealed for Q4_0 {}

impl Block for Q4_0 {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = size_of::<Self>();

    fn from_bytes(mut bytes: &[u8]) -> Self {
        Self { scale: block::take(&mut bytes), codes: block::take(&mut bytes) }
    }

    fn write(&self, out: &mut [u8]) {
        block::write_parts([&self.scale, &self.codes], out);
    }

    /// ggml's rule: the weight of the largest magnitude gets code 0, the one end that reaches 8
    /// steps, for which the scale takes its sign. Halves are rounded up. Codes are rounded for
    /// the scale before it is rounded to f16.
    #[inline(always)]
    fn quantise(weights: &[f32]) -> Self {
        let weights: [f32; WEIGHTS] = block::bounded(weights, MIDDLE * f16::MAX.to_f32());
        let scale = block::extreme(&weights) / -MIDDLE;
        let inverse = block::inverse(scale);
        // The cast drops the fraction, and what is below 0.
        let codes = weights.map(|w| ((w * inverse + (MIDDLE + 0.5)) as u8).min(15));
        Self::from_codes(block::half_bytes(scale), &codes)
    }

    #[inline(always)]
    fn dequantise(&self, out: &mut [f32]) {
        let scale = block::half(self.scale);
        for (out, code) in out.iter_mut().zip(self.codes()) {
            *out = (f32::from(code) - MIDDLE) * scale;
        }
    }
}

/// Sixteen rows by 32 inputs: the codes eight inputs at a time, then the scales.
///
/// ```text
/// byte 0   o0: k0|k4 k1|k5 k2|k6 k3|k7 | o1: ..      64 bytes: low half | high half
///      64  o0: k8|k12 ..
///      256 scales of o0 .. o15, f16
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) enum Q4_0Tile {}

const SCALES: usize = 256;

impl Tile for Q4_0Tile {
    type Block = Q4_0;
    type Width = Narrow;
    const BYTES: usize = SCALES + 2 * LANES;
    const GROUP: usize = 32;
    const OFFSET: i32 = 8;

    fn pack(rows: &[Q4_0; LANES], tile: &mut [u8]) {
        tile.fill(0);
        let (codes, scales) = tile.split_at_mut(SCALES);
        for (lane, row) in rows.iter().enumerate() {
            for (k, code) in row.codes().into_iter().enumerate() {
                codes[k / 8 * STEP + lane * 4 + k % 4] |= code << (k / 4 % 2 * 4);
            }
            scales[2 * lane..][..2].copy_from_slice(&row.scale);
        }
    }

    fn unpack(tile: &[u8], lane: usize) -> Q4_0 {
        let (codes, scales) = tile.split_at(SCALES);
        let code = |k: usize| codes[k / 8 * STEP + lane * 4 + k % 4] >> (k / 4 % 2 * 4) & 15;
        Q4_0::from_codes([scales[2 * lane], scales[2 * lane + 1]], &std::array::from_fn(code))
    }

    #[inline(always)]
    fn codes<S: Integers>(simd: S, tile: &[u8], _group: usize, sink: &mut impl CodeSink<S::Bytes>) {
        for (pair, bytes) in tile[..SCALES].as_chunks::<STEP>().0.iter().enumerate() {
            let (low, high) = nibble_pair(simd, bytes);
            sink.take(2 * pair, low);
            sink.take(2 * pair + 1, high);
        }
    }

    #[inline(always)]
    fn scales<S: Integers>(simd: S, tile: &[u8], scales: &mut Scales<S>) {
        scales.scale = load_scales(simd, &tile[SCALES..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_weight_gets_the_end_with_eight_steps() {
        // -16 / -8: the scale is 2.
        let block = Q4_0::quantise(&[-16.0, 14.0, 16.0, 1.0, -1.0, 0.9]);
        assert_eq!(block.scale, [0x00, 0x40]);
        assert_eq!(block.codes()[..7], [0, 15, 15, 9, 8, 8, 8]);
        let mirrored = Q4_0::quantise(&[16.0, -14.0, -16.0]);
        assert_eq!(mirrored.scale, [0x00, 0xc0]);
        assert_eq!(mirrored.codes()[..4], [0, 15, 15, 8]);
    }

    #[test]
    fn codes_survive_their_packing() {
        let codes = std::array::from_fn(|k| (k * 7 % 16) as u8);
        let block = Q4_0::from_codes([0x00, 0x3c], &codes);
        assert_eq!(block.codes(), codes);
        // Weights 0 and 16 share the first byte.
        assert_eq!(block.codes[0], codes[0] | codes[16] << 4);
    }
}
