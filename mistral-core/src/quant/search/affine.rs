//! Blocks of `q4_k` and `q5_k`: eight groups with a step and a minimum.

use half::f16;

use super::super::block;
use super::super::sub_scales::{GROUP, GROUPS, SubScales};
use super::columns::{Columns, Grids, Sums};
use crate::simd::{Integers, Kernel, LANES, Level, Simd};

/// What a block is made of.
pub(in super::super) struct AffineBlock {
    pub(in super::super) scale: [u8; 2],
    pub(in super::super) minimum: [u8; 2],
    pub(in super::super) sub: SubScales,
    pub(in super::super) codes: [u8; GROUPS * GROUP],
}

/// The largest multiple.
const MOST: f32 = 63.0;

/// Where grids to try may end, in steps outside the range of the weights. An end inside costs the
/// outermost weights and helps all others. Each pair of a lower and an upper end is tried.
const ENDS: [f32; 6] = [0.3, 0.0, -0.3, -0.6, -1.0, -1.5];

/// Multiples that the largest step starts with.
const STARTS: [f32; 3] = [63.0, 61.7, 60.4];

/// Rounds of multiples and least squares after each start.
const ROUNDS: usize = 2;

/// Multiples of step and minimum to try, from the nearest ones. A larger step asks for a larger
/// minimum, so most lie along that diagonal.
const NEIGHBOURS: [[f32; 2]; 14] = [
    [0.0, 0.0],
    [0.0, 1.0],
    [0.0, -1.0],
    [1.0, 0.0],
    [-1.0, 0.0],
    [1.0, 1.0],
    [-1.0, -1.0],
    [1.0, 2.0],
    [-1.0, -2.0],
    [2.0, 1.0],
    [-2.0, -1.0],
    [2.0, 2.0],
    [-2.0, -2.0],
    [3.0, 3.0],
];

/// The block for 256 weights, with codes up to `top`.
pub(in super::super) fn affine_block(weights: &[f32], top: u8) -> AffineBlock {
    // So far down does the largest minimum reach.
    let weights = block::bounded(weights, MOST * f16::MAX.to_f32());
    Level::detect().dispatch(Search { weights: &weights, top: f32::from(top) })
}

struct Search<'a> {
    weights: &'a [f32; GROUPS * GROUP],
    top: f32,
}

impl Kernel for Search<'_> {
    type Output = AffineBlock;

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> AffineBlock {
        let groups = Groups::new(simd, self.weights, self.top);
        let free = groups.free_grids();
        let mut best = Candidate { error: f32::INFINITY, ..Candidate::default() };
        for start in STARTS {
            let mut candidate = Candidate::starting(&free, start);
            for _ in 0..ROUNDS {
                groups.choose_multiples(&free, &mut candidate);
                if candidate.error < best.error {
                    best = candidate;
                }
                groups.refit(&mut candidate);
            }
        }
        let mut codes = [0; GROUPS * GROUP];
        groups.columns.write_codes(&best.grids(), &mut codes);
        AffineBlock {
            scale: block::half_bytes(best.scale),
            minimum: block::half_bytes(best.minimum),
            sub: SubScales {
                scales: best.steps.map(|s| s as u8),
                minima: best.minima.map(|m| m as u8),
            },
            codes,
        }
    }
}

/// A block without its codes.
#[derive(Debug, Clone, Copy, Default)]
struct Candidate {
    /// The block's two numbers, as f16 holds them.
    scale: f32,
    minimum: f32,
    /// Multiples of them.
    steps: [f32; GROUPS],
    minima: [f32; GROUPS],
    /// The squared error.
    error: f32,
}

impl Candidate {
    /// The largest step is to be the multiple `start`, the largest minimum the largest multiple.
    #[inline(always)]
    fn starting(free: &Grids, start: f32) -> Self {
        let largest = |all: &[f32]| all.iter().fold(0.0f32, |m, x| m.max(*x));
        Self {
            scale: block::rounded(largest(&free.step) / start),
            minimum: block::rounded(largest(&free.minimum) / MOST),
            ..Self::default()
        }
    }

    /// The grids, each twice.
    #[inline(always)]
    fn grids(&self) -> Grids {
        let mut grids = Grids::default();
        for l in 0..LANES {
            grids.step[l] = self.scale * self.steps[l % GROUPS];
            grids.minimum[l] = self.minimum * self.minima[l % GROUPS];
        }
        grids
    }
}

