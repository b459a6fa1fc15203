//! `w8a8`: 256 weights of 8 bits and a scale, 8.125 bits a weight, which meet inputs of 8 bits.

use std::marker::PhantomData;

use super::block::{self, Block};
use super::kernel::{CodeSink, STEP, Scales, Tile};
use super::octets::{OFFSET, OctetBlock, OctetWidth, WEIGHTS, position};
use crate::simd::{Integers, LANES};

/// The largest weight: 127 times its rounded 127th is still finite.
const LARGEST: f32 = 3.4e38;

/// 256 weights `scale * codes[k]`.
///
/// ```text
/// byte  0 .. 3   4    5    ..  259
///       scale    w0   w1   ..  w255     f32, then signed bytes
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct W8A8 {
    /// An f32, little endian.
    pub scale: [u8; 4],
    /// One number for each weight.
    pub codes: [i8; WEIGHTS],
}

const _: () = assert!(size_of::<W8A8>() == 260);

impl Default for W8A8 {
    fn default() -> Self {
        Self { scale: [0; 4], codes: [0; WEIGHTS] }
    }
}

impl block::sealed::Sealed for W8A8 {}

impl Block for W8A8 {
    const WEIGHTS: usize = WEIGHTS;
    const BYTES: usize = size_of::<Self>();

    fn from_bytes(mut bytes: &[u8]) -> Self {
        let scale = block::take(&mut bytes);
        Self { scale, codes: block::take::<WEIGHTS>(&mut bytes).map(|code| code as i8) }
    }

    fn write(&self, out: &mut [u8]) {
        block::write_parts([&self.scale, &self.codes.map(|code| code as u8)], out);
    }

    /// The rule of [`Q8_0`](super::Q8_0): the largest magnitude becomes 127, ties are rounded away
    /// from 0.
    #[inline(always)]
    fn quantise(weights: &[f32]) -> Self {
        let (scale, codes) = block::eight_bits(block::bounded(weights, LARGEST));
        Self { scale: scale.to_le_bytes(), codes }
    }

    #[inline(always)]
    fn dequantise(&self, out: &mut [f32]) {
        let scale = f32::from_le_bytes(self.scale);
        for (out, code) in out.iter_mut().zip(self.codes) {
            *out = f32::from(code) * scale;
        }
    }
}

/// Sixteen rows by 256 inputs: the codes with 128 added, four inputs at a time, then the scales.
///
/// ```text
/// byte 0    o0: k0 k2 k1 k3 | o1: k0 k2 k1 k3 | .. | o15: ..     64 bytes
///      64   o0: k4 k6 k5 k7 | ..                                 64 times
///      4096 scales of o0 .. o15, f32
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct W8A8Tile<W>(PhantomData<W>);

const SCALES: usize = WEIGHTS * LANES;

impl OctetBlock for W8A8 {
    type Tile<W: OctetWidth> = W8A8Tile<W>;
}

impl<W: OctetWidth> Tile for W8A8Tile<W> {
    type Block = W8A8;
    type Width = W;
    const BYTES: usize = SCALES + 4 * LANES;
    const GROUP: usize = WEIGHTS;
    const LARGEST: f32 = 127.0;
    const OFFSET: i32 = OFFSET as i32;

    fn pack(rows: &[W8A8; LANES], tile: &mut [u8]) {
        let (codes, scales) = tile.split_at_mut(SCALES);
        for (lane, row) in rows.iter().enumerate() {
            for (k, code) in row.codes.iter().enumerate() {
                codes[position(lane, k)] = *code as u8 ^ OFFSET;
            }
            scales[4 * lane..][..4].copy_from_slice(&row.scale);
        }
    }

    fn unpack(tile: &[u8], lane: usize) -> W8A8 {
        let (codes, scales) = tile.split_at(SCALES);
        W8A8 {
            scale: std::array::from_fn(|i| scales[4 * lane + i]),
            codes: std::array::from_fn(|k| (codes[position(lane, k)] ^ OFFSET) as i8),
        }
    }

    #[inline(always)]
    fn codes<S: Integers>(
        simd: S,
        tile: &[u8],
        _group: usize,
        sink: &mut impl CodeSink<W::Codes<S>>,
    ) {
        for (quad, codes) in tile[..SCALES].as_chunks().0.iter().enumerate() {
            W::hand(simd, quad, simd.load_bytes(codes), sink);
        }
    }

    #[inline(always)]
    fn ready(tile: &[u8]) -> Option<&[[u8; STEP]]> {
        W::READY.then(|| tile[..SCALES].as_chunks().0)
    }

    #[inline(always)]
    fn scales<S: Integers>(simd: S, tile: &[u8], scales: &mut Scales<S>) {
        let mut floats = [0.0; LANES];
        for (float, bytes) in floats.iter_mut().zip(tile[SCALES..].as_chunks().0) {
            *float = f32::from_le_bytes(*bytes);
        }
        scales.scale = simd.load(&floats);
    }
}
