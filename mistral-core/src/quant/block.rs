//! What all block formats have in common.

use std::fmt::Debug;

use half::f16;

pub(super) mod sealed {
    pub trait Sealed {}
}

/// Consecutive weights of one row, as a file of ggml's formats holds them, or one of ours would
/// ([`W8A8`](super::W8A8)): small integers, the *codes*, and what they are multiplied with. Sealed.
///
/// A block is plain bytes, and numbers in it are little endian on every machine.
///
/// ```
/// use mistral_core::quant::{Block, Q8_0};
///
/// let weights: [f32; 32] = std::array::from_fn(|k| k as f32 / 31.0);
/// let block = Q8_0::quantise(&weights);
/// let mut back = [0.0; 32];
/// block.dequantise(&mut back);
/// // 1.0 is the largest weight, so one step is 1/127.
/// assert!(weights.iter().zip(back).all(|(w, b)| (w - b).abs() <= 0.51 / 127.0));
///
/// let mut bytes = [0; Q8_0::BYTES];
/// block.write(&mut bytes);
/// assert_eq!(Q8_0::from_bytes(&bytes), block);
/// ```
pub trait Block:
    sealed::Sealed + Copy + Default + PartialEq + Debug + Send + Sync + 'static
{
    /// Weights in a block.
    const WEIGHTS: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// The block in the first [`BYTES`](Self::BYTES) of `bytes`; bytes that are missing count as 0.
    fn from_bytes(bytes: &[u8]) -> Self;

    /// Writes the block over the first [`BYTES`](Self::BYTES) of `out`, as far as it reaches.
    fn write(&self, out: &mut [u8]);

    /// The block nearest to [`WEIGHTS`](Self::WEIGHTS) weights that the format's rule finds.
    ///
    /// Weights that are missing count as 0. A block has no code for what is not finite: NaN
    /// becomes 0, and infinity, as any weight too large for the format, its largest value.
    fn quantise(weights: &[f32]) -> Self;

    /// The weights, each one product or difference of products rounded to f32 as ggml does it.
    /// Stops where `out` ends.
    fn dequantise(&self, out: &mut [f32]);
}

/// Copies weights, each brought into `-largest..=largest`.
#[inline(always)]
pub(super) fn bounded<const N: usize>(weights: &[f32], largest: f32) -> [f32; N] {
    let mut bounded = [0.0; N];
    for (b, w) in bounded.iter_mut().zip(weights) {
        *b = if w.is_nan() { 0.0 } else { w.clamp(-largest, largest) };
    }
    bounded
}

/// The first weight of the largest magnitude; 0 if all are.
#[inline(always)]
pub(super) fn extreme(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |m: f32, w| if w.abs() > m.abs() { *w } else { m })
}

/// `1 / scale`, and 0 where that is no number: all codes are those of 0 then.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Largest code of 8 bits: they reach as far down as up, and -128 is not used.
pub(super) const TOP: f32 = 127.0;

/// Codes of 8 bits and their scale, before it is rounded itself: the largest magnitude becomes
/// [`TOP`], ties are rounded away from 0.
#[inline(always)]
pub(super) fn eight_bits<const N: usize>(weights: [f32; N]) -> (f32, [i8; N]) {
    let scale = extreme(&weights).abs() / TOP;
    let inverse = inverse(scale);
    (scale, weights.map(|w| (w * inverse).round() as i8))
}

/// The f16 in a block.
#[inline(always)]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// The finite f16 nearest to `x`, ties to even, as it lies in a block.
#[inline(always)]
pub(super) fn half_bytes(x: f32) -> [u8; 2] {
    let largest = f16::MAX.to_f32();
    f16::from_f32(x.clamp(-largest, largest)).to_le_bytes()
}

/// `x` as a block would hold it.
#[inline(always)]
pub(super) fn rounded(x: f32) -> f32 {
    half(half_bytes(x))
}

/// Two codes of 4 bits a byte: those of `low` and those of `high`.
#[inline(always)]
pub(super) fn join_nibbles(low: &[u8], high: &[u8], out: &mut [u8]) {
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = (low & 15) | (high << 4);
    }
}

/// The inverse of [`join_nibbles`].
#[inline(always)]
pub(super) fn split_nibbles(bytes: &[u8], low: &mut [u8], high: &mut [u8]) {
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// Takes the next `N` bytes; those that are missing are 0.
#[inline(always)]
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let (head, rest) = bytes.split_at(N.min(bytes.len()));
    taken[..head.len()].copy_from_slice(head);
    *bytes = rest;
    taken
}

/// Writes the parts of a block one after the other, as far as `out` reaches.
#[inline(always)]
pub(super) fn write_parts<const N: usize>(parts: [&[u8]; N], mut out: &mut [u8]) {
    for part in parts {
        let n = part.len().min(out.len());
        let (target, rest) = out.split_at_mut(n);
        target.copy_from_slice(&part[..n]);
        out = rest;
    }
}