/// The groups of a block, each in two lanes: `g` and `g + 8`. So two grids are tried at once.
pub(super) struct Groups<S> {
    pub(super) columns: Columns<S, GROUP>,
    /// The largest code.
    top: f32,
    /// Smallest weight of each group, or 0, largest weight, and sum.
    low: [f32; GROUPS],
    high: [f32; GROUPS],
    pub(super) sum: [f32; GROUPS],
}

impl<S: Simd> Groups<S> {
    #[inline(always)]
    pub(super) fn new(simd: S, weights: &[f32; GROUPS * GROUP], top: f32) -> Self {
        let mut groups = Self {
            columns: Columns::new(simd, weights, [0.0, top]),
            top,
            low: [0.0; GROUPS],
            high: [f32::MIN; GROUPS],
            sum: [0.0; GROUPS],
        };
        for (g, group) in weights.chunks_exact(GROUP).enumerate() {
            for w in group {
                groups.low[g] = groups.low[g].min(*w);
                groups.high[g] = groups.high[g].max(*w);
                groups.sum[g] += w;
            }
        }
        groups
    }

    /// The best grid of each group alone.
    #[inline(always)]
    pub(super) fn free_grids(&self) -> Grids {
        let mut free = Free { grids: Grids::default(), gains: [f32::NEG_INFINITY; GROUPS] };
        for lower in ENDS {
            for uppers in ENDS.as_chunks::<2>().0 {
                let mut grids = Grids::default();
                for l in 0..LANES {
                    let (upper, g) = (uppers[l / GROUPS], l % GROUPS);
                    let step = (self.high[g] - self.low[g]) / (self.top - lower - upper);
                    grids.step[l] = step;
                    grids.minimum[l] = lower * step - self.low[g];
                }
                self.improve(&mut free, &grids);
            }
        }
        free.grids
    }

    /// Takes the least squares for the codes of `grids` where they are better.
    #[inline(always)]
    fn improve(&self, free: &mut Free, grids: &Grids) {
        let sums = self.columns.sums(grids);
        for l in 0..LANES {
            let (step, minimum, gain) = self.least_squares(&sums, l);
            let g = l % GROUPS;
            if gain > free.gains[g] {
                free.gains[g] = gain;
                for lane in [g, g + GROUPS] {
                    free.grids.step[lane] = step;
                    free.grids.minimum[lane] = minimum;
                }
            }
        }
    }

    /// The step and minimum of least squares for the codes of lane `l`, neither below 0, and what
    /// they take off the squared sum of the weights.
    #[inline(always)]
    fn least_squares(&self, sums: &Sums, l: usize) -> (f32, f32, f32) {
        const N: f32 = GROUP as f32;
        let (w, q, qq, wq) = (self.sum[l % GROUPS], sums.q[l], sums.qq[l], sums.wq[l]);
        let spread = qq - q * q / N;
        let slope = wq - w * q / N;
        let step = slope * block::inverse(spread);
        let minimum = (step * q - w) / N;
        if step > 0.0 && minimum >= 0.0 {
            return (step, minimum, step * slope + w * w / N);
        }
        let step = wq * block::inverse(qq);
        if step > 0.0 {
            return (step, 0.0, step * wq);
        }
        let minimum = (-w / N).max(0.0);
        (0.0, minimum, minimum * minimum * N)
    }

    /// Sets the multiples of each group to the best near its free grid.
    #[inline(always)]
    fn choose_multiples(&self, free: &Grids, candidate: &mut Candidate) {
        let (to_steps, to_minima) =
            (block::inverse(candidate.scale), block::inverse(candidate.minimum));
        let mut errors = [f32::INFINITY; GROUPS];
        for pair in NEIGHBOURS.as_chunks::<2>().0 {
            let (mut multiples, mut grids) = (Grids::default(), Grids::default());
            for l in 0..LANES {
                let [step, minimum] = pair[l / GROUPS];
                let near = |x: f32, more: f32| ((x + 0.5).floor() + more).clamp(0.0, MOST);
                multiples.step[l] = near(free.step[l] * to_steps, step);
                multiples.minimum[l] = near(free.minimum[l] * to_minima, minimum);
                grids.step[l] = candidate.scale * multiples.step[l];
                grids.minimum[l] = candidate.minimum * multiples.minimum[l];
            }
            let found = self.columns.errors(&grids);
            for (l, error) in found.into_iter().enumerate() {
                let g = l % GROUPS;
                if error < errors[g] {
                    errors[g] = error;
                    candidate.steps[g] = multiples.step[l];
                    candidate.minima[g] = multiples.minimum[l];
                }
            }
        }
        candidate.error = errors.iter().sum();
    }

