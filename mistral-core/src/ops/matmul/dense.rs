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
use super::{Panels, ROW_GROUP, STREAMS, load_panel, store_panel};
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
pub(super) const CHUNK: usize = 192;

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
            _ => self.blocks(simd),
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

    /// A chunk of rows and a block of `k` at a time over all panels. Totals lie in `out` meanwhile.
    #[inline(always)]
    fn blocks<S: Simd>(&mut self, simd: S) {
        let job = self.job;
        let (rows, depth) = job.x.dim();
        let mut wide = [Lanes::default(); K_BLOCK];
        for first in (0..rows).step_by(CHUNK) {
            let chunk = first..rows.min(first + CHUNK);
            for from in (0..depth).step_by(K_BLOCK) {
                let block = from..depth.min(from + K_BLOCK);
                let x = job.activations.packed(&chunk, depth, &block);
                for index in self.range.clone() {
                    let weights = &job.panel(index)[block.clone()];
                    let next = &job.panel(self.range.end.min(index + 2) - 1)[block.clone()];
                    let wide = &mut wide[..weights.len()];
                    for (wide, weights) in wide.iter_mut().zip(weights) {
                        simd.store(E::load(simd, weights), &mut wide.0);
                    }
                    let panel = index - self.range.start;
                    self.add_block(simd, x, wide, next, (chunk.clone(), panel, from == 0));
                }
            }
        }
    }

    /// Adds the sums of a block to the totals of a chunk of rows in one panel, and asks for the
    /// weights that are `next`.
    #[inline(always)]
    fn add_block<S: Simd>(
        &mut self,
        simd: S,
        x: &[f32],
        weights: &[Lanes<f32>],
        next: &[Lanes<E>],
        (chunk, panel, is_first): (Range<usize>, usize, bool),
    ) {
        let (mut x, mut row) = (x, chunk.start);
        let mut next = next.chunks(next.len().div_ceil(chunk.len().div_ceil(ROW_GROUP)));
        while row < chunk.end {
            let next = next.next().unwrap_or_default();
            for i in (0..next.len()).step_by(CACHE_LINE / size_of::<Lanes<E>>()) {
                simd.prefetch(next, i);
            }
            let n = row_group(simd, chunk.end - row);
            let group;
            (group, x) = x.split_at(n * weights.len());
            let at = (row, panel, is_first);
            match n {
                6 => self.add_group::<S, 6>(simd, group, weights, at),
                5 => self.add_group::<S, 5>(simd, group, weights, at),
                4 => self.add_group::<S, 4>(simd, group, weights, at),
                3 => self.add_group::<S, 3>(simd, group, weights, at),
                2 => self.add_group::<S, 2>(simd, group, weights, at),
                _ => self.add_group::<S, 1>(simd, group, weights, at),
            }
            row += n;
        }
    }

    /// Adds the sums of a block to the totals of `R` rows.
    #[inline(always)]
    fn add_group<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        x: &[f32],
        weights: &[Lanes<f32>],
        (first, panel, is_first): (usize, usize, bool),
    ) {
        let x = x.as_chunks::<R>().0;
        let sums = tile::accumulate_packed::<S, f32, R, 1>(simd, x, [weights], tile::zeros(simd));
        for (r, [sum]) in sums.into_iter().enumerate() {
            let total = if is_first {
                simd.splat(0.0)
            } else {
                load_panel(simd, &mut self.out, first + r, panel)
            };
            store_panel(simd, &mut self.out, first + r, panel, [simd.add(total, sum)]);
        }
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
