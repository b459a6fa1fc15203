//! Block-quantised weights: integer products, group by group.
//!
//! Up to [`DIRECT_ROWS`] rows, codes go from the tile into registers and from there into the
//! products of four rows at a time. With more rows a group is unpacked once into a buffer of 1 kB,
//! and up to [`CHUNK`] rows pass over it six at a time, their totals beside it: everything that is
//! written stays in the first-level cache, and what a chunk reads of its inputs in the second: it
//! meets [`PART`] of them in all panels before the next ones.

use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

use ndarray::ArrayViewMut2;

use super::activations::{
    Activations, CHUNK, DIRECT_ROWS, Group, Inputs, RowGroup, integer_row_group,
};
use super::rows::{is_wide, with_direct_rows, with_rows};
use super::{Panels, load_panel, store_panel};
use crate::quant::Block;
use crate::quant::kernel::{
    CodeSink, MAX_STEPS, STEP, Scales, Tile, Width, groups, steps, widen_bytes,
};
use crate::simd::{Integers, Line};

/// Inputs that a chunk of rows meets in all panels before the next ones: theirs stay in the
/// second-level cache.
const PART: usize = 2048;

/// Panels that a thread reads at once, tile by tile in turn. With four of them a fifth is lost: the
/// reads that are asked for ahead stand in each other's way.
const STREAMS: usize = 2;

/// How far ahead of the reading a stream is asked for, in bytes.
const AHEAD: usize = 1024;

/// Weights in tiles and the rounded inputs of all rows.
pub(super) struct QuantisedPanels<'a, T> {
    bytes: &'a [u8],
    activations: &'a Activations,
    rows: usize,
    cols: usize,
    tile: PhantomData<T>,
}

impl<'a, T: Tile> QuantisedPanels<'a, T> {
    pub(super) fn new(
        bytes: &'a [u8],
        activations: &'a Activations,
        (rows, cols): (usize, usize),
    ) -> Self {
        Self { bytes, activations, rows, cols, tile: PhantomData }
    }

    /// The tiles of panel `index`.
    #[inline(always)]
    fn panel(&self, index: usize) -> &'a [u8] {
        let bytes = self.cols / T::Block::WEIGHTS * T::BYTES;
        &self.bytes[index * bytes..][..bytes]
    }
}

impl<T: Tile> Panels for QuantisedPanels<'_, T> {
    const INTEGERS: bool = true;

    fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    fn compute<S: Integers>(&self, simd: S, range: Range<usize>, out: ArrayViewMut2<'_, f32>) {
        Columns { panels: self, range, out }.run(simd);
    }
}

/// The task of one thread: the outputs of some panels, for all rows.
struct Columns<'p, 'a, 'o, T> {
    panels: &'p QuantisedPanels<'a, T>,
    range: Range<usize>,
    out: ArrayViewMut2<'o, f32>,
}

