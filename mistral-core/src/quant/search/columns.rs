//! The weights of a block with its groups side by side, and what grids make of them.

use super::super::block;
use crate::simd::{LANES, Lanes, Simd};

/// Grids `step * code - minimum`, one a lane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Grids {
    pub(super) step: [f32; LANES],
    pub(super) minimum: [f32; LANES],
}

/// Sums over the weights `w` and the codes `q` of each lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub(super) q: [f32; LANES],
    pub(super) qq: [f32; LANES],
    pub(super) wq: [f32; LANES],
}

/// Weights in columns: vector `k` has weight `k` of the group of each lane.
pub(super) struct Columns<S, const GROUP: usize> {
    simd: S,
    weights: [Lanes<f32>; GROUP],
    /// The smallest and the largest code.
    codes: [f32; 2],
}

impl<S: Simd, const GROUP: usize> Columns<S, GROUP> {
    /// Puts the groups of a block into the lanes; again from the first group if some are left.
    #[inline(always)]
    pub(super) fn new(simd: S, weights: &[f32], codes: [f32; 2]) -> Self {
        let mut columns = [Lanes::default(); GROUP];
        for (lane, group) in weights.chunks_exact(GROUP).cycle().take(LANES).enumerate() {
            for (column, w) in columns.iter_mut().zip(group) {
                column.0[lane] = *w;
            }
        }
        Self { simd, weights: columns, codes }
    }

    /// Calls `each` with the weights of a column and their codes, for one column after the other.
    #[inline(always)]
    pub(super) fn each(&self, grids: &Grids, mut each: impl FnMut(S::F32x16, S::F32x16)) {
        let simd = self.simd;
        let [low, high] = self.codes.map(|code| simd.splat(code));
        // Numbers about 1.5 * 2^23 have no fraction: to come near them is to round to nearest.
        let integers = simd.splat(12_582_912.0);
        let minimum = simd.load(&grids.minimum);
        let mut inverse = [0.0; LANES];
        for (inverse, step) in inverse.iter_mut().zip(grids.step) {
            *inverse = block::inverse(step);
        }
        let inverse = simd.load(&inverse);
        for column in &self.weights {
            let w = simd.load(&column.0);
            let position = simd.mul(simd.add(w, minimum), inverse);
            let position = simd.min(simd.max(position, low), high);
            each(w, simd.sub(simd.add(position, integers), integers));
        }
    }

    /// The sums for the codes that the grids give.
    #[inline(always)]
    pub(super) fn sums(&self, grids: &Grids) -> Sums {
        let simd = self.simd;
        let [mut q, mut qq, mut wq] = [simd.splat(0.0); 3];
        self.each(grids, |w, code| {
            q = simd.add(q, code);
            qq = simd.add(qq, simd.mul(code, code));
            wq = simd.add(wq, simd.mul(w, code));
        });
        Sums { q: self.lanes(q), qq: self.lanes(qq), wq: self.lanes(wq) }
    }

    /// The squared error of each lane.
    #[inline(always)]
    pub(super) fn errors(&self, grids: &Grids) -> [f32; LANES] {
        let simd = self.simd;
        let (step, minimum) = (simd.load(&grids.step), simd.load(&grids.minimum));
        let mut total = simd.splat(0.0);
        self.each(grids, |w, code| {
            let error = simd.sub(w, simd.sub(simd.mul(step, code), minimum));
            total = simd.add(total, simd.mul(error, error));
        });
        self.lanes(total)
    }

    /// The codes of the first lanes, less the smallest code, group by group.
    #[inline(always)]
    pub(super) fn write_codes(&self, grids: &Grids, out: &mut [u8]) {
        let [low, _] = self.codes;
        let mut k = 0;
        self.each(grids, |_, codes| {
            let column = out.iter_mut().skip(k).step_by(GROUP);
            for (out, code) in column.zip(self.lanes(codes)) {
                *out = (code - low) as u8;
            }
            k += 1;
        });
    }

    #[inline(always)]
    fn lanes(&self, v: S::F32x16) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.simd.store(v, &mut lanes);
        lanes
    }
}
