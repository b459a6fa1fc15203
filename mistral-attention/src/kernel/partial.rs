//! Softmax in parts: what some blocks have given, and how more is added.
//!
//! For scores that come in parts, `m = max s`, `l = Σ e^(s - m)` and `o = Σ e^(s - m) v` are all
//! that is needed (arXiv:1805.02867; 2205.14135, section 3.1). A part `(m₂, l₂, o₂)` is added by
//!
//! ```text
//! m' = max(m, m₂)    a = e^(m - m')    c = e^(m₂ - m')    l' = l a + l₂ c    o' = o a + o₂ c
//! ```
//!
//! Example: values 8 and 0 with scores 0 and ln 3, one a part. The first is (0, 1, 8), the second
//! (ln 3, 1, 0). Then `m' = ln 3`, `a = 1/3`, `c = 1`, `l' = 4/3`, `o' = 8/3`, and `o'/l' = 2`:
//! the weights are 1/4 and 3/4.
//!
//! Adding a part to nothing, `(f32::MIN, 0, 0)`, gives the part itself, in every bit: a block may
//! be stored on its own by one thread and added by another.

use mistral_core::simd::{self, LANES, Lanes, Simd};

use super::block_softmax::Softmax;

/// The parts of some rows (pairs of a query and a head), in borrowed memory.
pub(super) struct Partials<'a> {
    /// Maximum and sum of each row.
    pub(super) softmax: &'a mut [Softmax],
    /// Unnormalised outputs, `width` vectors a row.
    pub(super) out: &'a mut [Lanes<f32>],
    /// `head_dim` in vectors, rounded up.
    pub(super) width: usize,
}

/// What the old and the new sums of sixteen rows at most are multiplied with.
pub(super) struct Weights {
    old: [f32; LANES],
    new: [f32; LANES],
}

impl Partials<'_> {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.softmax.fill(Softmax::EMPTY);
        self.out.fill(Lanes::default());
    }

    /// Adds maximum and sum of a part to row `first + r` wherever `new[r]` has one, and says by
    /// what the outputs are to be multiplied.
    #[inline(always)]
    pub(super) fn add_softmax<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        first: usize,
        new: [Option<Softmax>; R],
    ) -> Weights {
        let rows = &mut self.softmax[first..first + R];
        let mut below = Weights { old: [0.0; LANES], new: [0.0; LANES] };
        for (r, (row, new)) in rows.iter().zip(new).enumerate() {
            if let Some(new) = new {
                let max = if new.max > row.max { new.max } else { row.max };
                below.old[r] = row.max - max;
                below.new[r] = new.max - max;
            }
        }
        let mut weights = below;
        for x in [&mut weights.old, &mut weights.new] {
            let e = simd::exp(simd, simd.load(x));
            simd.store(e, x);
        }
        for (r, (row, new)) in rows.iter_mut().zip(new).enumerate() {
            if let Some(new) = new {
                row.max = if new.max > row.max { new.max } else { row.max };
                row.sum = row.sum.mul_add(weights.old[r], new.sum * weights.new[r]);
            }
        }
        weights
    }

    /// Adds sixteen outputs of a part to vector `column` of row `first + r`.
    #[inline(always)]
    pub(super) fn add_out<S: Simd>(
        &mut self,
        simd: S,
        (first, r): (usize, usize),
        column: usize,
        weights: &Weights,
        new: S::F32x16,
    ) {
        let lanes = &mut self.out[(first + r) * self.width + column].0;
        // A chain may end in -0 (by underflow); +0 keeps "a part added to nothing is the part".
        let new = simd.add(new, simd.splat(0.0));
        let new = simd.mul(new, simd.splat(weights.new[r]));
        let sum = simd.mul_add(simd.load(lanes), simd.splat(weights.old[r]), new);
        simd.store(sum, lanes);
    }

    /// Adds the rows of `other`, all of which have seen something or nothing as a whole.
    #[inline(always)]
    pub(super) fn add<S: Simd>(&mut self, simd: S, softmax: &[Softmax], out: &[Lanes<f32>]) {
        for (row, &part) in softmax.iter().enumerate() {
            // A row that saw nothing of a block has no part of it.
            if part.sum == 0.0 && part.max == Softmax::EMPTY.max {
                continue;
            }
            let weights = self.add_softmax(simd, row, [Some(part)]);
            for column in 0..self.width {
                let new = simd.load(&out[row * self.width + column].0);
                self.add_out(simd, (row, 0), column, &weights, new);
            }
        }
    }

    /// `o / l` of a row, element by element; the last vector may be longer than the head. A row that
    /// saw nothing gives zeros; one whose scores are all minus infinity has no weights: NaN.
    pub(super) fn normalised(&self, row: usize, saw_nothing: bool) -> impl Iterator<Item = f32> {
        let sum = if saw_nothing { 1.0 } else { self.softmax[row].sum };
        let lanes = &self.out[row * self.width..][..self.width];
        lanes.iter().flat_map(|lanes| lanes.0).map(move |o| o / sum)
    }

    /// `ln Σ e^score` of a row; minus infinity if it saw nothing.
    pub(super) fn log_sum_exp(&self, row: usize) -> f32 {
        let Softmax { max, sum } = self.softmax[row];
        // In f64, whose logarithm is the same everywhere once rounded to f32.
        (f64::from(max) + f64::from(sum).ln()) as f32
    }
}