impl<T: Tile> Columns<'_, '_, '_, T> {
    #[inline(always)]
    fn run<S: Integers>(mut self, simd: S) {
        if self.panels.rows <= DIRECT_ROWS {
            return self.stream(simd);
        }
        // In tiles.
        let (n, part) = (self.panels.cols / T::Block::WEIGHTS, PART / T::Block::WEIGHTS);
        for first in (0..self.panels.rows).step_by(CHUNK) {
            let chunk = first..self.panels.rows.min(first + CHUNK);
            for from in (0..n).step_by(part) {
                for index in self.range.clone() {
                    self.pass_over(simd, index, &chunk, from..n.min(from + part));
                }
            }
        }
    }

    /// All rows, [`STREAMS`] panels at a time that lie far apart.
    #[inline(always)]
    fn stream<S: Integers>(&mut self, simd: S) {
        if S::SUMS == 1 {
            return self.stream_rows::<S, 1, 0>(simd);
        }
        match self.panels.rows {
            1 => self.stream_rows::<S, STREAMS, 1>(simd),
            2 => self.stream_rows::<S, STREAMS, 2>(simd),
            3 => self.stream_rows::<S, STREAMS, 3>(simd),
            4 => self.stream_rows::<S, STREAMS, 4>(simd),
            8 if is_wide::<S>() => self.stream_rows::<S, STREAMS, 8>(simd),
            _ => self.stream_rows::<S, STREAMS, 0>(simd),
        }
    }

    /// All rows, `P` panels at a time. `ROWS`: how many they are, if the compiler is to know it and
    /// keep their totals in registers; else 0.
    #[inline(always)]
    fn stream_rows<S: Integers, const P: usize, const ROWS: usize>(&mut self, simd: S) {
        let run = self.range.len() / P;
        for i in 0..run {
            self.direct::<S, P, ROWS>(simd, self.range.start + i, run);
        }
        for index in self.range.start + P * run..self.range.end {
            self.direct::<S, 1, ROWS>(simd, index, 0);
        }
    }

    /// All rows over `P` panels that lie `apart`, straight from the tiles.
    #[inline(always)]
    fn direct<S: Integers, const P: usize, const ROWS: usize>(
        &mut self,
        simd: S,
        first: usize,
        apart: usize,
    ) {
        let panels = self.panels;
        let rows = if ROWS > 0 { ROWS } else { panels.rows };
        let mut bytes: [&[u8]; P] = [&[]; P];
        for (p, bytes) in bytes.iter_mut().enumerate() {
            *bytes = panels.panel(first + p * apart);
        }
        let mut scales = [Scales::room(simd); P];
        let mut totals = [[simd.splat(0.0); DIRECT_ROWS]; P];
        for t in 0..panels.cols / T::Block::WEIGHTS {
            let tiles = bytes.map(|bytes| &bytes[t * T::BYTES..][..T::BYTES]);
            for (tile, scales) in tiles.iter().zip(&mut scales) {
                T::scales(simd, tile, scales);
            }
            for g in 0..groups::<T>() {
                let group = t * groups::<T>() + g;
                let x = panels.activations.group::<T>(&(0..rows), panels.cols, group);
                for p in 0..P {
                    // As many bytes as the group has, further on in the stream.
                    let here = t * T::BYTES + g * (T::BYTES / groups::<T>());
                    for line in (0..T::BYTES / groups::<T>()).step_by(STEP) {
                        simd.prefetch(bytes[p], here + line + AHEAD);
                    }
                    let scales = GroupScales::of(simd, &scales[p], g);
                    let (mut x, mut totals) = (x, &mut totals[p][..rows]);
                    if ROWS > 0 {
                        let (x, totals) = (&mut x, &mut totals);
                        with_direct_rows!(S, ROWS, R => {
                            add_tile::<S, T, R>(simd, tiles[p], g, scales, x, totals)
                        });
                        continue;
                    }
                    while !totals.is_empty() {
                        let (x, totals) = (&mut x, &mut totals);
                        let n = integer_row_group(simd, rows, totals.len());
                        with_direct_rows!(S, n, R => {
                            add_tile::<S, T, R>(simd, tiles[p], g, scales, x, totals)
                        });
                    }
                }
            }
        }
        for (p, totals) in totals.into_iter().enumerate() {
            let column = first + p * apart - self.range.start;
            for (r, total) in totals.into_iter().take(rows).enumerate() {
                store_panel(simd, &mut self.out, r, column, [total]);
            }
        }
    }

    /// A chunk of rows over some tiles of one panel.
    #[inline(always)]
    fn pass_over<S: Integers>(
        &mut self,
        simd: S,
        index: usize,
        chunk: &Range<usize>,
        part: Range<usize>,
    ) {
        let panels = self.panels;
        let column = index - self.range.start;
        let mut totals = [simd.splat(0.0); CHUNK];
        let totals = &mut totals[..chunk.len()];
        if part.start > 0 {
            for (row, total) in chunk.clone().zip(totals.iter_mut()) {
                *total = load_panel(simd, &mut self.out, row, column);
            }
        }
        // On the borders of cache lines: loads that cross one cost a tenth of the speed.
        let mut unpacked = [Line([0; STEP]); MAX_STEPS];
        // The number is hidden from the compiler, which would unroll the loop over the steps and
        // run out of registers.
        let unpacked = &mut unpacked[..black_box(steps::<T>())];
        let next = panels.panel(self.range.end.min(index + 2) - 1);
        let mut scales = Scales::room(simd);
        for t in part {
            let at = t * T::BYTES;
            let tile = &panels.panel(index)[at..][..T::BYTES];
            T::scales(simd, tile, &mut scales);
            for g in 0..groups::<T>() {
                let scales = GroupScales::of(simd, &scales, g);
                let bytes = T::BYTES / groups::<T>();
                for line in (0..bytes).step_by(STEP) {
                    simd.prefetch(next, at + g * bytes + line);
                }
                T::codes(simd, tile, g, &mut Unpack::<S, T> { simd, unpacked, tile: PhantomData });
                let group = t * groups::<T>() + g;
                let mut x = panels.activations.group::<T>(chunk, panels.cols, group);
                let mut totals = &mut *totals;
                while !totals.is_empty() {
                    let (x, totals) = (&mut x, &mut totals);
                    let n = integer_row_group(simd, panels.rows, totals.len());
                    with_rows!(S, n, R => {
                        add_unpacked::<S, T, R>(simd, unpacked, scales, x, totals)
                    });
                }
            }
        }
        for (row, total) in chunk.clone().zip(totals) {
            store_panel(simd, &mut self.out, row, column, [*total]);
        }
    }
}

