//! Weights that are floats: outer-product tiles.
//!
//! - One row (decode) is bound by reading the weights. A thread walks four panels far apart in
//!   its share at once: four streams keep more reads in flight than one.
//! - A few rows meet a block of weights, still as stored, one group after the other.
//! - From [`MANY`] rows on, arithmetic is the bound, and nothing that is read often may come from
//!   further away than the second-level cache: the inputs of a chunk of rows in one block of `k` stay
//!   there, packed so that a tile reads them front to back. Sixteen outputs' weights in the block are
//!   widened once for all rows of the chunk, which pass over them six at a time. With AVX-512 twelve
//!   rows pass over two panels as they are stored: widening costs nothing beside so many products.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::activations::Activations;
use super::rows::{is_wide, most_rows, row_group, with_rows};
use super::{Panels, STREAMS, store_panel};
use crate::element::Factor;
use crate::ops::row;
use crate::simd::{Integers, Lanes, Level, Simd};
use crate::tile;

/// Products in one chain before its sum is added to the total.
pub const K_BLOCK: usize = 512;

/// Steps in one chain.
pub(super) const fn steps<F: Factor>() -> usize {
    K_BLOCK / F::INPUTS
}

/// Rows from which on arithmetic is the bound.
pub(super) const MANY: usize = 60;

/// Rows whose inputs are packed together: in one block of `k` they take less than the second-level
/// cache has.
pub(super) const CHUNK: usize = 132;

/// Panels whose totals a chunk of rows adds up together.
const BAND: usize = 8;

/// How far ahead of the reading weights are asked for that a few rows share, in bytes. One row reads
/// so fast that the processor asks early enough by itself.
const AHEAD: usize = 4096;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Weights in panels of floats and the inputs of all rows.
pub(super) struct DensePanels<'a, F> {
    pub(super) x: ArrayView2<'a, f32>,
    /// Of [`MANY`] rows or more: `x`, packed.
    pub(super) activations: &'a Activations,
    pub(super) panels: &'a [Lanes<F>],
    /// What the sums of each row are multiplied with.
    pub(super) scales: Option<&'a [f32]>,
}

impl<F: Factor> DensePanels<'_, F> {
    /// Brings `activations` into the form that the kernels read.
    pub(super) fn prepare(level: Level, x: ArrayView2<'_, f32>, activations: &mut Activations) {
        if x.nrows() >= MANY {
            activations.pack::<F>(level, x);
        }
    }

    /// The weights of panel `index`: one vector for each input.
    #[inline(always)]
    fn panel(&self, index: usize) -> &[Lanes<F>] {
        let depth = self.x.ncols();
        &self.panels[index * depth..][..depth]
    }

    /// `R` rows of the input from `first` on, the part in `block`.
    #[inline(always)]
    fn input<const R: usize>(&self, first: usize, block: &Range<usize>) -> [&[f32]; R] {
        let mut rows: [&[f32]; R] = [&[]; R];
        for (r, input) in rows.iter_mut().enumerate() {
            *input = &row(&self.x, first + r)[block.clone()];
        }
        rows
    }
}

impl<F: Factor> Panels for DensePanels<'_, F> {
    const INTEGERS: bool = false;

    const PAIRS: bool = F::INPUTS == 2;

    fn rows(&self) -> usize {
        self.x.nrows()
    }

    #[inline(always)]
    fn compute<S: Integers>(&self, simd: S, range: Range<usize>, out: ArrayViewMut2<'_, f32>) {
        Columns { job: self, range, out }.run(simd);
    }
}

/// The task of one thread: the outputs of some panels, for all rows.
struct Columns<'j, 'a, 'o, F> {
    job: &'j DensePanels<'a, F>,
    range: Range<usize>,
    out: ArrayViewMut2<'o, f32>,
}

