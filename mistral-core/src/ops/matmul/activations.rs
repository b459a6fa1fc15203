//! Inputs as kernels read them: those of some rows side by side, rounded where weights are integers.

use std::marker::PhantomData;
use std::ops::Range;

use ndarray::ArrayView2;

use super::dense;
use super::pairs::PairInputs;
use super::rows::{even_share, is_wide, row_group, with_rows};
use crate::element::Factor;
use crate::ops::row;
use crate::quant::kernel::{MAX_GROUPS, MAX_STEPS, Tile, groups, has_factors, steps};
use crate::quant::width::{Width, join_words};
use crate::quant::{Block, round_steps};
use crate::simd::{Integers, Kernel, Level, Simd};
use crate::threads;

/// Rows whose inputs lie together where weights are integers: sixteen groups of six.
pub(super) const CHUNK: usize = 96;

/// Most rows that meet weights of integers straight from the tiles, at any level.
pub(super) const DIRECT_ROWS: usize = 16;

/// As [`DIRECT_ROWS`], where registers are few.
const FEW_DIRECT_ROWS: usize = 8;

/// How many of them pass over a tile together there.
const DIRECT_GROUP: usize = 4;

/// How many of more rows pass over a tile together where registers are many and groups have factors
/// of their own: beside the sums of a group, those of the block stay in registers.
const FACTOR_GROUP: usize = 6;

/// Memory for the inputs of [`matmul_with`](crate::ops::matmul_with) as kernels read them: kept by
/// the caller, so that a step of decoding allocates nothing.
///
/// For weights that are floats the inputs of several rows are brought together, as they are. For
/// weights that are integers an input is rounded to 8 or 16 bits, with a scale for each row and
/// block of weights: `x ≈ scale * integer`, `scale = max|x| / 127` or `/ 32767`. For `bf16xbf16` it
/// is rounded to bf16.
///
/// Cost: `tokens * in * 4` bytes for weights that are floats, from 60 tokens on, at most
/// `tokens * in * 2.3` for 8-bit weights and 1.3 for 4-bit weights; for `w8a8` and `w4a8` the latter
/// with VNNI, the former without. For `bf16xbf16` as for floats and as much again, for any number of
/// tokens; half of both where the CPU multiplies pairs.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    /// `[chunk][block][row group][group][step][row]`
    steps: Vec<[u8; 4]>,
    /// `[chunk][block][row group][group][row]`, of formats with an offset: `-offset * Σ integers`, as
    /// [`Width::start`] takes it.
    starts: Vec<i32>,
    /// `[chunk][block][row group][step][row]`, of formats with minima: [`Tile::input_sums`].
    sums: Vec<[u8; 4]>,
    /// `[chunk][block][row]`: `x ≈ scale * integer`.
    scales: Vec<f32>,
    /// `[chunk][block of k][row group][k][row]`
    floats: Vec<f32>,
    pub(super) pairs: PairInputs,
}

/// The rounded inputs of some rows, for one block of weights.
#[derive(Clone, Copy)]
pub(super) struct BlockInputs<'a> {
    steps: &'a [[u8; 4]],
    starts: &'a [i32],
    sums: &'a [[u8; 4]],
    scales: &'a [f32],
}

/// Those of `R` rows that pass over the block together.
#[derive(Clone, Copy)]
pub(super) struct RowGroup<'a, const R: usize> {
    pub(super) steps: &'a [[[u8; 4]; R]],
    /// What the sums of each group start with, of formats with an offset.
    pub(super) starts: &'a [[i32; R]],
    /// What the minima are multiplied with, of formats that have some.
    pub(super) sums: &'a [[[u8; 4]; R]],
    pub(super) scales: &'a [f32; R],
}

impl<'a> BlockInputs<'a> {
    /// Takes those of the next `R` rows, which are one row group.
    #[inline(always)]
    pub(super) fn take<T: Tile, const R: usize>(&mut self) -> Option<RowGroup<'a, R>> {
        let (steps, starts, sums, scales);
        (steps, self.steps) =
            self.steps.split_at_checked(R * groups::<T>() * self::steps::<T>())?;
        (starts, self.starts) = self.starts.split_at_checked(R * starts_of_block::<T>())?;
        (sums, self.sums) = self.sums.split_at_checked(R * T::MINIMA)?;
        (scales, self.scales) = self.scales.split_first_chunk()?;
        Some(RowGroup {
            steps: steps.as_chunks().0,
            starts: starts.as_chunks().0,
            sums: sums.as_chunks().0,
            scales,
        })
    }
}

/// How many starts a row has for a block of weights.
const fn starts_of_block<T: Tile>() -> usize {
    if T::OFFSET == 0 { 0 } else { groups::<T>() }
}

