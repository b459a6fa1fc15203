//! Weights that are floats: outer-product tiles.
//!
//! - One row (decode) is bound by reading the weights. A thread walks four panels far apart in
//!   its share at once: four streams keep more reads in flight than one.
//! - A few rows share each vector of weights, still read as stored.
//! - From [`MANY`] rows on, arithmetic is the bound, and nothing that is read often may come from
//!   further away than the second-level cache: the inputs of a chunk of rows in one block of `k` stay
//!   there, packed so that a tile reads them front to back. Sixteen outputs' weights in the block are
//!   widened once for all rows of the chunk, which pass over them six at a time.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::activations::{Activations, row_group};
use super::{Panels, ROW_GROUP, STREAMS, store_panel};
use crate::element::Element;
use crate::ops::row;
use crate::simd::{Integers, Lanes, Level, Simd};
use crate::tile;

/// Products in one chain before its sum is added to the total.
pub const K_BLOCK: usize = 512;

/// Rows from which on arithmetic is the bound.
pub(super) const MANY: usize = 24;

/// Rows whose inputs are packed together: in one block of `k` they take less than the second-level
/// cache has.
pub(super) const CHUNK: usize = 132;

/// Panels whose totals a chunk of rows adds up together.
const BAND: usize = 8;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Weights in panels of floats and the inputs of all rows.
pub(super) struct DensePanels<'a, E> {
    pub(super) x: ArrayView2<'a, f32>,
    /// Of [`MANY`] rows or more: `x`, packed.
    pub(super) activations: &'a Activations,
    pub(super) panels: &'a [Lanes<E>],
}

impl<E: Element> DensePanels<'_, E> {
    /// Brings `activations` into the form that the kernels read.
    pub(super) fn prepare(level: Level, x: ArrayView2<'_, f32>, activations: &mut Activations) {
        if x.nrows() >= MANY {
            activations.pack(level, x);
        }
    }

    /// The weights of panel `index`: one vector for each input.
    #[inline(always)]
    fn panel(&self, index: usize) -> &[Lanes<E>] {
        let depth = self.x.ncols();
        &self.panels[index * depth..][..depth]
    }

    /// `R` rows of the input from `first` on.
    #[inline(always)]
    fn input<const R: usize>(&self, first: usize) -> [&[f32]; R] {
        std::array::from_fn(|r| row(&self.x, first + r))
    }
}

impl<E: Element> Panels for DensePanels<'_, E> {
    const INTEGERS: bool = false;

    fn rows(&self) -> usize {
        self.x.nrows()
    }

    #[inline(always)]
    fn compute<S: Integers>(&self, simd: S, range: Range<usize>, out: ArrayViewMut2<'_, f32>) {
        Columns { job: self, range, out }.run(simd);
    }
}

/// The task of one thread: the outputs of some panels, for all rows.
struct Columns<'j, 'a, 'o, E> {
    job: &'j DensePanels<'a, E>,
    range: Range<usize>,
    out: ArrayViewMut2<'o, f32>,
}

