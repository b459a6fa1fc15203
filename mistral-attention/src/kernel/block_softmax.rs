//! Softmax inside a block: its own maximum, its own sum.

use std::ops::Range;

use mistral_core::simd::{self, LANES, Simd};

use super::BLOCK;

/// Maximum and sum of the exponentials of some scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmax {
    /// The largest score, or `f32::MIN` if all are lower.
    pub(super) max: f32,
    /// `Σ e^(s - max)`.
    pub(super) sum: f32,
}

impl Softmax {
    /// Of no scores at all.
    pub(super) const EMPTY: Self = Self { max: f32::MIN, sum: 0.0 };
}

/// From here on `tanh` is a quotient, below it a polynomial.
const LARGE: f32 = 0.25;

/// `scores[j] := cap * tanh(scores[j] / cap)` for the vectors that hold the `j` in `seen`.
///
/// `tanh |x| = (1 - e^(-2|x|)) / (1 + e^(-2|x|))` in f32, which loses what is small beside 1: there
/// it is the first terms of its series, `x - x^3/3 + 2x^5/15 - 17x^7/315 + 62x^9/2835`, so that a
/// cap far above all scores leaves them as they are.
#[inline(always)]
pub(super) fn soft_cap<S: Simd>(simd: S, scores: &mut [f32; BLOCK], seen: &Range<usize>, cap: f32) {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    let (inverse, cap) = (simd.splat(1.0 / cap), simd.splat(cap));
    let vectors = seen.start / LANES..seen.end.div_ceil(LANES);
    for vector in &mut scores.as_chunks_mut::<LANES>().0[vectors] {
        let x = simd.mul(simd.load(vector), inverse);
        let minus = simd.sub(zero, x);
        let magnitude = simd.max(x, minus);
        let e = simd::exp(simd, simd.mul(magnitude, simd.splat(-2.0)));
        let quotient = simd.div(simd.sub(one, e), simd.add(one, e));
        let square = simd.mul(magnitude, magnitude);
        let mut series = simd.splat(62.0 / 2835.0);
        for term in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
            series = simd.mul_add(series, square, simd.splat(term));
        }
        let series = simd.mul_add(simd.mul(series, square), magnitude, magnitude);
        // One of the two is 0.
        let tanh = simd.add(
            simd.zero_below(magnitude, simd.splat(LARGE), quotient),
            simd.zero_below(simd.splat(LARGE.next_down()), magnitude, series),
        );
        // One of the two is 0, and both are NaN if x is.
        let signed = simd.sub(simd.zero_below(x, zero, tanh), simd.zero_below(minus, zero, tanh));
        simd.store(simd.mul(signed, cap), vector);
    }
}

/// `scores[j] := e^(scores[j] - max)` for the `j` in `seen`.
///
/// The sum is taken in sixteen lanes by `j mod 16`, over rising `j`, then across the lanes in a
/// fixed tree. Scores outside `seen` have no influence and are lost where they share a vector.
#[inline(always)]
pub(super) fn block_softmax<S: Simd>(
    simd: S,
    scores: &mut [f32; BLOCK],
    seen: Range<usize>,
) -> Softmax {
    let first = seen.start / LANES * LANES;
    let last = seen.end.next_multiple_of(LANES);
    // e^(-inf) is 0: added to a sum that is not negative, it changes no bit.
    scores[first..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..last].fill(f32::NEG_INFINITY);
    let (vectors, _) = scores[first..last].as_chunks_mut::<LANES>();
    // The maximum never is NaN: `max` gives its second argument if the first one is.
    let mut max = simd.splat(Softmax::EMPTY.max);
    for vector in vectors.iter() {
        max = simd.max(simd.load(vector), max);
    }
    let max = simd::max_lanes(simd, max);
    let shift = simd.splat(max);
    let mut sum = simd.splat(0.0);
    for vector in vectors {
        let p = simd::exp(simd, simd.sub(simd.load(vector), shift));
        simd.store(p, vector);
        sum = simd.add(sum, p);
    }
    Softmax { max, sum: simd::sum_lanes(simd, sum) }
}
