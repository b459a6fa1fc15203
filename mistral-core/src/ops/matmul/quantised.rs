//! Block-quantised weights: integer products, block by block.
//!
//! Up to eight rows, sixteen with AVX-512, codes go from the tile into registers and from there into
//! the products of four rows at a time, or of up to sixteen. With more rows a tile is unpacked once
//! into a small buffer, unless codes lie in it as they are multiplied, and up to [`CHUNK`] rows pass
//! over it six at a time, their totals beside it: everything that is written stays in the first-level
//! cache, and what a chunk reads of its inputs in the second: it meets [`PART`] of them in all panels
//! before the next ones. With AVX-512 twelve rows pass over the tiles of two panels, or six where
//! groups have factors: the totals of a block are in registers then.

use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

use ndarray::ArrayViewMut2;

use super::activations::{Activations, CHUNK, DIRECT_ROWS, integer_row_group, is_direct};
use super::blocks::{Ahead, BlockScales, add_tile, add_unpacked, unpack};
use super::rows::{is_wide, with_few_rows, with_rows};
use super::{Panels, load_panel, store_panel};
use crate::quant::Block;
use crate::quant::kernel::{MAX_STEPS, STEP, Tile, has_factors, steps};
use crate::quant::width::Width;
use crate::simd::{Integers, Line, bytes_of_mut};

/// Bytes of a row's rounded inputs that a chunk of rows meets in all panels before the next ones:
/// theirs stay in the second-level cache.
const PART: usize = 4096;

/// Panels that a thread reads at once, tile by tile in turn. With four of them a fifth is lost: the
/// reads that are asked for ahead stand in each other's way.
const STREAMS: usize = 2;

/// How far ahead of the reading a stream is asked for, in bytes. With 1024, eight rows took 1.2 to 1.3
/// times as long.
const AHEAD: usize = 4096;

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
        if is_direct::<S>(self.panels.rows) {
            return self.stream(simd);
        }
        // On the borders of cache lines: loads that cross one cost a tenth of the speed. Made once,
        // for it has to be zeroed.
        let mut unpacked = [[Line([0; STEP]); MAX_STEPS]; 2];
        // In tiles.
        let n = self.panels.cols / T::Block::WEIGHTS;
        let part = PART / size_of::<[u8; 4]>() * T::Width::INPUTS / T::Block::WEIGHTS;
        for first in (0..self.panels.rows).step_by(CHUNK) {
            let chunk = first..self.panels.rows.min(first + CHUNK);
            for from in (0..n).step_by(part) {
                let part = from..n.min(from + part);
                let mut index = self.range.start;
                while is_wide::<S>() && index + 1 < self.range.end {
                    self.pass_over::<S, 2>(simd, index, &chunk, &part, &mut unpacked);
                    index += 2;
                }
                for index in index..self.range.end {
                    self.pass_over::<S, 1>(simd, index, &chunk, &part, &mut unpacked);
                }
            }
        }
    }

    /// All rows, [`STREAMS`] panels at a time that lie far apart, or one where arithmetic is the bound.
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
            16 if is_wide::<S>() => self.stream_rows::<S, 1, 16>(simd),
            9.. => self.stream_rows::<S, 1, 0>(simd),
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
        let mut scales = [BlockScales::<S, T>::none(simd); P];
        let mut totals = [[simd.splat(0.0); DIRECT_ROWS]; P];
        for t in 0..panels.cols / T::Block::WEIGHTS {
            let at = t * T::BYTES;
            let tiles = bytes.map(|bytes| &bytes[at..][..T::BYTES]);
            for (tile, scales) in tiles.iter().zip(&mut scales) {
                scales.read(simd, tile);
            }
            let x = panels.activations.block::<T>(&(0..rows), panels.cols, t);
            for p in 0..P {
                let (tile, mut x) = (tiles[p], x);
                let ahead = Some(Ahead { panel: bytes[p], at: at + AHEAD });
                if ROWS > 0 {
                    if let Some(x) = x.take::<T, ROWS>() {
                        add_tile::<S, T, ROWS>(simd, tile, &scales[p], x, &mut totals[p], ahead);
                    }
                    continue;
                }
                let mut row = 0;
                while row < rows {
                    let n = integer_row_group::<S, T>(simd, rows, rows - row);
                    let ahead = ahead.filter(|_| row == 0);
                    let totals = &mut totals[p][row..];
                    with_few_rows!(is_wide::<S>(), n, R => {
                        if let Some(x) = x.take::<T, R>() {
                            add_tile::<S, T, R>(simd, tile, &scales[p], x, totals, ahead);
                        }
                    });
                    row += n;
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

    /// A chunk of rows over some tiles of `P` panels from `first` on.
    #[inline(always)]
    fn pass_over<S: Integers, const P: usize>(
        &mut self,
        simd: S,
        first: usize,
        chunk: &Range<usize>,
        part: &Range<usize>,
        unpacked: &mut [[Line; MAX_STEPS]; 2],
    ) {
        let panels = self.panels;
        let column = first - self.range.start;
        let mut totals = [[simd.splat(0.0); CHUNK]; P];
        if part.start > 0 {
            for (p, totals) in totals.iter_mut().enumerate() {
                for (row, total) in chunk.clone().zip(totals) {
                    *total = load_panel(simd, &mut self.out, row, column + p);
                }
            }
        }
        // The number is hidden from the compiler, which would unroll the loop over the steps and
        // run out of registers.
        let steps = black_box(steps::<T>());
        let mut scales = [BlockScales::<S, T>::none(simd); P];
        for t in part.clone() {
            let at = t * T::BYTES;
            let mut codes: [&[[u8; STEP]]; P] = [&[]; P];
            let mut ahead = [Ahead { panel: &[], at }; P];
            for (p, unpacked) in unpacked.iter_mut().take(P).enumerate() {
                ahead[p].panel = panels.panel(self.range.end.min(first + P + p + 1) - 1);
                let tile = &panels.panel(first + p)[at..][..T::BYTES];
                scales[p].read(simd, tile);
                let unpacked = bytes_of_mut(unpacked).as_chunks_mut().0;
                codes[p] = unpack::<S, T>(simd, tile, unpacked, ahead[p]);
            }
            let mut x = panels.activations.block::<T>(chunk, panels.cols, t);
            let mut row = 0;
            while row < chunk.len() {
                let n = integer_row_group::<S, T>(simd, panels.rows, chunk.len() - row);
                with_rows!(is_wide::<S>() && !has_factors::<T>(), n, R => {
                    if let Some(x) = x.take::<T, R>() {
                        let totals = (&mut totals, row);
                        add_unpacked::<S, T, R, P>(simd, (codes, steps), &scales, x, totals, ahead);
                    }
                });
                row += n;
            }
        }
        for (p, totals) in totals.iter().enumerate() {
            for (row, total) in chunk.clone().zip(totals) {
                store_panel(simd, &mut self.out, row, column + p, [*total]);
            }
        }
    }
}
