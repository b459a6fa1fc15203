//! Inputs as kernels read them: those of some rows side by side, rounded where weights are integers.

use std::ops::Range;

use ndarray::ArrayView2;

use super::dense;
use super::pairs::PairInputs;
use super::rows::{even_share, is_wide, row_group, with_rows};
use crate::element::Factor;
use crate::ops::row;
use crate::quant::kernel::{MAX_STEPS, MOST_TOGETHER, Tile, rounded_together, steps};
use crate::quant::round_into;
use crate::quant::width::Width;
use crate::simd::{Integers, Kernel, Level, Simd};
use crate::threads;

/// Rows whose inputs lie together where weights are integers: sixteen groups of six.
pub(super) const CHUNK: usize = 96;

/// Most rows that meet weights of integers straight from the tiles.
pub(super) const DIRECT_ROWS: usize = 8;

/// How many of them pass over a tile together where registers are few.
const DIRECT_GROUP: usize = 4;

/// Memory for the inputs of [`matmul_with`](crate::ops::matmul_with) as kernels read them: kept by
/// the caller, so that a step of decoding allocates nothing.
///
/// For weights that are floats the inputs of several rows are brought together, as they are. For
/// weights that are integers an input is rounded to 8 or 16 bits, with a scale for each row and 32
/// inputs, or 256 for `w8a8`: `x ≈ scale * integer`, `scale = max|x| / 127` or `/ 32767`. For
/// `bf16xbf16` it is rounded to bf16.
///
/// Cost: `tokens * in * 4` bytes for weights that are floats, from 60 tokens on, about
/// `tokens * in * 2.5` for 8-bit weights and half of it for 4-bit weights, and for `w8a8` with
/// VNNI. For `bf16xbf16` as for floats and as much again, for any number of tokens; half of both
/// where the CPU multiplies pairs.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    /// `[chunk][group][row group][step][row]`
    steps: Vec<[u8; 4]>,
    /// `[chunk][group][row]`
    groups: Vec<Group>,
    /// `[chunk][block of k][row group][k][row]`
    floats: Vec<f32>,
    pub(super) pairs: PairInputs,
}

/// The inputs of one row and group, besides their integers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Group {
    /// `x ≈ scale * integer`
    pub(super) scale: f32,
    /// `scale * Σ integers`, for weights with a minimum.
    pub(super) sum: f32,
    /// `-offset * Σ integers`, as [`Width::start`] takes it.
    pub(super) start: i32,
}

/// The rounded inputs of some rows, for one group of weights.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) steps: &'a [[u8; 4]],
    pub(super) groups: &'a [Group],
}

/// The rounded inputs of `R` rows that pass over a group of weights together.
#[derive(Clone, Copy)]
pub(super) struct RowGroup<'a, const R: usize> {
    pub(super) steps: &'a [[[u8; 4]; R]],
    pub(super) groups: &'a [Group; R],
}

impl<'a> Inputs<'a> {
    /// Takes those of the next `R` rows, which are one row group.
    #[inline(always)]
    pub(super) fn take<const R: usize>(&mut self, steps: usize) -> Option<RowGroup<'a, R>> {
        let (groups, those);
        (groups, self.groups) = self.groups.split_first_chunk()?;
        (those, self.steps) = self.steps.split_at_checked(R * steps)?;
        Some(RowGroup { steps: those.as_chunks().0, groups })
    }
}

impl Activations {
    /// Rounds `x` for weights in tiles `T`, on several threads where it pays.
    pub(super) fn round<T: Tile>(&mut self, level: Level, x: ArrayView2<'_, f32>) {
        let (rows, cols) = x.dim();
        let n = rows * (cols / T::GROUP);
        // What is there already is written over.
        self.groups.resize(n, Group::default());
        self.steps.resize(n * steps::<T>(), [0; 4]);
        round_rows::<T>(level, x, 0..rows, &mut self.steps, &mut self.groups);
    }