impl Activations {
    /// Rounds `x` for weights in tiles `T`, on several threads where it pays.
    pub(super) fn round<T: Tile>(&mut self, level: Level, x: ArrayView2<'_, f32>) {
        let (rows, cols) = x.dim();
        let n = rows * (cols / T::Block::WEIGHTS);
        // What is there already is written over.
        self.steps.resize(n * groups::<T>() * steps::<T>(), [0; 4]);
        self.starts.resize(n * starts_of_block::<T>(), 0);
        self.sums.resize(n * T::MINIMA, [0; 4]);
        self.scales.resize(n, 0.0);
        let Self { steps, starts, sums, scales, .. } = self;
        round_rows::<T>(level, x, 0..rows, Rounded { steps, starts, sums, scales });
    }

    /// The inputs of a chunk of rows for one block of weights.
    #[inline(always)]
    pub(super) fn block<T: Tile>(
        &self,
        chunk: &Range<usize>,
        cols: usize,
        block: usize,
    ) -> BlockInputs<'_> {
        let before = chunk.start * (cols / T::Block::WEIGHTS) + block * chunk.len();
        #[inline(always)]
        fn part<E>(all: &[E], before: usize, rows: usize, each: usize) -> &[E] {
            &all[before * each..][..rows * each]
        }
        let rows = chunk.len();
        BlockInputs {
            steps: part(&self.steps, before, rows, groups::<T>() * steps::<T>()),
            starts: part(&self.starts, before, rows, starts_of_block::<T>()),
            sums: part(&self.sums, before, rows, T::MINIMA),
            scales: part(&self.scales, before, rows, 1),
        }
    }
}

impl Activations {
    /// Brings the rows of `x` together for weights that are floats, on several threads where it
    /// pays.
    pub(super) fn pack<F: Factor>(&mut self, level: Level, x: ArrayView2<'_, f32>) {
        self.floats.resize(x.len(), 0.0);
        pack_rows(level, x, dense::steps::<F>(), 0..x.nrows(), &mut self.floats);
    }

    /// The inputs in `block` of a chunk of rows. Those of rows `first..first + n` that are one of
    /// its row groups begin at `first * block.len()`.
    #[inline(always)]
    pub(super) fn packed(&self, chunk: &Range<usize>, cols: usize, block: &Range<usize>) -> &[f32] {
        let before = chunk.start * cols + block.start * chunk.len();
        &self.floats[before..][..chunk.len() * block.len()]
    }
}

/// Splits the rows between threads at the borders of chunks.
fn pack_rows(
    level: Level,
    x: ArrayView2<'_, f32>,
    block: usize,
    rows: Range<usize>,
    packed: &mut [f32],
) {
    if rows.len() <= dense::CHUNK {
        return level.dispatch(PackChunk { x, block, rows, packed });
    }
    let middle = rows.start + (rows.len() / 2).next_multiple_of(dense::CHUNK);
    let (left, right) = packed.split_at_mut((middle - rows.start) * x.ncols());
    threads::join(
        || pack_rows(level, x, block, rows.start..middle, left),
        || pack_rows(level, x, block, middle..rows.end, right),
    );
}

struct PackChunk<'a> {
    x: ArrayView2<'a, f32>,
    /// Inputs in a block of `k`.
    block: usize,
    rows: Range<usize>,
    packed: &'a mut [f32],
}

impl Kernel for PackChunk<'_> {
    type Output = ();

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) {
        let cols = self.x.ncols();
        let mut packed = self.packed;
        for from in (0..cols).step_by(self.block) {
            let block = from..cols.min(from + self.block);
            let mut first = 0;
            while first < self.rows.len() {
                let n = row_group(simd, self.rows.len() - first);
                let group;
                (group, packed) = packed.split_at_mut(n * block.len());
                let rows =
                    Rows { x: &self.x, first: self.rows.start + first, block: block.clone() };
                with_rows!(is_wide::<S>(), n, R => rows.pack::<R>(group));
                first += n;
            }
        }
    }
}

/// Some inputs of the rows from `first` on.
struct Rows<'x, 'a> {
    x: &'x ArrayView2<'a, f32>,
    first: usize,
    block: Range<usize>,
}

impl Rows<'_, '_> {
    #[inline(always)]
    fn pack<const R: usize>(self, packed: &mut [f32]) {
        for r in 0..R {
            let row = &row(self.x, self.first + r)[self.block.clone()];
            for (packed, x) in packed.as_chunks_mut::<R>().0.iter_mut().zip(row) {
                packed[r] = *x;
            }
        }
    }
}

/// Whether so many rows meet weights of integers straight from the tiles.
#[inline(always)]
pub(super) fn is_direct<S: Simd>(rows: usize) -> bool {
    rows <= if is_wide::<S>() { DIRECT_ROWS } else { FEW_DIRECT_ROWS }
}

