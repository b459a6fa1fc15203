//! Inputs rounded to integers, for weights that are integers.

use std::ops::Range;

use ndarray::ArrayView2;

use crate::ops::row;
use crate::quant::kernel::{Tile, Width, groups, steps};
use crate::quant::{Block, round_block};
use crate::simd::{Integers, Kernel, Level};
use crate::threads;

/// Rows whose inputs lie together: sixteen groups of six that stay in the second-level cache.
pub(super) const CHUNK: usize = 96;

/// Inputs that are rounded with a scale of their own.
///
/// One scale for a whole row would lose the small inputs of rows with outliers: ten times the error.
const BLOCK: usize = 32;

/// Memory for the rounded inputs of [`matmul_with`](crate::ops::matmul_with): kept by the caller,
/// so that a step of decoding allocates nothing.
///
/// An input is rounded to 8 or 16 bits, with a scale for each row and 32 inputs:
/// `x ≈ scale * integer`, `scale = max|x| / 127` or `/ 32767`. Weights that are floats use none of
/// it.
///
/// Cost: about `tokens * in * 2.5` bytes for 8-bit weights and half of it for 4-bit weights.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    /// `[chunk][group][row][step]`
    steps: Vec<[u8; 4]>,
    /// `[chunk][group][row]`
    groups: Vec<Group>,
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

impl<'a> Inputs<'a> {
    /// Those of rows `first..first + R`; a row has `steps` steps.
    #[inline(always)]
    pub(super) fn rows<const R: usize>(self, first: usize, steps: usize) -> Inputs<'a> {
        Inputs {
            steps: &self.steps[first * steps..][..R * steps],
            groups: &self.groups[first..][..R],
        }
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
    fn run<S: Integers>(self, simd: S) {
        let n = self.rows.len();
        let (per_group, per_block) = (steps::<T>(), BLOCK / T::GROUP);
        for (r, index) in self.rows.clone().enumerate() {
            let (blocks, _) = row(&self.x, index).as_chunks::<BLOCK>();
            for (b, block) in blocks.iter().enumerate() {
                let (scale, integers) = round_block(simd, block, T::Width::LARGEST);
                for (g, integers) in integers.chunks_exact(T::GROUP).enumerate() {
                    let at = (b * per_block + g) * n + r;
                    let steps = &mut self.steps[at * per_group..][..per_group];
                    for (step, x) in steps.iter_mut().zip(integers.chunks_exact(T::Width::INPUTS)) {
                        *step = T::Width::pack(x);
                    }
                    let sum = integers.iter().sum::<i32>() as f32;
                    let start = T::Width::start_of(steps, T::OFFSET);
                    self.groups[at] = Group { scale, sum: scale * sum, start };
                }
            }
        }
    }
}

/// Inputs of a row are whole blocks wherever weights are: a block of weights has 32 or 256.
const _: () = assert!(BLOCK == 32 && CHUNK.is_multiple_of(6));

/// Groups in a row of `cols` inputs.
pub(super) fn groups_in<T: Tile>(cols: usize) -> usize {
    cols / T::Block::WEIGHTS * groups::<T>()
}
