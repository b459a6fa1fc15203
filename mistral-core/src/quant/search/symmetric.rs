//! Blocks of `q6_k`: sixteen groups with a step and no minimum.

use half::f16;

use super::super::block;
use super::columns::{Columns, Grids};
use crate::simd::{Integers, Kernel, LANES, Level, Simd};

/// What a block is made of.
pub(in super::super) struct SymmetricBlock {
    pub(in super::super) scale: [u8; 2],
    pub(in super::super) scales: [i8; LANES],
    pub(in super::super) codes: [u8; LANES * GROUP],
}

/// Weights in a group; there is a lane for each group.
const GROUP: usize = 16;

/// The smallest and the largest code, before 32 is added.
const CODES: [f32; 2] = [-32.0, 31.0];

/// The smallest and the largest multiple.
const MULTIPLES: [f32; 2] = [-128.0, 127.0];

/// Steps to try, by the code that the weight of the largest magnitude gets before it is rounded. A
/// step may be negative: the codes reach farther down than up.
const REACHES: [f32; 12] =
    [-32.0, -32.4, -31.6, -31.1, -30.5, -33.0, 31.0, 31.4, 30.6, 30.1, 29.5, 32.0];

/// Multiples that the largest step starts with.
const STARTS: [f32; 4] = [127.0, 125.7, 124.3, 122.9];

/// Rounds of multiples and least squares after each start.
const ROUNDS: usize = 2;

/// Multiples to try, from the nearest one.
const NEIGHBOURS: [f32; 5] = [0.0, 1.0, -1.0, 2.0, -2.0];

/// The block for 256 weights.
pub(in super::super) fn symmetric_block(weights: &[f32]) -> SymmetricBlock {
    // So far do the codes of the largest step reach.
    let weights = block::bounded(weights, CODES[1] * MULTIPLES[1] * f16::MAX.to_f32());
    Level::detect().dispatch(Search { weights: &weights })
}

struct Search<'a> {
    weights: &'a [f32; LANES * GROUP],
}

impl Kernel for Search<'_> {
    type Output = SymmetricBlock;

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> SymmetricBlock {
        let columns = Columns::new(simd, self.weights, CODES);
        let free = free_steps(&columns, self.weights);
        let largest = block::extreme(&free);
        let mut best = Candidate { error: f32::INFINITY, ..Candidate::default() };
        for start in STARTS {
            let scale = block::rounded(largest / start);
            let mut candidate = Candidate { scale, ..Candidate::default() };
            for _ in 0..ROUNDS {
                candidate.choose_multiples(&columns, &free);
                if candidate.error < best.error {
                    best = candidate;
                }
                candidate.refit(&columns);
            }
        }
        let mut codes = [0; LANES * GROUP];
        columns.write_codes(&best.grids(), &mut codes);
        SymmetricBlock {
            scale: block::half_bytes(best.scale),
            scales: best.multiples.map(|m| m as i8),
            codes,
        }
    }
}

/// The best step of each group alone.
#[inline(always)]
fn free_steps<S: Simd>(
    columns: &Columns<S, GROUP>,
    weights: &[f32; LANES * GROUP],
) -> [f32; LANES] {
    let mut extremes = [0.0; LANES];
    for (extreme, group) in extremes.iter_mut().zip(weights.chunks_exact(GROUP)) {
        *extreme = block::extreme(group);
    }
    let mut best = [0.0; LANES];
    // What the steps take off the squared sum of the weights.
    let mut gains = [0.0; LANES];
    for reach in REACHES {
        let mut grids = Grids::default();
        for (step, extreme) in grids.step.iter_mut().zip(extremes) {
            *step = extreme / reach;
        }
        let sums = columns.sums(&grids);
        for l in 0..LANES {
            let step = sums.wq[l] * block::inverse(sums.qq[l]);
            let gain = step * sums.wq[l];
            if gain > gains[l] {
                gains[l] = gain;
                best[l] = step;
            }
        }
    }
    best
}

/// A block without its codes.
#[derive(Debug, Clone, Copy, Default)]
struct Candidate {
    /// The block's number, as f16 holds it.
    scale: f32,
    /// Multiples of it.
    multiples: [f32; LANES],
    /// The squared error.
    error: f32,
}

impl Candidate {
    #[inline(always)]
    fn grids(&self) -> Grids {
        let mut grids = Grids::default();
        for (step, multiple) in grids.step.iter_mut().zip(self.multiples) {
            *step = self.scale * multiple;
        }
        grids
    }

    /// Sets the multiple of each group to the best near its free step.
    #[inline(always)]
    fn choose_multiples<S: Simd>(&mut self, columns: &Columns<S, GROUP>, free: &[f32; LANES]) {
        let to_multiples = block::inverse(self.scale);
        let mut errors = [f32::INFINITY; LANES];
        let mut best = self.multiples;
        for more in NEIGHBOURS {
            for (multiple, step) in self.multiples.iter_mut().zip(free) {
                let nearest = (step * to_multiples + 0.5).floor();
                *multiple = (nearest + more).clamp(MULTIPLES[0], MULTIPLES[1]);
            }
            let found = columns.errors(&self.grids());
            for l in 0..LANES {
                if found[l] < errors[l] {
                    errors[l] = found[l];
                    best[l] = self.multiples[l];
                }
            }
        }
        self.multiples = best;
        self.error = errors.iter().sum();
    }

    /// Sets the block's number to that of least squares for its codes.
    #[inline(always)]
    fn refit<S: Simd>(&mut self, columns: &Columns<S, GROUP>) {
        let sums = columns.sums(&self.grids());
        let [mut xx, mut wx] = [0.0f64; 2];
        for l in 0..LANES {
            let multiple = f64::from(self.multiples[l]);
            xx += multiple * multiple * f64::from(sums.qq[l]);
            wx += multiple * f64::from(sums.wq[l]);
        }
        // Without a code other than 0 there is nothing to fit.
        if xx > 0.0 {
            self.scale = block::rounded((wx / xx) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of many sizes, among them one of zeros and one of a single weight.
    fn weights(seed: usize) -> [f32; 256] {
        std::array::from_fn(|k| match k / GROUP {
            3 => 0.0,
            5 if k % GROUP != 7 => 0.0,
            g => {
                ((k * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 * 0.02 - 0.02 * g as f32 / 16.0
            }
        })
    }

    #[test]
    fn every_level_finds_the_same_block() {
        for seed in 0..50 {
            let weights = weights(seed);
            let found = Level::available().map(|level| {
                let found = level.dispatch(Search { weights: &weights });
                (found.scale, found.scales, found.codes)
            });
            let found: Vec<_> = found.collect();
            assert!(found.iter().all(|block| *block == found[0]), "seed {seed}");
        }
    }

    #[test]
    fn weights_on_a_grid_are_found_exactly() {
        // Group g has step (g + 1) / 64, of which -32 steps are the extreme.
        let weights: [f32; 256] = std::array::from_fn(|k| {
            (k / GROUP + 1) as f32 / 64.0 * ((k % GROUP) as f32 * 4.0 - 32.0)
        });
        let found = symmetric_block(&weights);
        let scale = block::half(found.scale);
        for (k, w) in weights.iter().enumerate() {
            let code = f32::from(found.codes[k]) - 32.0;
            let restored = scale * f32::from(found.scales[k / GROUP]) * code;
            // The multiples need not fit all groups at once.
            assert!((restored - w).abs() <= 0.02 * w.abs().max(0.1), "{k}: {restored} {w}");
        }
    }
}
