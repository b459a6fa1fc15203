//! A block of weights of sixteen outputs against some rows of inputs: what both paths of
//! `quantised.rs` add up.

use std::hint::black_box;
use std::marker::PhantomData;

use super::activations::{CHUNK, RowGroup};
use crate::quant::kernel::{CodeSink, MAX_GROUPS, STEP, Scales, Tile, groups, has_factors, steps};
use crate::quant::width::Width;
use crate::simd::{Integers, LANES};

/// Most steps of minima: one for each group of formats that have some.
const MAX_MINIMA: usize = 8;

/// What the sums of a tile are multiplied with, as levels take it.
#[derive(Clone, Copy)]
pub(super) struct BlockScales<S: Integers, T: Tile> {
    /// How many groups there are: hidden from the compiler, which would unroll loops over them.
    groups: usize,
    scale: S::F32x16,
    /// Of each group, of formats whose blocks have several.
    factors: [<T::Width as Width>::Factors<S>; MAX_GROUPS],
    minimum: S::F32x16,
    /// Of each step, of formats with minima.
    minima: [S::Words; MAX_MINIMA],
}

impl<S: Integers, T: Tile> BlockScales<S, T> {
    /// Of no tile yet.
    #[inline(always)]
    pub(super) fn none(simd: S) -> Self {
        let none = simd.splat(0.0);
        Self {
            groups: if has_factors::<T>() { black_box(groups::<T>()) } else { 1 },
            scale: none,
            factors: [T::Width::factors(simd, &[0; LANES]); MAX_GROUPS],
            minimum: none,
            minima: [simd.load_words(&[0; STEP]); MAX_MINIMA],
        }
    }

    /// Takes those of a tile.
    #[inline(always)]
    pub(super) fn read(&mut self, simd: S, tile: &[u8]) {
        let mut scales = Scales::room(simd);
        T::scales(simd, tile, &mut scales);
        self.scale = scales.scale;
        self.minimum = scales.minimum;
        if has_factors::<T>() {
            let factors = self.factors.iter_mut().take(groups::<T>());
            for (factors, bytes) in factors.zip(&scales.scales) {
                *factors = T::Width::factors(simd, bytes);
            }
        }
        for (step, minima) in self.minima.iter_mut().take(T::MINIMA).enumerate() {
            let mut bytes = [0; STEP];
            let words = T::minima(&scales.minima, step);
            for (bytes, words) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
                *bytes = words.to_le_bytes();
            }
            *minima = simd.load_words(&bytes);
        }
    }

    /// Adds the sums of group `g` to what the block has.
    #[inline(always)]
    fn add<const R: usize>(
        &self,
        simd: S,
        g: usize,
        sums: [<T::Width as Width>::Sums<S>; R],
        block: &mut [S::F32x16; R],
    ) {
        for r in 0..R {
            block[r] = if has_factors::<T>() {
                T::Width::add_scaled(simd, block[r], sums[r], self.factors[g])
            } else {
                T::Width::total(simd, sums[r])
            };
        }
    }

    /// Adds a block to the totals of `R` rows.
    #[inline(always)]
    fn finish<const R: usize>(
        &self,
        simd: S,
        block: [S::F32x16; R],
        x: RowGroup<'_, R>,
        totals: &mut [S::F32x16; R],
    ) {
        let mut minima = [simd.start_words(0); R];
        for (step, x) in x.sums.iter().enumerate().take(T::MINIMA) {
            for (minima, x) in minima.iter_mut().zip(x) {
                *minima = simd.dot_words(*minima, self.minima[step], *x);
            }
        }
        for r in 0..R {
            let x_scale = simd.splat(x.scales[r]);
            totals[r] = if T::MINIMA > 0 {
                let minimum = simd.mul(simd.total_words(minima[r]), self.minimum);
                let sum = simd.mul_add(block[r], self.scale, minimum);
                simd.mul_add(sum, x_scale, totals[r])
            } else {
                simd.mul_add(block[r], simd.mul(self.scale, x_scale), totals[r])
            };
        }
    }
}

/// What the sums of group `g` start with.
#[inline(always)]
fn start<S: Integers, T: Tile, const R: usize>(
    simd: S,
    x: RowGroup<'_, R>,
    g: usize,
) -> [<T::Width as Width>::Sums<S>; R] {
    // A loop: `array::from_fn` is not always inlined.
    let mut sums = [T::Width::start(simd, 0); R];
    if T::OFFSET != 0 {
        for (sum, start) in sums.iter_mut().zip(&x.starts[g]) {
            *sum = T::Width::start(simd, *start);
        }
    }
    sums
}

/// What is asked of memory while a tile is multiplied: as many bytes as it has, further on.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'a> {
    pub(super) panel: &'a [u8],
    pub(super) at: usize,
}

impl Ahead<'_> {
    /// Bytes that a group stands for.
    const fn bytes<T: Tile>() -> usize {
        T::BYTES / groups::<T>()
    }

    /// Whether each step asks for its bytes: those of a large group are too many to be asked for at
    /// once.
    const fn by_step<T: Tile>() -> bool {
        Self::bytes::<T>() > 1024
    }

    /// Asks for the bytes of group `g`, unless each step does.
    #[inline(always)]
    fn ask<S: Integers, T: Tile>(self, simd: S, g: usize) {
        if Self::by_step::<T>() {
            return;
        }
        for line in (0..Self::bytes::<T>()).step_by(STEP) {
            simd.prefetch(self.panel, self.at + g * Self::bytes::<T>() + line);
        }
    }

    /// Asks for the bytes of a step where each does so.
    #[inline(always)]
    fn ask_by_step<S: Integers, T: Tile>(self, simd: S, step: usize) {
        let each = Self::bytes::<T>() / steps::<T>();
        let at = step * each;
        if Self::by_step::<T>() && at % STEP < each {
            simd.prefetch(self.panel, self.at + at);
        }
    }
}

