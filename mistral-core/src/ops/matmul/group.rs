//! One group of codes against some rows of inputs: what both paths of `quantised.rs` add up.

use std::marker::PhantomData;

use super::activations::{CHUNK, Group, Inputs};
use crate::quant::kernel::{CodeSink, STEP, Scales, Tile, groups, steps, widen_bytes};
use crate::quant::width::Width;
use crate::simd::Integers;

/// What the sums of a group are multiplied with.
#[derive(Clone, Copy)]
pub(super) struct GroupScales<S: Integers, T: Tile> {
    scale: S::F32x16,
    factors: <T::Width as Width>::Factors<S>,
    minima: S::F32x16,
}

impl<S: Integers, T: Tile> GroupScales<S, T> {
    /// Of no group yet.
    #[inline(always)]
    pub(super) fn none(simd: S) -> Self {
        Self::of(simd, &Scales::room(simd), 0)
    }

    #[inline(always)]
    pub(super) fn of(simd: S, tile: &Scales<S>, group: usize) -> Self {
        Self {
            scale: tile.scale,
            factors: T::Width::factors(simd, tile.scale, &tile.scales[group]),
            minima: simd.mul(tile.minimum, widen_bytes(simd, &tile.minima[group])),
        }
    }

    /// Adds the sums of a group to the totals of `R` rows.
    #[inline(always)]
    fn finish<const R: usize>(
        self,
        simd: S,
        sums: [<T::Width as Width>::Sums<S>; R],
        x: &[Group; R],
        totals: &mut [S::F32x16; R],
    ) {
        for ((total, sums), x) in totals.iter_mut().zip(sums).zip(x) {
            let scale = simd.splat(x.scale);
            let (sums, factor) = if groups::<T>() > 1 {
                T::Width::scaled(simd, sums, self.scale, self.factors)
            } else {
                (T::Width::total(simd, sums), self.scale)
            };
            let mut sum = simd.mul_add(sums, simd.mul(factor, scale), *total);
            if T::MINIMA {
                sum = simd.mul_add(self.minima, simd.splat(x.sum), sum);
            }
            *total = sum;
        }
    }
}

/// What is asked of memory while a group is multiplied: as many bytes as it has, further on.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'a> {
    pub(super) panel: &'a [u8],
    pub(super) at: usize,
}

impl Ahead<'_> {
    /// Whether each step asks for its bytes: those of a large group are too many to be asked for at
    /// once.
    pub(super) const fn by_step<T: Tile>() -> bool {
        T::BYTES / groups::<T>() > 1024
    }
}

/// Adds one group of a tile to the totals of the next `R` rows.
#[inline(always)]
pub(super) fn add_tile<S: Integers, T: Tile, const R: usize>(
    simd: S,
    (tile, group): (&[u8], usize),
    scales: GroupScales<S, T>,
    x: &mut Inputs<'_>,
    totals: &mut [S::F32x16],
    ahead: Ahead<'_>,
) {
    let (Some(x), Some(totals)) = (x.take(steps::<T>()), totals.first_chunk_mut()) else {
        return;
    };
    let sums = start::<S, T, R>(simd, x.groups);
    let mut multiply = Multiply::<S, T, R> { simd, steps: x.steps, sums, ahead };
    T::codes(simd, tile, group, &mut multiply);
    scales.finish(simd, multiply.sums, x.groups, totals);
}

/// What the sums of `R` rows start with.
#[inline(always)]
fn start<S: Integers, T: Tile, const R: usize>(
    simd: S,
    x: &[Group; R],
) -> [<T::Width as Width>::Sums<S>; R] {
    // A loop: `array::from_fn` is not always inlined.
    let mut sums = [T::Width::start(simd, 0); R];
    if T::OFFSET != 0 {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = T::Width::start(simd, x.start);
        }
    }
    sums
}

/// Multiplies codes with the inputs of `R` rows as they come.
struct Multiply<'a, S: Integers, T: Tile, const R: usize> {
    simd: S,
    steps: &'a [[[u8; 4]; R]],
    sums: [<T::Width as Width>::Sums<S>; R],
    ahead: Ahead<'a>,
}

impl<S: Integers, T: Tile, const R: usize> CodeSink<<T::Width as Width>::Codes<S>>
    for Multiply<'_, S, T, R>
{
    #[inline(always)]
    fn take(&mut self, step: usize, codes: <T::Width as Width>::Codes<S>) {
        let Some(x) = self.steps.get(step) else {
            return;
        };
        let at = step * (T::BYTES / groups::<T>() / steps::<T>());
        if Ahead::by_step::<T>() && at.is_multiple_of(STEP) {
            self.simd.prefetch(self.ahead.panel, self.ahead.at + at);
        }
        for (sums, x) in self.sums.iter_mut().zip(x) {
            *sums = T::Width::dot(self.simd, *sums, codes, *x);
        }
    }
}

/// Stores codes as they come.
pub(super) struct Unpack<'a, S, T> {
    simd: S,
    unpacked: &'a mut [[u8; STEP]],
    tile: PhantomData<T>,
}

impl<'a, S: Integers, T: Tile> Unpack<'a, S, T> {
    #[inline(always)]
    pub(super) fn new(simd: S, unpacked: &'a mut [[u8; STEP]]) -> Self {
        Self { simd, unpacked, tile: PhantomData }
    }
}

impl<S: Integers, T: Tile> CodeSink<<T::Width as Width>::Codes<S>> for Unpack<'_, S, T> {
    #[inline(always)]
    fn take(&mut self, step: usize, codes: <T::Width as Width>::Codes<S>) {
        if let Some(step) = self.unpacked.get_mut(step) {
            T::Width::store(self.simd, codes, step);
        }
    }
}

/// Adds one unpacked group of `P` panels to the totals of `R` rows from `first` on.
#[inline(always)]
pub(super) fn add_unpacked<S: Integers, T: Tile, const R: usize, const P: usize>(
    simd: S,
    codes: [&[[u8; STEP]]; P],
    scales: [GroupScales<S, T>; P],
    x: &mut Inputs<'_>,
    totals: &mut [[S::F32x16; CHUNK]; P],
    first: usize,
) {
    let steps = codes[0].len();
    let Some(x) = x.take::<R>(steps) else {
        return;
    };
    let mut codes = codes;
    for codes in &mut codes {
        *codes = &codes[..steps];
    }
    let mut sums = [start::<S, T, R>(simd, x.groups); P];
    for (step, x) in x.steps.iter().enumerate() {
        let mut now = [T::Width::load(simd, &codes[0][step]); P];
        for p in 1..P {
            now[p] = T::Width::load(simd, &codes[p][step]);
        }
        for r in 0..R {
            for p in 0..P {
                sums[p][r] = T::Width::dot(simd, sums[p][r], now[p], x[r]);
            }
        }
    }
    for p in 0..P {
        if let Some(totals) = totals[p][first..].first_chunk_mut() {
            scales[p].finish(simd, sums[p], x.groups, totals);
        }
    }
}
