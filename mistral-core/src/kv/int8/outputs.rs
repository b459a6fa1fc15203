//! Sums of values: softmax weights times scales as integers, times codes.

use std::ops::Range;

use super::layout::{STEP, value_code, value_scale};
use super::{AHEAD, LARGEST, add_steps, load_scales};
use crate::kv::element::{BLOCK, ValueRows, Values};
use crate::simd::{Integers, LANES, max_lanes, sum_lanes};

/// The vectors that hold positions `seen` of a block.
#[inline(always)]
fn vectors(seen: &Range<usize>) -> Range<usize> {
    seen.start / LANES..seen.end.div_ceil(LANES)
}

/// What softmax weights are multiplied with: the scale of each value that is seen, as a share of
/// the largest. Returns what a product of 1 stands for; NaN if a value is none.
#[inline(always)]
pub(super) fn weigh<S: Integers>(
    simd: S,
    seen: &Range<usize>,
    values: Values<'_>,
    group: usize,
    factors: &mut [f32; BLOCK],
) -> f32 {
    let vectors = vectors(seen);
    let factors = factors.as_chunks_mut::<LANES>().0;
    for vector in vectors.clone() {
        let run = vector * LANES / values.positions;
        let (ValueRows { bytes, rows }, first) = values.runs[run];
        let row = first + vector * LANES - run * values.positions;
        let scales = load_scales(simd, &bytes[value_scale(rows, values.width, row, group)..]);
        simd.store(scales, &mut factors[vector]);
    }
    let all = factors.as_flattened_mut();
    all[vectors.start * LANES..seen.start].fill(0.0);
    all[seen.end..vectors.end * LANES].fill(0.0);
    let (mut largest, mut poison) = (simd.splat(0.0), simd.splat(0.0));
    for scales in &factors[vectors.clone()] {
        let scales = simd.load(scales);
        largest = simd.max(scales, largest);
        poison = simd.add(poison, simd.sub(scales, scales));
    }
    let largest = max_lanes(simd, largest) + sum_lanes(simd, poison);
    let inverse = simd.splat(if largest == 0.0 { 0.0 } else { LARGEST / largest });
    for factors in &mut factors[vectors] {
        simd.store(simd.mul(simd.load(factors), inverse), factors);
    }
    largest / LARGEST
}

/// `words[j] = round(p[j] * factors[j])` for the positions in `seen`, and 0 for others.
#[inline(always)]
pub(super) fn round_weights<S: Integers>(
    simd: S,
    p: &[f32; BLOCK],
    factors: &[f32; BLOCK],
    seen: &Range<usize>,
    words: &mut [[u8; 2]; BLOCK],
) {
    let (p, factors) = (p.as_chunks::<LANES>().0, factors.as_chunks::<LANES>().0);
    let parts = words.as_chunks_mut::<LANES>().0;
    for vector in vectors(seen) {
        let product = simd.mul(simd.load(&p[vector]), simd.load(&factors[vector]));
        simd.round_words(product, &mut parts[vector]);
    }
    words[..seen.start].fill([0; 2]);
    words[seen.end..].fill([0; 2]);
}

/// `Σ_j words[r][j] code[j]` over the positions `any`, for the sixteen elements of `P` columns.
#[inline(always)]
pub(super) fn integer_sums<S: Integers, const R: usize, const P: usize>(
    simd: S,
    words: &[[[u8; 2]; BLOCK]; R],
    any: &Range<usize>,
    values: Values<'_>,
    column: usize,
) -> [[S::WordSums; P]; R] {
    let mut sums = [[simd.start_words(0); P]; R];
    let mut from = any.start / 2 * 2;
    while from < any.end {
        let run = from / values.positions;
        let to = any.end.next_multiple_of(2).min((run + 1) * values.positions);
        let (ValueRows { bytes, rows }, first) = values.runs[run];
        let row = first + from - run * values.positions;
        let n = (to - from) / 2;
        let mut codes: [&[[u8; STEP]]; P] = [&[]; P];
        for (p, codes) in codes.iter_mut().enumerate() {
            let at = value_code(rows, row, (column + p) * LANES);
            *codes = &bytes[at..].as_chunks().0[..n];
        }
        let mut steps: [&[[u8; 4]]; R] = [&[]; R];
        for (steps, words) in steps.iter_mut().zip(words) {
            *steps = &words[from..to].as_flattened().as_chunks().0[..n];
        }
        let ahead = if P > 1 { P * rows * LANES } else { AHEAD };
        sums = add_steps(simd, codes, steps, ahead, sums);
        from = to;
    }
    sums
}
