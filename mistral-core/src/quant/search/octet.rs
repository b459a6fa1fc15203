//! Blocks of `w4a8`: eight groups whose steps and bases are whole numbers of one scale, so that all
//! weights are whole numbers of 8 bits.

use half::f16;

use super::super::block;
use super::super::w4a8::{GROUP, GROUPS, TOP};
use super::affine::Groups;
use super::columns::Grids;
use crate::simd::{Integers, Kernel, LANES, Level, Simd};

/// What a block is made of.
pub(in super::super) struct OctetGroups {
    pub(in super::super) scale: [u8; 2],
    pub(in super::super) steps: [u8; GROUPS],
    /// With 128 added.
    pub(in super::super) bases: [u8; GROUPS],
    pub(in super::super) codes: [u8; GROUPS * GROUP],
}

/// The largest step: 15 of them reach over 240 of the 256 numbers of 8 bits.
const MOST: f32 = 16.0;

/// The smallest and the largest number of 8 bits.
const LOWEST: f32 = -128.0;
const HIGHEST: f32 = 127.0;

/// Steps that the widest group starts with. The fewer, the smaller the range that its outermost
/// weights lose, the more, the finer the steps of the others.
const STARTS: [f32; 6] = [17.0, 16.0, 15.0, 13.5, 12.0, 10.0];

/// Rounds of whole numbers and least squares after each start.
const ROUNDS: usize = 2;

/// Steps and bases to try, from the nearest ones. The base is that which leaves the middle of the
/// grid where it is.
const NEIGHBOURS: [[f32; 2]; 14] = [
    [0.0, 0.0],
    [0.0, 1.0],
    [0.0, -1.0],
    [0.0, 2.0],
    [0.0, -2.0],
    [1.0, 0.0],
    [1.0, 1.0],
    [1.0, -1.0],
    [1.0, -2.0],
    [-1.0, 0.0],
    [-1.0, 1.0],
    [-1.0, -1.0],
    [-1.0, 2.0],
    [-1.0, -2.0],
];

/// The block for 256 weights.
pub(in super::super) fn octet_block(weights: &[f32]) -> OctetGroups {
    // So far does the largest scale reach.
    let weights = block::bounded(weights, HIGHEST * f16::MAX.to_f32());
    Level::detect().dispatch(Search { weights: &weights })
}

struct Search<'a> {
    weights: &'a [f32; GROUPS * GROUP],
}

impl Kernel for Search<'_> {
    type Output = OctetGroups;

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> OctetGroups {
        let groups = Groups::new(simd, self.weights, f32::from(TOP));
        let free = groups.free_grids();
        let mut best = Candidate { error: f32::INFINITY, ..Candidate::default() };
        for start in STARTS {
            let mut candidate = Candidate::starting(&free, start);
            for _ in 0..ROUNDS {
                candidate.choose(&groups, &free);
                if candidate.error < best.error {
                    best = candidate;
                }
                candidate.refit(&groups);
            }
        }
        let mut codes = [0; GROUPS * GROUP];
        groups.columns.write_codes(&best.grids(), &mut codes);
        OctetGroups {
            scale: block::half_bytes(best.scale),
            steps: best.steps.map(|step| step as u8),
            bases: best.bases.map(|base| (base - LOWEST) as u8),
            codes,
        }
    }
}

/// A block without its codes.
#[derive(Debug, Clone, Copy, Default)]
struct Candidate {
    /// As an f16 holds it.
    scale: f32,
    steps: [f32; GROUPS],
    bases: [f32; GROUPS],
    /// The squared error.
    error: f32,
}

impl Candidate {
    /// The widest step is to be `start`, or less where all grids would not lie in 8 bits.
    #[inline(always)]
    fn starting(free: &Grids, start: f32) -> Self {
        let mut scale = 0.0f32;
        for (step, minimum) in free.step.iter().zip(free.minimum) {
            let upper = f32::from(TOP) * step - minimum;
            scale = scale.max(step / start).max(upper / HIGHEST).max(minimum / -LOWEST);
        }
        Self { scale: block::rounded(scale), ..Self::default() }
    }

