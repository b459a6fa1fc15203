//! Rotary position embedding (arXiv:2104.09864).

use ndarray::ArrayViewMut3;

use super::{by_rows, contiguous, expect};
use crate::error::OpError;

/// Which elements of a head form a pair that is rotated together.
///
/// It belongs to the weights: the rows of `q_proj` and `k_proj` are in one order or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Element `d` with `d + head_dim / 2`: checkpoints in Hugging Face's format.
    HalfSplit,
    /// Element `2d` with `2d + 1`: Mistral's own checkpoints.
    Interleaved,
}

/// A rotation by `position * theta^(-2d / head_dim)` for pair `d`.
///
/// ```
/// use mistral_core::ndarray::array;
/// use mistral_core::ops::{Rope, RopeLayout};
///
/// let rope = Rope::new(2, 10_000.0, RopeLayout::HalfSplit)?;
/// let mut q = array![[[1.0f32, 0.0]]]; // one token, one head of two elements
/// rope.apply(q.view_mut(), &rope.angles(1..2))?; // position 1: one radian
/// assert_eq!(q, array![[[1f32.cos(), 1f32.sin()]]]);
/// # Ok::<(), mistral_core::OpError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rope {
    /// Radians a position for each pair, `head_dim / 2` of them.
    frequencies: Vec<f64>,
    layout: RopeLayout,
}

/// Cosines and sines of some positions: made once a forward pass, used by every layer.
#[derive(Debug, Clone, Default)]
pub struct RopeAngles {
    /// `(positions, head_dim / 2)`, row by row.
    cos: Vec<f32>,
    sin: Vec<f32>,
    positions: usize,
}

impl Rope {
    /// A rotation of heads of `head_dim` elements.
    ///
    /// # Errors
    ///
    /// - [`OpError::OddHeadDim`]: `head_dim` is odd or 0.
    /// - [`OpError::HeadDimTooLarge`]: there is no memory for `head_dim / 2` angles.
    /// - [`OpError::BadTheta`]: `theta` is not a finite number above 0.
    pub fn new(head_dim: usize, theta: f64, layout: RopeLayout) -> Result<Self, OpError> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(OpError::OddHeadDim { found: head_dim });
        }
        if !(theta.is_finite() && theta > 0.0) {
            return Err(OpError::BadTheta { found: theta });
        }
        let frequency = |d| theta.powf(-2.0 * d as f64 / head_dim as f64);
        let mut frequencies = Vec::new();
        let reserved = frequencies.try_reserve_exact(head_dim / 2);
        reserved.map_err(|_| OpError::HeadDimTooLarge { found: head_dim })?;
        frequencies.extend((0..head_dim / 2).map(frequency));
        Ok(Self { frequencies, layout })
    }

    /// Angles of `positions`.
    pub fn angles(&self, positions: impl IntoIterator<Item = usize>) -> RopeAngles {
        let mut angles = RopeAngles::default();
        self.angles_into(positions, &mut angles);
        angles
    }

    /// Angles of `positions`, in memory that is used again.
    ///
    /// An angle is a product in f64, so it is as exact at position 32767 as at 0.
    pub fn angles_into(&self, positions: impl IntoIterator<Item = usize>, angles: &mut RopeAngles) {
        angles.positions = 0;
        angles.cos.clear();
        angles.sin.clear();
        for position in positions {
            angles.positions += 1;
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                angles.cos.push(cos as f32);
                angles.sin.push(sin as f32);
            }
        }
    }

    /// Rotates queries or keys in place: row `t` by the `t`-th of the angles' positions.
    ///
    /// Shapes
    ///
    /// | array | shape |
    /// |---|---|
    /// | x | `(tokens, heads, head_dim)` |
    ///
    /// # Errors
    ///
    /// - [`OpError::Shape`]: `x` has another `head_dim` or not as many tokens as there are angles.
    /// - [`OpError::NotContiguous`]: the elements of a head are strided.
    ///
    /// # Cost
    ///
    /// `3 * tokens * heads * head_dim` flops.
    pub fn apply(&self, x: ArrayViewMut3<'_, f32>, angles: &RopeAngles) -> Result<(), OpError> {
        const OP: &str = "rope";
        let (tokens, _, head_dim) = x.dim();
        let half = self.frequencies.len();
        expect(OP, "head_dim of x", head_dim, 2 * half)?;
        expect(OP, "tokens of x", tokens, angles.positions)?;
        expect(OP, "pairs of the angles", angles.cos.len(), half * tokens)?;
        contiguous(OP, "x", &x)?;
        by_rows(x, 0, &|first, x| {
            self.turn(x, &angles.cos[first * half..], &angles.sin[first * half..]);
        });
        Ok(())
    }

    /// Rotates tokens by the cosines and sines of their positions.
    fn turn(&self, mut x: ArrayViewMut3<'_, f32>, cos: &[f32], sin: &[f32]) {
        let half = self.frequencies.len();
        let rows = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (mut token, (cos, sin)) in x.outer_iter_mut().zip(rows) {
            for head in token.outer_iter_mut() {
                let head = head.into_slice().unwrap_or_default();
                match self.layout {
                    RopeLayout::HalfSplit => {
                        let (first, second) = head.split_at_mut(half);
                        let pairs = first.iter_mut().zip(second);
                        pairs.zip(cos.iter().zip(sin)).for_each(|((a, b), (c, s))| {
                            (*a, *b) = rotate(*a, *b, *c, *s);
                        });
                    }
                    RopeLayout::Interleaved => {
                        let (pairs, _) = head.as_chunks_mut::<2>();
                        for ([a, b], (c, s)) in pairs.iter_mut().zip(cos.iter().zip(sin)) {
                            (*a, *b) = rotate(*a, *b, *c, *s);
                        }
                    }
                }
            }
        }
    }
}

