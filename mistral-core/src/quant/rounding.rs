//! Rounding of inputs, which meet the integers of quantised formats.

use crate::simd::{LANES, Lanes, Simd, max_lanes, sum_lanes};

/// Numbers with one scale.
const BLOCK: usize = 32;

/// 32 numbers as integers: `x ≈ scale * integer` with `scale = max|x| / largest`.
///
/// Numbers among which is NaN or infinity have a scale that is not finite. `largest` is at most
/// `2^22`. Must be called from a [`Kernel`](crate::simd::Kernel).
#[inline(always)]
pub fn round_block<S: Simd>(simd: S, x: &[f32; BLOCK], largest: f32) -> (f32, [i32; BLOCK]) {
    let mut integers = [0; BLOCK];
    (round_into(simd, x, largest, &mut integers), integers)
}

/// [`round_block`] for any whole number of vectors: writes the integers and returns their scale.
#[inline(always)]
pub(crate) fn round_into<S: Simd>(simd: S, x: &[f32], largest: f32, integers: &mut [i32]) -> f32 {
    // Added to a small number and taken as bits, this leaves the number rounded to nearest even.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    let zero = simd.splat(0.0);
    let mut extreme = zero;
    let mut poison = zero;
    let (halves, _) = x.as_chunks::<LANES>();
    for half in halves {
        let v = simd.load(half);
        extreme = simd.max(simd.max(v, simd.sub(zero, v)), extreme);
        poison = simd.add(poison, simd.sub(v, v));
    }
    let scale = max_lanes(simd, extreme) / largest + sum_lanes(simd, poison);
    if !scale.is_finite() {
        integers.fill(0);
        return scale;
    }
    // Inputs this small are lost beside any others: their scale has no finite inverse.
    let scale = if scale < f32::MIN_POSITIVE { 0.0 } else { scale };
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for (half, out) in halves.iter().zip(integers.as_chunks_mut::<LANES>().0) {
        let mut shifted = Lanes([0.0; LANES]);
        let v = simd.mul_add(simd.load(half), simd.splat(inverse), simd.splat(ROUND));
        simd.store(v, &mut shifted.0);
        for (integer, shifted) in out.iter_mut().zip(shifted.0) {
            *integer = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        }
    }
    scale
}