impl<E: Element> Columns<'_, '_, '_, E> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.job.x.nrows() {
            1 => self.stream::<S, 1, STREAMS>(simd),
            2 => self.stream::<S, 2, 3>(simd),
            3 => self.stream::<S, 3, 2>(simd),
            rows if rows < MANY => {
                for index in self.range.clone() {
                    self.pass_over(simd, index);
                }
            }
            _ => self.bands(simd),
        }
    }

    /// All `R` rows of the input, `P` panels at a time that lie far apart.
    #[inline(always)]
    fn stream<S: Simd, const R: usize, const P: usize>(&mut self, simd: S) {
        let job = self.job;
        let x = job.input::<R>(0);
        let run = self.range.len() / P;
        for i in 0..run {
            let index: [usize; P] = std::array::from_fn(|p| self.range.start + p * run + i);
            let sums = blocked(simd, x, index.map(|i| job.panel(i)));
            for (p, &index) in index.iter().enumerate() {
                store_panel(
                    simd,
                    &mut self.out,
                    0,
                    index - self.range.start,
                    sums.map(|row| row[p]),
                );
            }
        }
        for index in self.range.start + P * run..self.range.end {
            let sums = blocked(simd, x, [job.panel(index)]);
            store_panel(simd, &mut self.out, 0, index - self.range.start, sums.map(|[row]| row));
        }
    }

    /// All rows of the input over one panel, a group at a time.
    #[inline(always)]
    fn pass_over<S: Simd>(&mut self, simd: S, index: usize) {
        let rows = self.job.x.nrows();
        if S::SUMS == 1 {
            for first in 0..rows {
                self.group::<S, 1>(simd, index, first);
            }
            return;
        }
        let mut first = 0;
        while rows - first >= ROW_GROUP {
            self.group::<S, ROW_GROUP>(simd, index, first);
            first += ROW_GROUP;
        }
        match rows - first {
            5 => self.group::<S, 5>(simd, index, first),
            4 => self.group::<S, 4>(simd, index, first),
            3 => self.group::<S, 3>(simd, index, first),
            2 => self.group::<S, 2>(simd, index, first),
            1 => self.group::<S, 1>(simd, index, first),
            _ => {}
        }
    }

    #[inline(always)]
    fn group<S: Simd, const R: usize>(&mut self, simd: S, index: usize, first: usize) {
        let sums = blocked(simd, self.job.input::<R>(first), [self.job.panel(index)]);
        store_panel(simd, &mut self.out, first, index - self.range.start, sums.map(|[row]| row));
    }

    /// A chunk of rows over a band of panels at a time, block by block.
    #[inline(always)]
    fn bands<S: Simd>(&mut self, simd: S) {
        let rows = self.job.x.nrows();
        let mut wide = [Lanes::default(); K_BLOCK];
        let mut totals = vec![simd.splat(0.0); BAND * rows.min(CHUNK)];
        for first in (0..rows).step_by(CHUNK) {
            let chunk = first..rows.min(first + CHUNK);
            for from in self.range.clone().step_by(BAND) {
                let band = from..self.range.end.min(from + BAND);
                totals.fill(simd.splat(0.0));
                self.add_band(simd, &chunk, band.clone(), &mut wide, &mut totals);
                for (index, totals) in band.zip(totals.chunks(chunk.len())) {
                    for (row, total) in chunk.clone().zip(totals) {
                        let panel = index - self.range.start;
                        store_panel(simd, &mut self.out, row, panel, [*total]);
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
        wide: &mut [Lanes<f32>; K_BLOCK],
        totals: &mut [S::F32x16],
    ) {
        let job = self.job;
        let depth = job.x.ncols();
        for from in (0..depth).step_by(K_BLOCK) {
            let block = from..depth.min(from + K_BLOCK);
            let x = job.activations.packed(chunk, depth, &block);
            for (index, totals) in band.clone().zip(totals.chunks_mut(chunk.len())) {
                let weights = &job.panel(index)[block.clone()];
                let next = &job.panel(band.end.min(index + 2) - 1)[block.clone()];
                let wide = &mut wide[..weights.len()];
                for (wide, weights) in wide.iter_mut().zip(weights) {
                    simd.store(E::load(simd, weights), &mut wide.0);
                }
                add_block(simd, x, wide, next, totals);
            }
        }
    }
}

/// Adds the sums of a block to the totals of a chunk of rows in one panel, and asks for the weights
/// that are `next`.
#[inline(always)]
fn add_block<S: Simd, E: Element>(
    simd: S,
    x: &[f32],
    weights: &[Lanes<f32>],
    next: &[Lanes<E>],
    totals: &mut [S::F32x16],
) {
    let mut x = x;
    let mut next = next.chunks(next.len().div_ceil(totals.len().div_ceil(ROW_GROUP)));
    let mut first = 0;
    while first < totals.len() {
        let next = next.next().unwrap_or_default();
        for i in (0..next.len()).step_by(CACHE_LINE / size_of::<Lanes<E>>()) {
            simd.prefetch(next, i);
        }
        let n = row_group(simd, totals.len() - first);
        let group;
        (group, x) = x.split_at(n * weights.len());
        let totals = &mut totals[first..][..n];
        match n {
            6 => add_group::<S, 6>(simd, group, weights, totals),
            5 => add_group::<S, 5>(simd, group, weights, totals),
            4 => add_group::<S, 4>(simd, group, weights, totals),
            3 => add_group::<S, 3>(simd, group, weights, totals),
            2 => add_group::<S, 2>(simd, group, weights, totals),
            _ => add_group::<S, 1>(simd, group, weights, totals),
        }
        first += n;
    }
}

/// Adds the sums of a block to the totals of `R` rows.
#[inline(always)]
fn add_group<S: Simd, const R: usize>(
    simd: S,
    x: &[f32],
    weights: &[Lanes<f32>],
    totals: &mut [S::F32x16],
) {
    let x = x.as_chunks::<R>().0;
    let sums = tile::accumulate_packed::<S, f32, R, 1>(simd, x, [weights], tile::zeros(simd));
    for (total, [sum]) in totals.iter_mut().zip(sums) {
        *total = simd.add(*total, sum);
    }
}

/// The sums over all of `k`: chains of [`K_BLOCK`], added in order.
#[inline(always)]
fn blocked<S: Simd, W: Element, const R: usize, const P: usize>(
    simd: S,
    x: [&[f32]; R],
    panels: [&[Lanes<W>]; P],
) -> tile::Sums<S, R, P> {
    let depth = x[0].len();
    let mut total = tile::zeros::<S, R, P>(simd);
    for from in (0..depth).step_by(K_BLOCK) {
        let block = from..depth.min(from + K_BLOCK);
        let sums = tile::accumulate(
            simd,
            x.map(|row| &row[block.clone()]),
            panels.map(|panel| &panel[block.clone()]),
            tile::zeros(simd),
        );
        for (total, sums) in total.iter_mut().flatten().zip(sums.iter().flatten()) {
            *total = simd.add(*total, *sums);
        }
    }
    total
}