/// `(a, b)` turned by the angle whose cosine and sine are `c` and `s`. Each product is rounded by
/// itself, so that compilers and SIMD levels have nothing to choose.
#[inline(always)]
fn rotate(a: f32, b: f32, c: f32, s: f32) -> (f32, f32) {
    (a * c - b * s, a * s + b * c)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    #[test]
    fn both_layouts_are_the_same_rotation_of_reordered_elements() {
        let half = Rope::new(8, 10_000.0, RopeLayout::HalfSplit).unwrap();
        let inter = Rope::new(8, 10_000.0, RopeLayout::Interleaved).unwrap();
        let x = Array3::from_shape_fn((3, 2, 8), |(t, h, d)| (t * 31 + h * 7 + d) as f32 * 0.1);
        let reorder = |x: &Array3<f32>| {
            Array3::from_shape_fn((3, 2, 8), |(t, h, d)| x[[t, h, d / 2 + d % 2 * 4]])
        };
        let (mut a, mut b) = (x.clone(), reorder(&x));
        half.apply(a.view_mut(), &half.angles(5..8)).unwrap();
        inter.apply(b.view_mut(), &inter.angles(5..8)).unwrap();
        assert_eq!(reorder(&a), b);
    }

    #[test]
    fn a_score_depends_on_the_distance_alone() {
        let rope = Rope::new(16, 10_000.0, RopeLayout::HalfSplit).unwrap();
        let vector = |seed: usize| {
            Array3::from_shape_fn((1, 1, 16), |(_, _, d)| ((seed + 3 * d) % 7) as f32 - 3.0)
        };
        let score = |query: usize, key: usize| {
            let (mut q, mut k) = (vector(1), vector(5));
            rope.apply(q.view_mut(), &rope.angles(query..query + 1)).unwrap();
            rope.apply(k.view_mut(), &rope.angles(key..key + 1)).unwrap();
            (q * k).sum()
        };
        let near = score(9, 4);
        assert!((near - score(1009, 1004)).abs() < 2e-5, "{near}");
        assert!((near - score(9, 5)).abs() > 1e-2, "{near}");
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let bad = Rope::new(7, 10_000.0, RopeLayout::HalfSplit).unwrap_err();
        assert_eq!(bad, OpError::OddHeadDim { found: 7 });
        assert!(Rope::new(8, f64::NAN, RopeLayout::HalfSplit).is_err());
        let huge = Rope::new(usize::MAX - 1, 10_000.0, RopeLayout::HalfSplit).unwrap_err();
        assert_eq!(huge, OpError::HeadDimTooLarge { found: usize::MAX - 1 });
        let rope = Rope::new(8, 10_000.0, RopeLayout::HalfSplit).unwrap();
        let mut x = Array3::zeros((2, 1, 8));
        let error = rope.apply(x.view_mut(), &rope.angles(0..3)).unwrap_err();
        assert_eq!(
            error,
            OpError::Shape { op: "rope", what: "tokens of x", found: 2, expected: 3 }
        );
    }
}
