//! Arrays of numbers that repeat for a seed.

use mistral_kvcache::ndarray::Array3;

/// The next numbers in -2..2, from a linear congruential generator, in a shape.
pub(crate) fn random(state: &mut u64, shape: (usize, usize, usize)) -> Array3<f32> {
    Array3::from_shape_fn(shape, |_| {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 40) as f32 / 4194304.0 - 2.0
    })
}