/// How many of `left` rows meet weights in tiles `T` together next, where there are `rows` in all.
#[inline(always)]
pub(super) fn integer_row_group<S: Simd, T: Tile>(simd: S, rows: usize, left: usize) -> usize {
    match (is_direct::<S>(rows), is_wide::<S>()) {
        (true, true) if left >= DIRECT_ROWS => DIRECT_ROWS,
        (false, true) if has_factors::<T>() => even_share(left, FACTOR_GROUP),
        (true, false) if S::SUMS > 1 => even_share(left, DIRECT_GROUP),
        _ => row_group(simd, left),
    }
}

/// What rounding the inputs of some rows gives: parts of what [`Activations`] hold.
struct Rounded<'a> {
    steps: &'a mut [[u8; 4]],
    starts: &'a mut [i32],
    sums: &'a mut [[u8; 4]],
    scales: &'a mut [f32],
}

impl Rounded<'_> {
    /// The first `share` of `of` equal parts, and the rest.
    fn split(self, share: usize, of: usize) -> (Self, Self) {
        fn split<E>(all: &mut [E], share: usize, of: usize) -> (&mut [E], &mut [E]) {
            all.split_at_mut(all.len() / of * share)
        }
        let (steps, later_steps) = split(self.steps, share, of);
        let (starts, later_starts) = split(self.starts, share, of);
        let (sums, later_sums) = split(self.sums, share, of);
        let (scales, later_scales) = split(self.scales, share, of);
        let later = Self {
            steps: later_steps,
            starts: later_starts,
            sums: later_sums,
            scales: later_scales,
        };
        (Self { steps, starts, sums, scales }, later)
    }
}

/// Splits the rows between threads at the borders of chunks.
fn round_rows<T: Tile>(level: Level, x: ArrayView2<'_, f32>, rows: Range<usize>, to: Rounded<'_>) {
    if rows.len() <= CHUNK {
        return level.dispatch(RoundChunk::<T> { x, rows, to, tile: PhantomData });
    }
    let middle = rows.start + (rows.len() / 2).next_multiple_of(CHUNK);
    let (left, right) = to.split(middle - rows.start, rows.len());
    threads::join(
        || round_rows::<T>(level, x, rows.start..middle, left),
        || round_rows::<T>(level, x, middle..rows.end, right),
    );
}

struct RoundChunk<'a, T> {
    x: ArrayView2<'a, f32>,
    rows: Range<usize>,
    to: Rounded<'a>,
    tile: PhantomData<T>,
}

impl<T: Tile> Kernel for RoundChunk<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Integers>(mut self, simd: S) {
        let n = self.rows.len();
        // Made once, for it has to be zeroed.
        let mut packed = [[0; 4]; MAX_STEPS];
        let mut first = 0;
        while first < n {
            let share = integer_row_group::<S, T>(simd, self.x.nrows(), n - first);
            // Block by block, so that what is written a few bytes at a time stays close by.
            for block in 0..self.x.ncols() / T::Block::WEIGHTS {
                for r in 0..share {
                    self.round(simd, block, first..first + share, r, &mut packed);
                }
            }
            first += share;
        }
    }
}

impl<T: Tile> RoundChunk<'_, T> {
    /// Rounds a block of row `r` of the row group `together`, both counted from the chunk's first.
    #[inline(always)]
    fn round<S: Integers>(
        &mut self,
        simd: S,
        block: usize,
        together: Range<usize>,
        r: usize,
        packed: &mut [[u8; 4]; MAX_STEPS],
    ) {
        let x = &row(&self.x, self.rows.start + together.start + r)[block * T::Block::WEIGHTS..];
        let x = &x[..T::Block::WEIGHTS];
        // In rows of a block.
        let before = block * self.rows.len() + together.start;
        let packed = &mut packed[..groups::<T>() * steps::<T>()];
        self.to.scales[before + r] = round_steps::<S, T::Width>(simd, x, T::LARGEST, packed);
        let steps = &mut self.to.steps[before * packed.len()..];
        for (step, packed) in steps.chunks_exact_mut(together.len()).zip(&*packed) {
            step[r] = *packed;
        }
        let each_group = packed.chunks_exact(self::steps::<T>());
        if T::OFFSET != 0 {
            let starts = &mut self.to.starts[before * groups::<T>()..];
            for (start, x) in starts.chunks_exact_mut(together.len()).zip(each_group.clone()) {
                start[r] = T::Width::start_of(x, T::OFFSET);
            }
        }
        if T::MINIMA > 0 {
            let mut group_sums = [0; MAX_GROUPS];
            for (sum, x) in group_sums.iter_mut().zip(each_group) {
                *sum = T::Width::sum(x);
            }
            let sums = &mut self.to.sums[before * T::MINIMA..];
            let sums = sums.chunks_exact_mut(together.len()).take(T::MINIMA);
            for (step, sums) in sums.enumerate() {
                sums[r] = join_words(T::input_sums(&group_sums, step));
            }
        }
    }
}

const _: () = assert!(CHUNK.is_multiple_of(12) && dense::CHUNK.is_multiple_of(12));
