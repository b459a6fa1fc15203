//! bf16 weights that meet bf16 inputs, in pairs: what AVX-512 multiplies at twice the rate of floats.
//!
//! ```text
//! inputs:  x ≈ 2^e * bf16, with one e for each row
//! sums:    ((sum + x[1] w[1]) + x[0] w[0]) + x[3] w[3] ...      every + rounded once
//! ```
//!
//! The instruction takes the second input of a pair first, and treats what is below the smallest
//! normal number as zero. Levels without it do the same with fused multiply-adds: the second input
//! and its weight lie first, `e` is such that no sum can be that small, and weights are tested.

use std::ops::Range;

use half::bf16;
use ndarray::ArrayView2;

use super::activations::Activations;
use super::dense::{DensePanels, MANY};
use crate::element::Factor;
use crate::ops::row;
use crate::simd::{Integers, Kernel, LANES, Lanes, Level, Simd, join_pair};
use crate::threads;

/// The largest input of a row lies between this power of two and the next. Inputs are then multiples
/// of `SMALLEST * 2^-7`, normal weights of `2^-133`, so sums are zero or [`f32::MIN_POSITIVE`] at least.
const LARGEST: i32 = 54;

/// Inputs below this count as zero: in bits.
const SMALLEST: u32 = ((LARGEST - 40 + BIAS) as u32) << 23;

/// What is added to the exponent of an `f32` in its bits.
const BIAS: i32 = 127;

/// Rows that one thread rounds.
const TASK: usize = 64;

/// All but the sign.
const SIZE: u32 = !(1 << 31);

/// One weight of a pair: what levels multiply that have no instruction for both.
impl Factor for [bf16; 1] {
    #[inline(always)]
    fn load<S: Simd>(simd: S, lanes: &Lanes<Self>) -> S::F32x16 {
        let Some(lanes) = lanes.0.as_flattened().first_chunk() else {
            return simd.splat(0.0);
        };
        let weights = simd.load_bf16(lanes);
        let size = simd.max(weights, simd.sub(simd.splat(0.0), weights));
        simd.zero_below(size, simd.splat(f32::MIN_POSITIVE), weights)
    }
}

/// Both weights of a pair. Inputs are the bits of both as well.
impl Factor for [bf16; 2] {
    const INPUTS: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(simd: S, lanes: &Lanes<Self>) -> S::F32x16 {
        simd.load_pairs(&lanes.0)
    }

    #[inline(always)]
    fn mul_add<S: Simd>(simd: S, x: S::F32x16, w: S::F32x16, sums: S::F32x16) -> S::F32x16 {
        simd.dot_pairs(x, w, sums)
    }
}

/// Inputs of all rows, rounded.
#[derive(Debug, Clone, Default)]
pub(super) struct PairInputs {
    /// `[row][step]`: pairs as bits, or the second number of each and then the first.
    steps: Vec<f32>,
    /// What the sums of a row are multiplied with.
    scales: Vec<f32>,
}

impl PairInputs {
    /// Rounds `x`, on several threads where it pays.
    fn round<F: Factor>(&mut self, level: Level, x: ArrayView2<'_, f32>) {
        // What is there already is written over.
        self.steps.resize(x.len() / F::INPUTS, 0.0);
        self.scales.resize(x.nrows(), 0.0);
        let rows = 0..x.nrows();
        let (steps, scales) = (self.steps.as_mut_slice(), self.scales.as_mut_slice());
        Round { x, rows, joined: F::INPUTS == 2, steps, scales }.split(level);
    }
}

impl Activations {
    /// Brings `x` into the form in which it meets weights `F`.
    pub(super) fn round_pairs<F: Factor>(&mut self, level: Level, x: ArrayView2<'_, f32>) {
        self.pairs.round::<F>(level, x);
        if x.nrows() >= MANY {
            let pairs = std::mem::take(&mut self.pairs);
            if let Some(steps) = view::<F>(&pairs, x.dim()) {
                self.pack::<F>(level, steps);
            }
            self.pairs = pairs;
        }
    }

    /// `panels`, to be multiplied with what [`Activations::round_pairs`] made of inputs of this shape.
    pub(super) fn meet_pairs<'a, F: Factor>(
        &'a self,
        shape: (usize, usize),
        panels: &'a [Lanes<F>],
    ) -> Option<DensePanels<'a, F>> {
        let x = view::<F>(&self.pairs, shape)?;
        Some(DensePanels { x, activations: self, panels, scales: Some(&self.pairs.scales) })
    }
}

/// The rounded inputs `(rows, steps)` of an array of this shape.
fn view<F: Factor>(
    pairs: &PairInputs,
    (rows, cols): (usize, usize),
) -> Option<ArrayView2<'_, f32>> {
    ArrayView2::from_shape((rows, cols / F::INPUTS), &pairs.steps).ok()
}

/// Rounds some rows.
struct Round<'a> {
    x: ArrayView2<'a, f32>,
    rows: Range<usize>,
    joined: bool,
    steps: &'a mut [f32],
    scales: &'a mut [f32],
}

impl Round<'_> {
    fn split(self, level: Level) {
        let Self { x, rows, joined, steps, scales } = self;
        if rows.len() <= TASK {
            return level.dispatch(Round { x, rows, joined, steps, scales });
        }
        let n = rows.len() / 2;
        let middle = rows.start + n;
        let (steps, other_steps) = steps.split_at_mut(steps.len() / rows.len() * n);
        let (scales, other_scales) = scales.split_at_mut(n);
        let left = Round { x, rows: rows.start..middle, joined, steps, scales };
        let (steps, scales) = (other_steps, other_scales);
        let right = Round { x, rows: middle..rows.end, joined, steps, scales };
        threads::join(|| left.split(level), || right.split(level));
    }
}

impl Kernel for Round<'_> {
    type Output = ();

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Integers>(self, _simd: S) {
        let steps = self.steps.chunks_exact_mut(self.steps.len() / self.rows.len().max(1));
        for ((index, scale), steps) in self.rows.zip(self.scales).zip(steps) {
            let x = row(&self.x, index);
            let factor;
            (factor, *scale) = factors(x);
            let pairs = x.as_chunks::<2>().0;
            if self.joined {
                for (step, [first, second]) in steps.iter_mut().zip(pairs) {
                    let half = |x: f32| bf16::from_bits((round(x * factor) >> 16) as u16);
                    *step = join_pair(half(*second), half(*first));
                }
            } else {
                for (step, [first, second]) in steps.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                    *step = [*second, *first].map(|x| f32::from_bits(round(x * factor)));
                }
            }
        }
    }
}

/// What a row is multiplied with, and what undoes it: powers of two. The row's sums are NaN if an
/// input is not finite.
#[inline(always)]
fn factors(x: &[f32]) -> (f32, f32) {
    let largest = x.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & SIZE));
    if largest >= f32::INFINITY.to_bits() {
        return (0.0, f32::NAN);
    }
    let exponent = (largest >> 23) as i32 - BIAS;
    let shift = (LARGEST - exponent).min(126);
    let power = |n: i32| f32::from_bits(((n + BIAS) as u32) << 23);
    (power(shift), power(-shift))
}

/// `x` to eight significant bits, ties to even, as the bits of an `f32`.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    if bits & SIZE < SMALLEST { 0 } else { rounded }
}

/// A vector of pairs is two of bf16.
const _: () = assert!(size_of::<Lanes<[bf16; 2]>>() == 2 * LANES * 2);
