//! `q5_0`: 32 weights of 5 bits and a scale, 5.5 bits a weight.

use half::f16;

use super::block::{self, Block};
use super::kernel::{CodeSink, STEP, Scales, Tile, each_quad, load_scales};
use super::width::{QUAD, Wide};
use crate::simd::{Integers, LANES};

const WEIGHTS: usize = 32;

/// The code of weight 0.
const MIDDLE: f32 = 16.0;

/// 32 weights `scale * (code - 16)` with codes 0..=31.
///
/// ```text
/// byte  0 1    2..6           6    7    ..  21
///       scale  bit 4 of all   w0   w1   ..  w15      f16, u32 with bit k for weight k,
///                             w16  w17  ..  w31      then bits 0..4: low and high nibbles
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Q5_0 {
    /// An f16, little endian.
    pub scale: [u8; 2],
    /// The highest bit of each code: a u32, little endian.
    pub high: [u8; 4],
    /// The lower four bits, two codes a byte.
    pub low: [u8; WEIGHTS / 2],
}

const _: () = assert!(size_of::<Q5_0>() == 22);

impl Q5_0 {
    /// A block of 32 codes in the order of the weights.
    #[inline(always)]
    pub(crate) fn from_codes(scale: [u8; 2], codes: &[u8; WEIGHTS]) -> Self {
        let high = codes.iter().rev().fold(0u32, |high, code| high << 1 | u32::from(code >> 4 & 1));
        let mut block = Self { scale, high: high.to_le_bytes(), ..Self::default() };
        let (first, second) = codes.split_at(WEIGHTS / 2);
        block::join_nibbles(first, second, &mut block.low);
        block
    }

    /// The codes in the order of the weights.
    #[inline(always)]
    pub(crate) fn codes(&self) -> [u8; WEIGHTS] {
        let mut codes = [0; WEIGHTS];
        let (first, second) = codes.split_at_mut(WEIGHTS / 2);
        block::split_nibbles(&self.low, first, second);
        let high = u32::from_le_bytes(self.high);
        for (k, code) in codes.iter_mut().enumerate() {
            *code |= (high >> k & 1) as u8 * 16;
        }
        codes
    }
}

impl block::sealed::Sealed for Q5_0 {}

impl Block for Q5_0 {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = size_of::<Self>();

    fn from_bytes(mut bytes: &[u8]) -> Self {
        let scale = block::take(&mut bytes);
        Self { scale, high: block::take(&mut bytes), low: block::take(&mut bytes) }
    }

    fn write(&self, out: &mut [u8]) {
        block::write_parts([&self.scale, &self.high, &self.low], out);
    }

    /// ggml's rule, as for [`Q4_0`](super::Q4_0): the weight of the largest magnitude gets code
    /// 0, 16 steps from the middle. Halves are rounded up.
    #[inline(always)]
    fn quantise(weights: &[f32]) -> Self {
        let weights: [f32; WEIGHTS] = block::bounded(weights, MIDDLE * f16::MAX.to_f32());
        let scale = block::extreme(&weights) / -MIDDLE;
        let inverse = block::inverse(scale);
        // The cast drops the fraction, and what is below 0.
        let codes = weights.map(|w| ((w * inverse + (MIDDLE + 0.5)) as u8).min(31));
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

/// Sixteen rows by 32 inputs: the lower four bits eight inputs at a time, the uppermost bits, the
/// scales.
///
/// ```text
/// byte 0   o0: k0|k4 k2|k6 k1|k5 k3|k7 | o1: ..      64 bytes: low half | high half
///      256 o0: bit i of four bytes: bit 4 of k4i k4i+2 k4i+1 k4i+3 | o1: ..
///      320 scales of o0 .. o15, f16
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) enum Q5_0Tile {}

const HIGH: usize = 256;
const SCALES: usize = HIGH + STEP;

impl Tile for Q5_0Tile {
    type Block = Q5_0;
    type Width = Wide;
    const BYTES: usize = SCALES + 2 * LANES;
    const GROUP: usize = 32;
    const OFFSET: i32 = 16;

    fn pack(rows: &[Q5_0; LANES], tile: &mut [u8]) {
        tile.fill(0);
        for (lane, row) in rows.iter().enumerate() {
            for (k, code) in row.codes().into_iter().enumerate() {
                let at = lane * 4 + QUAD[k % 4];
                tile[k / 8 * STEP + at] |= (code & 15) << (k / 4 % 2 * 4);
                tile[HIGH + at] |= (code >> 4) << (k / 4);
            }
            tile[SCALES + 2 * lane..][..2].copy_from_slice(&row.scale);
        }
    }

    fn unpack(tile: &[u8], lane: usize) -> Q5_0 {
        let codes = std::array::from_fn(|k| {
            let at = lane * 4 + QUAD[k % 4];
            let low = tile[k / 8 * STEP + at] >> (k / 4 % 2 * 4) & 15;
            low | (tile[HIGH + at] >> (k / 4) & 1) << 4
        });
        let at = SCALES + 2 * lane;
        Q5_0::from_codes([tile[at], tile[at + 1]], &codes)
    }

    #[inline(always)]
    fn codes<S: Integers>(simd: S, tile: &[u8], _group: usize, sink: &mut impl CodeSink<S::Words>) {
        each_quad::<S, 1>(simd, &tile[..HIGH], &tile[HIGH..], sink);
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
    fn the_fifth_bits_stand_apart() {
        let codes = std::array::from_fn(|k| if k == 0 || k == 17 { 31 } else { k as u8 % 16 });
        let block = Q5_0::from_codes([0x00, 0x3c], &codes);
        assert_eq!(block.codes(), codes);
        assert_eq!(block.high, [0b1, 0, 0b10, 0]);
        assert_eq!(block.low[1], 1 | 15 << 4, "weights 1 and 17");
    }
}