/// Adds a tile to the totals of `R` rows, straight from where it lies.
#[inline(always)]
pub(super) fn add_tile<S: Integers, T: Tile, const R: usize>(
    simd: S,
    tile: &[u8],
    scales: &BlockScales<S, T>,
    x: RowGroup<'_, R>,
    totals: &mut [S::F32x16],
    ahead: Option<Ahead<'_>>,
) {
    let Some(totals) = totals.first_chunk_mut() else {
        return;
    };
    let mut block = [simd.splat(0.0); R];
    for g in 0..scales.groups {
        if let Some(ahead) = ahead {
            ahead.ask::<S, T>(simd, g);
        }
        let inputs = &x.steps[g * steps::<T>()..][..steps::<T>()];
        let sums = start::<S, T, R>(simd, x, g);
        let mut multiply = Multiply::<S, T, R> { simd, steps: inputs, sums, ahead };
        T::codes(simd, tile, g, &mut multiply);
        scales.add(simd, g, multiply.sums, &mut block);
    }
    scales.finish(simd, block, x, totals);
}

/// Multiplies codes with the inputs of `R` rows as they come.
struct Multiply<'a, S: Integers, T: Tile, const R: usize> {
    simd: S,
    steps: &'a [[[u8; 4]; R]],
    sums: [<T::Width as Width>::Sums<S>; R],
    ahead: Option<Ahead<'a>>,
}

impl<S: Integers, T: Tile, const R: usize> CodeSink<<T::Width as Width>::Codes<S>>
    for Multiply<'_, S, T, R>
{
    #[inline(always)]
    fn take(&mut self, step: usize, codes: <T::Width as Width>::Codes<S>) {
        let Some(x) = self.steps.get(step) else {
            return;
        };
        if let Some(ahead) = self.ahead {
            ahead.ask_by_step::<S, T>(self.simd, step);
        }
        for (sums, x) in self.sums.iter_mut().zip(x) {
            *sums = T::Width::dot(self.simd, *sums, codes, *x);
        }
    }
}

/// Unpacks the codes of a tile, and asks for the bytes of a later one unless [`add_unpacked`] does.
#[inline(always)]
pub(super) fn unpack<'a, S: Integers, T: Tile>(
    simd: S,
    tile: &'a [u8],
    unpacked: &'a mut [[u8; STEP]],
    ahead: Ahead<'_>,
) -> &'a [[u8; STEP]] {
    if let Some(codes) = T::ready(tile) {
        return codes;
    }
    let unpacked = &mut unpacked[..groups::<T>() * steps::<T>()];
    for (g, unpacked) in unpacked.chunks_exact_mut(steps::<T>()).enumerate() {
        ahead.ask::<S, T>(simd, g);
        T::codes(simd, tile, g, &mut Unpack::<S, T> { simd, unpacked, tile: PhantomData });
    }
    unpacked
}

/// Stores codes as they come.
struct Unpack<'a, S, T> {
    simd: S,
    unpacked: &'a mut [[u8; STEP]],
    tile: PhantomData<T>,
}

impl<S: Integers, T: Tile> CodeSink<<T::Width as Width>::Codes<S>> for Unpack<'_, S, T> {
    #[inline(always)]
    fn take(&mut self, step: usize, codes: <T::Width as Width>::Codes<S>) {
        if let Some(step) = self.unpacked.get_mut(step) {
            T::Width::store(self.simd, codes, step);
        }
    }
}

/// Adds the unpacked codes of a tile of each of `P` panels to the totals of `R` rows from `first` on.
/// `steps` is the number of steps in a group, hidden from the compiler. The chunk's first rows ask for
/// the tiles `ahead` where that is done step by step.
#[inline(always)]
pub(super) fn add_unpacked<S: Integers, T: Tile, const R: usize, const P: usize>(
    simd: S,
    (codes, steps): ([&[[u8; STEP]]; P], usize),
    scales: &[BlockScales<S, T>; P],
    x: RowGroup<'_, R>,
    (totals, first): (&mut [[S::F32x16; CHUNK]; P], usize),
    ahead: [Ahead<'_>; P],
) {
    let mut block = [[simd.splat(0.0); R]; P];
    for g in 0..scales[0].groups {
        let inputs = &x.steps[g * steps..][..steps];
        let mut codes = codes;
        for codes in &mut codes {
            *codes = &codes[g * steps..][..steps];
        }
        let mut sums = [start::<S, T, R>(simd, x, g); P];
        for (step, x) in inputs.iter().enumerate() {
            if first == 0 {
                for ahead in ahead {
                    ahead.ask_by_step::<S, T>(simd, step);
                }
            }
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
            scales[p].add(simd, g, sums[p], &mut block[p]);
        }
    }
    for p in 0..P {
        if let Some(totals) = totals[p][first..].first_chunk_mut() {
            scales[p].finish(simd, block[p], x, totals);
        }
    }
}