    /// The inputs of a chunk of rows for one group of weights.
    #[inline(always)]
    pub(super) fn group<T: Tile>(
        &self,
        chunk: &Range<usize>,
        cols: usize,
        group: usize,
    ) -> Inputs<'_> {
        let before = chunk.start * (cols / T::GROUP) + group * chunk.len();
        let steps = steps::<T>();
        Inputs {
            steps: &self.steps[before * steps..][..chunk.len() * steps],
            groups: &self.groups[before..][..chunk.len()],
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
                with_rows!(S, n, R => rows.pack::<R>(group));
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

/// How many of `left` rows meet weights of integers together next, where there are `rows` in all.
#[inline(always)]
pub(super) fn integer_row_group<S: Simd>(simd: S, rows: usize, left: usize) -> usize {
    if S::SUMS > 1 && !is_wide::<S>() && rows <= DIRECT_ROWS {
        even_share(left, DIRECT_GROUP)
    } else {
        row_group(simd, left)
    }
}

/// Splits the rows between threads at the borders of chunks.
fn round_rows<T: Tile>(
    level: Level,
    x: ArrayView2<'_, f32>,
    rows: Range<usize>,
    steps: &mut [[u8; 4]],
    groups: &mut [Group],
) {
    if rows.len() <= CHUNK {
        return level.dispatch(RoundChunk::<T> {
            x,
            rows,
            steps,
            groups,
            tile: Default::default(),
        });
    }
    let middle = rows.start + (rows.len() / 2).next_multiple_of(CHUNK);
    let share = (middle - rows.start) * (groups.len() / rows.len());
    let (left, right) = groups.split_at_mut(share);
    let (left_steps, right_steps) = steps.split_at_mut(share * self::steps::<T>());
    threads::join(
        || round_rows::<T>(level, x, rows.start..middle, left_steps, left),
        || round_rows::<T>(level, x, middle..rows.end, right_steps, right),
    );
}

struct RoundChunk<'a, T> {
    x: ArrayView2<'a, f32>,
    rows: Range<usize>,
    steps: &'a mut [[u8; 4]],
    groups: &'a mut [Group],
    tile: std::marker::PhantomData<T>,
}

impl<T: Tile> Kernel for RoundChunk<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Integers>(mut self, simd: S) {
        let n = self.rows.len();
        let mut first = 0;
        while first < n {
            let share = integer_row_group(simd, self.x.nrows(), n - first);
            for r in 0..share {
                self.round(simd, first..first + share, r);
            }
            first += share;
        }
    }
}

impl<T: Tile> RoundChunk<'_, T> {
    /// Rounds row `r` of the row group `together`, both counted from the chunk's first.
    #[inline(always)]
    fn round<S: Integers>(&mut self, simd: S, together: Range<usize>, r: usize) {
        let n = self.rows.len();
        let per_block = rounded_together::<T>() / T::GROUP;
        let mut integers = [0; MOST_TOGETHER];
        let integers = &mut integers[..rounded_together::<T>()];
        let mut packed = [[0; 4]; MAX_STEPS];
        let packed = &mut packed[..steps::<T>()];
        let index = self.rows.start + together.start + r;
        for (b, block) in row(&self.x, index).chunks_exact(integers.len()).enumerate() {
            let scale = round_into(simd, block, T::LARGEST, integers);
            for (g, integers) in integers.chunks_exact(T::GROUP).enumerate() {
                for (step, x) in packed.iter_mut().zip(integers.chunks_exact(T::Width::INPUTS)) {
                    *step = T::Width::pack(x);
                }
                let before = (b * per_block + g) * n + together.start;
                let steps = &mut self.steps[before * packed.len()..];
                for (to, step) in steps.chunks_exact_mut(together.len()).zip(&*packed) {
                    to[r] = *step;
                }
                let sum = integers.iter().sum::<i32>() as f32;
                let start = T::Width::start_of(packed, T::OFFSET);
                self.groups[before + r] = Group { scale, sum: scale * sum, start };
            }
        }
    }
}

const _: () = assert!(CHUNK.is_multiple_of(12) && dense::CHUNK.is_multiple_of(12));