    /// Sets the block's two numbers to those of least squares for its codes.
    ///
    /// Weights are `scale * x - minimum * y` with `x = steps * codes` and `y = minima`.
    #[inline(always)]
    fn refit(&self, candidate: &mut Candidate) {
        let sums = self.columns.sums(&candidate.grids());
        let [mut xx, mut xy, mut yy, mut wx, mut wy] = [0.0f64; 5];
        for g in 0..GROUPS {
            let (s, m) = (f64::from(candidate.steps[g]), f64::from(candidate.minima[g]));
            xx += s * s * f64::from(sums.qq[g]);
            xy += s * m * f64::from(sums.q[g]);
            yy += m * m * GROUP as f64;
            wx += s * f64::from(sums.wq[g]);
            wy += m * f64::from(self.sum[g]);
        }
        let determinant = xx * yy - xy * xy;
        let scale = ((wx * yy - xy * wy) / determinant) as f32;
        let minimum = ((xy * wx - xx * wy) / determinant) as f32;
        // Where codes do not tell the two apart, they stay.
        if determinant > 1e-6 * xx * yy && scale > 0.0 && minimum > 0.0 {
            candidate.scale = block::rounded(scale);
            candidate.minimum = block::rounded(minimum);
        }
    }
}

/// The best grids so far, and what they take off the squared sum of the weights.
struct Free {
    grids: Grids,
    gains: [f32; GROUPS],
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of many sizes, among them one of zeros, one of a constant, one far from 0.
    fn weights(seed: usize) -> [f32; 256] {
        std::array::from_fn(|k| match k / GROUP {
            2 => 0.0,
            3 => -0.01,
            g => {
                let x = ((k * 7919 + seed * 104_729) % 2003) as f32 / 1001.0;
                0.02 * x * g as f32 - if g == 4 { 0.5 } else { 0.05 }
            }
        })
    }

    #[test]
    fn every_level_finds_the_same_block() {
        for (seed, top) in (0..50).zip([15.0, 31.0].into_iter().cycle()) {
            let weights = weights(seed);
            let found = Level::available().map(|level| {
                let found = level.dispatch(Search { weights: &weights, top });
                (found.scale, found.minimum, found.sub, found.codes)
            });
            let found: Vec<_> = found.collect();
            assert!(found.iter().all(|block| *block == found[0]), "seed {seed}");
        }
    }

    #[test]
    fn least_squares_leave_no_error_where_weights_lie_on_a_grid() {
        // 0.25 * code - 1.5 with codes 0..=15, a grid that every group shares.
        let weights: [f32; 256] = std::array::from_fn(|k| 0.25 * (k * 7 % 16) as f32 - 1.5);
        let found = affine_block(&weights, 15);
        for (k, code) in found.codes.iter().enumerate() {
            assert_eq!(usize::from(*code), k * 7 % 16);
        }
        let step = block::half(found.scale) * f32::from(found.sub.scales[0]);
        let minimum = block::half(found.minimum) * f32::from(found.sub.minima[0]);
        // An f16 has 11 bits.
        assert!((step - 0.25).abs() <= 0.25 / 2048.0, "{step}");
        assert!((minimum - 1.5).abs() <= 1.5 / 2048.0, "{minimum}");
    }

    #[test]
    fn a_minimum_is_never_below_zero() {
        // All weights are far above 0, where a grid with its lower end at them would be finer.
        let weights: [f32; 256] = std::array::from_fn(|k| 1.0 + (k % 32) as f32 / 320.0);
        let found = affine_block(&weights, 15);
        assert!(block::half(found.scale) > 0.0 && block::half(found.minimum) >= 0.0);
        assert_eq!(found.codes.iter().max(), Some(&15));
        let error = found.codes.iter().zip(weights).enumerate().map(|(k, (code, w))| {
            let step = block::half(found.scale) * f32::from(found.sub.scales[k / GROUP]);
            (step * f32::from(*code) - w).abs()
        });
        // Half a step of 1.1 / 15.
        assert!(error.fold(0.0, f32::max) <= 0.5 * 1.1 / 14.0);
    }
}