impl<F: Factor> Columns<'_, '_, '_, F> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.job.x.nrows() {
            1 => self.stream::<S, 1, STREAMS>(simd),
            2 => self.stream::<S, 2, 3>(simd),
            3 => self.stream::<S, 3, 2>(simd),
            4 if is_wide::<S>() => self.stream::<S, 4, STREAMS>(simd),
            rows if rows < MANY && is_wide::<S>() => self.few::<S, 2>(simd),
            rows if rows < MANY => self.few::<S, 1>(simd),
            _ => self.bands(simd),
        }
    }

    /// Writes the sums of panel `index` for the rows from `first` on.
    #[inline(always)]
    fn store<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        first: usize,
        index: usize,
        mut sums: [S::F32x16; R],
    ) {
        if let Some(scales) = self.job.scales {
            for (sums, scale) in sums.iter_mut().zip(&scales[first..]) {
                *sums = simd.mul(*sums, simd.splat(*scale));
            }
        }
        store_panel(simd, &mut self.out, first, index - self.range.start, sums);
    }

    /// All `R` rows of the input, `P` panels at a time that lie far apart.
    #[inline(always)]
    fn stream<S: Simd, const R: usize, const P: usize>(&mut self, simd: S) {
        let job = self.job;
        let x = job.input::<R>(0, &(0..job.x.ncols()));
        let run = self.range.len() / P;
        for i in 0..run {
            let index: [usize; P] = std::array::from_fn(|p| self.range.start + p * run + i);
            let sums = blocked(simd, x, index.map(|i| job.panel(i)));
            for (p, &index) in index.iter().enumerate() {
                self.store(simd, 0, index, sums.map(|row| row[p]));
            }
        }
        for index in self.range.start + P * run..self.range.end {
            let sums = blocked(simd, x, [job.panel(index)]);
            self.store(simd, 0, index, sums.map(|[row]| row));
        }
    }

    /// All rows of the input over `P` panels at a time that lie far apart.
    #[inline(always)]
    fn few<S: Simd, const P: usize>(&mut self, simd: S) {
        let run = self.range.len() / P;
        for i in 0..run {
            self.pass_over::<S, P>(simd, self.range.start + i, run);
        }
        for index in self.range.start + P * run..self.range.end {
            self.pass_over::<S, 1>(simd, index, 0);
        }
    }

    /// All rows of the input over `P` panels that lie `apart`, block by block, a group of rows at a
    /// time.
    #[inline(always)]
    fn pass_over<S: Simd, const P: usize>(&mut self, simd: S, first: usize, apart: usize) {
        let job = self.job;
        let (rows, depth) = job.x.dim();
        let mut panels: [&[Lanes<F>]; P] = [&[]; P];
        for (p, panel) in panels.iter_mut().enumerate() {
            *panel = job.panel(first + p * apart);
        }
        let mut totals = [[simd.splat(0.0); P]; MANY];
        for from in (0..depth).step_by(steps::<F>()) {
            let block = from..depth.min(from + steps::<F>());
            let mut weights = panels;
            for weights in &mut weights {
                *weights = &weights[block.clone()];
            }
            let mut row = 0;
            while row < rows {
                let n = row_group(simd, rows - row);
                with_rows!(is_wide::<S>(), n, R => {
                    let x = job.input::<R>(row, &block);
                    let sums = tile::accumulate_ahead(simd, x, weights, tile::zeros::<S, R, P>(simd), (row == 0).then_some(AHEAD / size_of::<Lanes<F>>()));
                    add_each(simd, &mut totals[row..], sums);
                });
                row += n;
            }
        }
        for p in 0..P {
            for (row, totals) in totals.iter().take(rows).enumerate() {
                self.store(simd, row, first + p * apart, [totals[p]]);
            }
        }
    }

    /// A chunk of rows over a band of panels at a time, block by block.
    #[inline(always)]
    fn bands<S: Simd>(&mut self, simd: S) {
        let rows = self.job.x.nrows();
        let mut wide = Wide([Lanes::default(); K_BLOCK]);
        let mut totals = vec![simd.splat(0.0); BAND * rows.min(CHUNK)];
        for first in (0..rows).step_by(CHUNK) {
            let chunk = first..rows.min(first + CHUNK);
            for from in self.range.clone().step_by(BAND) {
                let band = from..self.range.end.min(from + BAND);
                totals.fill(simd.splat(0.0));
                self.add_band(simd, &chunk, band.clone(), &mut wide, &mut totals);
                for (index, totals) in band.zip(totals.chunks(chunk.len())) {
                    for (row, total) in chunk.clone().zip(totals) {
                        self.store(simd, row, index, [*total]);
                    }
                }
            }
        }
    }

    /// Adds up a chunk of rows in a band of panels.
    #[inline(always)]
    fn add_band<S: Simd>(
        &self,
        simd: S,
        chunk: &Range<usize>,
        band: Range<usize>,
        wide: &mut Wide,
        totals: &mut [S::F32x16],
    ) {
        let job = self.job;
        let depth = job.x.ncols();
        for from in (0..depth).step_by(steps::<F>()) {
            let block = from..depth.min(from + steps::<F>());
            let x = job.activations.packed(chunk, depth, &block);
            let weights = |index: usize| &job.panel(band.end.min(index + 1) - 1)[block.clone()];
            if is_wide::<S>() || F::INPUTS > 1 {
                // Two panels as they are stored: they are widened beside the multiplications.
                let pairs = totals.chunks_mut(2 * chunk.len());
                for (index, totals) in band.clone().step_by(2).zip(pairs) {
                    let next = [weights(index + 2), weights(index + 3)];
                    match totals.split_at_mut(chunk.len()) {
                        (totals, []) => add_block(simd, x, [weights(index)], next, [totals]),
                        (first, second) => {
                            let weights = [weights(index), weights(index + 1)];
                            add_block(simd, x, weights, next, [first, second]);
                        }
                    }
                }
                continue;
            }
            for (index, totals) in band.clone().zip(totals.chunks_mut(chunk.len())) {
                let stored = weights(index);
                let wide = &mut wide.0[..stored.len()];
                for (wide, weights) in wide.iter_mut().zip(stored) {
                    simd.store(F::load(simd, weights), &mut wide.0);
                }
                add_block(simd, x, [&*wide], [weights(index + 1)], [totals]);
            }
        }
    }
}

