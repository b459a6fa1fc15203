//! Arrays of numbers that repeat for a seed.

use mistral_core::ndarray::Array2;

/// Numbers in -1..1 that repeat for a seed.
pub(crate) fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

pub(crate) fn array(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let mut next = numbers(seed);
    Array2::from_shape_simple_fn((rows, cols), &mut next)
}

/// What is compared where equality is owed.
pub(crate) fn bits(x: &Array2<f32>) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}
