//! Rounding of inputs, which meet the integers of quantised formats.

use super::width::Width;
use crate::simd::{LANES, Lanes, Simd};

/// Numbers with one scale.
const BLOCK: usize = 32;

/// Added to a small number and taken as bits, this leaves the number rounded to nearest even.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

const SIGN: u32 = 1 << 31;

/// 32 numbers as integers: `x ≈ scale * integer` with `scale = max|x| / largest`.
///
/// The scale of numbers among which is NaN or infinity is NaN. `largest` is at most `2^22`. Must be
/// called from a [`Kernel`](crate::simd::Kernel).
#[inline(always)]
pub fn round_block<S: Simd>(simd: S, x: &[f32; BLOCK], largest: f32) -> (f32, [i32; BLOCK]) {
    let mut integers = [0; BLOCK];
    let Some(scale) = scale_of(x, largest) else {
        return (f32::NAN, integers);
    };
    let inverse = inverse_of(simd, scale);
    for (x, out) in x.as_chunks().0.iter().zip(integers.as_chunks_mut::<LANES>().0) {
        let mut lanes = Lanes([0.0; LANES]);
        simd.store(round_lanes(simd, x, inverse), &mut lanes.0);
        for (integer, lane) in out.iter_mut().zip(lanes.0) {
            *integer = lane.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        }
    }
    (scale, integers)
}

/// [`round_block`] for any whole number of vectors: writes the integers as steps and returns their
/// scale.
#[inline(always)]
pub(crate) fn round_steps<S: Simd, W: Width>(
    simd: S,
    x: &[f32],
    largest: f32,
    steps: &mut [[u8; 4]],
) -> f32 {
    let Some(scale) = scale_of(x, largest) else {
        steps.fill([0; 4]);
        return f32::NAN;
    };
    let inverse = inverse_of(simd, scale);
    for (x, steps) in x.as_chunks().0.iter().zip(steps.chunks_exact_mut(LANES / W::INPUTS)) {
        W::pack(simd, round_lanes(simd, x, inverse), steps);
    }
    scale
}

/// The scale of finite numbers.
#[inline(always)]
fn scale_of(x: &[f32], largest: f32) -> Option<f32> {
    // As bits: the order of sizes is the same, with infinities and then NaNs at the end of it.
    let extreme = x.iter().fold(0, |extreme: u32, x| extreme.max(x.to_bits() & !SIGN));
    if extreme >= f32::INFINITY.to_bits() {
        return None;
    }
    let scale = f32::from_bits(extreme) / largest;
    // Inputs this small are lost beside any others: their scale has no finite inverse.
    Some(if scale < f32::MIN_POSITIVE { 0.0 } else { scale })
}

#[inline(always)]
fn inverse_of<S: Simd>(simd: S, scale: f32) -> S::F32x16 {
    simd.splat(if scale == 0.0 { 0.0 } else { 1.0 / scale })
}

/// Sixteen numbers rounded: the lower bits of a lane are an integer in two's complement.
#[inline(always)]
fn round_lanes<S: Simd>(simd: S, x: &[f32; LANES], inverse: S::F32x16) -> S::F32x16 {
    simd.mul_add(simd.load(x), inverse, simd.splat(ROUND))
}