    /// The grids, each twice.
    #[inline(always)]
    fn grids(&self) -> Grids {
        let mut grids = Grids::default();
        for l in 0..LANES {
            grids.step[l] = self.scale * self.steps[l % GROUPS];
            grids.minimum[l] = -self.scale * self.bases[l % GROUPS];
        }
        grids
    }

    /// Sets step and base of each group to the best near its free grid.
    #[inline(always)]
    fn choose<S: Simd>(&mut self, groups: &Groups<S>, free: &Grids) {
        let half = f32::from(TOP) / 2.0;
        let inverse = block::inverse(self.scale);
        let mut errors = [f32::INFINITY; GROUPS];
        for pair in NEIGHBOURS.as_chunks::<2>().0 {
            let (mut found, mut grids) = ([(0.0, 0.0); LANES], Grids::default());
            for l in 0..LANES {
                let [more, higher] = pair[l / GROUPS];
                let (step, minimum) = (free.step[l] * inverse, free.minimum[l] * inverse);
                let whole = ((step + 0.5).floor() + more).clamp(1.0, MOST);
                let base = (half * (step - whole) - minimum + 0.5).floor() + higher;
                let base = base.clamp(LOWEST, HIGHEST - f32::from(TOP) * whole);
                found[l] = (whole, base);
                grids.step[l] = self.scale * whole;
                grids.minimum[l] = -self.scale * base;
            }
            for (l, error) in groups.columns.errors(&grids).into_iter().enumerate() {
                let g = l % GROUPS;
                if error < errors[g] {
                    errors[g] = error;
                    (self.steps[g], self.bases[g]) = found[l];
                }
            }
        }
        self.error = errors.iter().sum();
    }

    /// Sets the scale to that of least squares for its codes.
    #[inline(always)]
    fn refit<S: Simd>(&mut self, groups: &Groups<S>) {
        let sums = groups.columns.sums(&self.grids());
        let [mut xx, mut wx] = [0.0f64; 2];
        for g in 0..GROUPS {
            let (s, b) = (f64::from(self.steps[g]), f64::from(self.bases[g]));
            let (q, qq) = (f64::from(sums.q[g]), f64::from(sums.qq[g]));
            xx += s * s * qq + 2.0 * s * b * q + b * b * GROUP as f64;
            wx += s * f64::from(sums.wq[g]) + b * f64::from(groups.sum[g]);
        }
        if wx > 0.0 {
            self.scale = block::rounded((wx / xx) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_finds_the_same_block() {
        for seed in 0..50 {
            let weights = std::array::from_fn(|k| {
                let x = ((k * 7919 + seed * 104_729) % 2003) as f32 / 1001.0;
                0.02 * (x - 0.7) * (k / GROUP) as f32
            });
            let found = Level::available().map(|level| {
                let found = level.dispatch(Search { weights: &weights });
                (found.scale, found.steps, found.bases, found.codes)
            });
            let found: Vec<_> = found.collect();
            assert!(found.iter().all(|block| *block == found[0]), "seed {seed}");
        }
    }

    #[test]
    fn whole_numbers_of_a_scale_are_found_again() {
        // Groups of steps 16, 15, .. 9, with ends at -100 and above.
        let (step, base) = (|g: usize| 16 - g as i32, |g: usize| 7 * g as i32 - 120);
        let weights: [f32; GROUPS * GROUP] = std::array::from_fn(|k| {
            (step(k / GROUP) * (k * 7 % 16) as i32 + base(k / GROUP)) as f32 * 0.25
        });
        let found = octet_block(&weights);
        assert_eq!(block::half(found.scale), 0.25);
        for (g, (steps, bases)) in found.steps.into_iter().zip(found.bases).enumerate() {
            assert_eq!((i32::from(steps), i32::from(bases) - 128), (step(g), base(g)), "{g}");
        }
        for (k, code) in found.codes.into_iter().enumerate() {
            assert_eq!(usize::from(code), k * 7 % 16);
        }
    }
}
