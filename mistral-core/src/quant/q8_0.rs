//! `q8_0`: 32 weights of 8 bits and a scale, 8.5 bits a weight.

use half::f16;

use super::block::{self, Block};
use super::kernel::{CodeSink, Scales, Tile, load_scales};
use super::width::Wide;
use crate::simd::{Integers, LANES};

const WEIGHTS: usize = 32;

/// 32 weights `scale * codes[k]`.
///
/// ```text
/// byte  0 1    2    3    ..  33
///       scale  w0   w1   ..  w31      f16, then signed bytes
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Q8_0 {
    /// An f16, little endian.
    pub scale: [u8; 2],
    /// One number for each weight.
    pub codes: [i8; WEIGHTS],
}

const _: () = assert!(size_of::<Q8_0>() == 34);

impl block::sealed::Sealed for Q8_0 {}

impl Block for Q8_0 {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = size_of::<Self>();

    fn from_bytes(mut bytes: &[u8]) -> Self {
        let scale = block::take(&mut bytes);
        Self { scale, codes: block::take::<WEIGHTS>(&mut bytes).map(|code| code as i8) }
    }

    fn write(&self, out: &mut [u8]) {
        block::write_parts([&self.scale, &self.codes.map(|code| code as u8)], out);
    }

    /// ggml's rule: the largest magnitude becomes 127, ties are rounded away from 0. Codes are
    /// rounded for the scale before it is rounded to f16.
    #[inline(always)]
    fn quantise(weights: &[f32]) -> Self {
        let largest = block::TOP * f16::MAX.to_f32();
        let (scale, codes) = block::eight_bits(block::bounded(weights, largest));
        Self { scale: block::half_bytes(scale), codes }
    }

    #[inline(always)]
    fn dequantise(&self, out: &mut [f32]) {
        let scale = block::half(self.scale);
        for (out, code) in out.iter_mut().zip(self.codes) {
            *out = f32::from(code) * scale;
        }
    }
}

/// Sixteen rows by 32 inputs: the codes two inputs at a time, then the scales.
///
/// ```text
/// byte 0   o0: k0 k1 | o1: k0 k1 | .. | o15: k0 k1     32 bytes a step
///      32  o0: k2 k3 | ..                              16 steps
///      512 scales of o0 .. o15, f16
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) enum Q8_0Tile {}

const SCALES: usize = 512;

impl Tile for Q8_0Tile {
    type Block = Q8_0;
    type Width = Wide;
    const BYTES: usize = SCALES + 2 * LANES;
    const GROUP: usize = 32;
    const OFFSET: i32 = 0;

    fn pack(rows: &[Q8_0; LANES], tile: &mut [u8]) {
        let (codes, scales) = tile.split_at_mut(SCALES);
        for (lane, row) in rows.iter().enumerate() {
            for (k, code) in row.codes.iter().enumerate() {
                codes[k / 2 * 32 + lane * 2 + k % 2] = *code as u8;
            }
            scales[2 * lane..][..2].copy_from_slice(&row.scale);
        }
    }

    fn unpack(tile: &[u8], lane: usize) -> Q8_0 {
        let (codes, scales) = tile.split_at(SCALES);
        Q8_0 {
            scale: [scales[2 * lane], scales[2 * lane + 1]],
            codes: std::array::from_fn(|k| codes[k / 2 * 32 + lane * 2 + k % 2] as i8),
        }
    }

    #[inline(always)]
    fn codes<S: Integers>(simd: S, tile: &[u8], _group: usize, sink: &mut impl CodeSink<S::Words>) {
        for (step, codes) in tile[..SCALES].as_chunks::<32>().0.iter().enumerate() {
            sink.take(step, simd.widen_signed(codes));
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
    fn ties_are_rounded_away_from_zero() {
        // 127 is the largest: the scale is 1, and weights are their own codes.
        let block = Q8_0::quantise(&[127.0, 0.5, -0.5, 1.5, -2.5, 0.499_999_97]);
        assert_eq!(block.scale, [0x00, 0x3c]);
        assert_eq!(block.codes[..7], [127, 1, -1, 2, -3, 0, 0]);
    }
}