/// What the sums of a group are multiplied with.
#[derive(Clone, Copy)]
struct GroupScales<S: Integers, T: Tile> {
    scale: S::F32x16,
    factors: <T::Width as Width>::Factors<S>,
    minima: S::F32x16,
}

impl<S: Integers, T: Tile> GroupScales<S, T> {
    #[inline(always)]
    fn of(simd: S, tile: &Scales<S>, group: usize) -> Self {
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

/// Adds one group of a tile to the totals of the next `R` rows, and takes these off.
#[inline(always)]
fn add_tile<S: Integers, T: Tile, const R: usize>(
    simd: S,
    tile: &[u8],
    group: usize,
    scales: GroupScales<S, T>,
    x: &mut Inputs<'_>,
    totals: &mut &mut [S::F32x16],
) {
    let Some((x, totals)) = next_rows(x, totals, steps::<T>()) else {
        return;
    };
    let sums = start::<S, T, R>(simd, x.groups);
    let mut multiply = Multiply::<S, T, R> { simd, steps: x.steps, sums };
    T::codes(simd, tile, group, &mut multiply);
    scales.finish(simd, multiply.sums, x.groups, totals);
}

/// Takes inputs and totals of the next `R` rows.
#[inline(always)]
fn next_rows<'a, 't, V, const R: usize>(
    x: &mut Inputs<'a>,
    totals: &mut &'t mut [V],
    steps: usize,
) -> Option<(RowGroup<'a, R>, &'t mut [V; R])> {
    let now;
    (now, *totals) = std::mem::take(totals).split_first_chunk_mut()?;
    Some((x.take(steps)?, now))
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
}

impl<S: Integers, T: Tile, const R: usize> CodeSink<<T::Width as Width>::Codes<S>>
    for Multiply<'_, S, T, R>
{
    #[inline(always)]
    fn take(&mut self, step: usize, codes: <T::Width as Width>::Codes<S>) {
        let Some(x) = self.steps.get(step) else {
            return;
        };
        for (sums, x) in self.sums.iter_mut().zip(x) {
            *sums = T::Width::dot(self.simd, *sums, codes, *x);
        }
    }
}

/// Stores codes as they come.
struct Unpack<'a, S, T> {
    simd: S,
    unpacked: &'a mut [Line],
    tile: PhantomData<T>,
}

impl<S: Integers, T: Tile> CodeSink<<T::Width as Width>::Codes<S>> for Unpack<'_, S, T> {
    #[inline(always)]
    fn take(&mut self, step: usize, codes: <T::Width as Width>::Codes<S>) {
        if let Some(step) = self.unpacked.get_mut(step) {
            T::Width::store(self.simd, codes, &mut step.0);
        }
    }
}

/// Adds one unpacked group to the totals of the next `R` rows, and takes these off.
#[inline(always)]
fn add_unpacked<S: Integers, T: Tile, const R: usize>(
    simd: S,
    codes: &[Line],
    scales: GroupScales<S, T>,
    x: &mut Inputs<'_>,
    totals: &mut &mut [S::F32x16],
) {
    let Some((x, totals)) = next_rows(x, totals, codes.len()) else {
        return;
    };
    let mut sums = start::<S, T, R>(simd, x.groups);
    for (codes, step) in codes.iter().zip(x.steps) {
        let codes = T::Width::load(simd, &codes.0);
        for (sums, step) in sums.iter_mut().zip(step) {
            *sums = T::Width::dot(simd, *sums, codes, *step);
        }
    }
    scales.finish(simd, sums, x.groups, totals);
}