/// Widened weights of a panel, on the borders of cache lines.
#[repr(align(64))]
struct Wide([Lanes<f32>; K_BLOCK]);

/// Adds the sums of a block to the totals of a chunk of rows in `P` panels, and asks for the weights
/// that are `next`.
#[inline(always)]
fn add_block<S: Simd, W: Factor, F: Factor, const P: usize, const N: usize>(
    simd: S,
    x: &[f32],
    weights: [&[Lanes<W>]; P],
    next: [&[Lanes<F>]; N],
    mut totals: [&mut [S::F32x16]; P],
) {
    let mut x = x;
    let (rows, depth) = (totals[0].len(), weights[0].len());
    let share = depth.div_ceil(rows.div_ceil(most_rows::<S>()));
    let (mut first, mut ahead) = (0, 0);
    while first < rows {
        for next in next {
            for i in (ahead..depth.min(ahead + share)).step_by(CACHE_LINE / size_of::<Lanes<F>>()) {
                simd.prefetch(next, i);
            }
        }
        ahead += share;
        let n = row_group(simd, rows - first);
        let group;
        (group, x) = x.split_at(n * depth);
        with_rows!(is_wide::<S>(), n, R => {
            let sums = tile::accumulate_packed(
                simd,
                group.as_chunks::<R>().0,
                weights,
                tile::zeros::<S, R, P>(simd),
            );
            for (p, totals) in totals.iter_mut().enumerate() {
                for (total, sums) in totals[first..].iter_mut().zip(sums) {
                    *total = simd.add(*total, sums[p]);
                }
            }
        });
        first += n;
    }
}

/// Adds sums to totals, row by row.
#[inline(always)]
fn add_each<S: Simd, const P: usize>(
    simd: S,
    totals: &mut [[S::F32x16; P]],
    sums: impl IntoIterator<Item = [S::F32x16; P]>,
) {
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for p in 0..P {
            totals[p] = simd.add(totals[p], sums[p]);
        }
    }
}

/// The sums over all of `k`: chains of [`K_BLOCK`], added in order.
#[inline(always)]
fn blocked<S: Simd, W: Factor, const R: usize, const P: usize>(
    simd: S,
    x: [&[f32]; R],
    panels: [&[Lanes<W>]; P],
) -> tile::Sums<S, R, P> {
    let depth = x[0].len();
    let mut total = tile::zeros::<S, R, P>(simd);
    for from in (0..depth).step_by(steps::<W>()) {
        let block = from..depth.min(from + steps::<W>());
        let sums = tile::accumulate_ahead(
            simd,
            x.map(|row| &row[block.clone()]),
            panels.map(|panel| &panel[block.clone()]),
            tile::zeros(simd),
            (R > 1).then_some(AHEAD / size_of::<Lanes<W>>()),
        );
        for (total, sums) in total.iter_mut().flatten().zip(sums.iter().flatten()) {
            *total = simd.add(*total, *sums);
        }
    }
    total
}
