//! `e^x`: one polynomial in fused operations, the same at every level.

use super::Simd;

/// Adding this to `n` (|n| < 2^22) leaves `n`, rounded to an integer, in the low fraction bits.
const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23

/// Below, `e^x` is under the smallest normal number and the result is zero.
const LOWEST: f32 = -87.336_54;
/// Above, the result stays at `e^88.37`, just below the largest `f32` power of two.
const HIGHEST: f32 = 88.37;

/// `e^x` in each lane.
///
/// With `n = round(x / ln 2)` and `r = x - n ln 2`: `e^x = 2^n e^r`, where |r| <= 0.347 and a
/// polynomial of degree 6 gives `e^r`. Largest relative error 1.1e-7 (tested). Results below the
/// smallest normal number are zero; arguments above 88.37 count as 88.37; NaN gives NaN.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::F32x16) -> S::F32x16 {
    let shift = simd.splat(SHIFT);
    let clamped = simd.min(simd.splat(HIGHEST), x);
    let shifted = simd.mul_add(clamped, simd.splat(std::f32::consts::LOG2_E), shift);
    let n = simd.sub(shifted, shift);
    // ln 2 in two parts, so that n * ln 2 is subtracted to 40 bits.
    let r = simd.mul_add(n, simd.splat(-0.693_145_75), clamped);
    let r = simd.mul_add(n, simd.splat(-1.428_606_8e-6), r);
    let mut p = simd.splat(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let y = simd.mul(p, simd.exp2_of_shifted(shifted));
    simd.zero_below(x, simd.splat(LOWEST), y)
}
