//! Weights of several kinds that repeat for a kind.

fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

fn normal(uniform: &mut impl FnMut() -> f64) -> f64 {
    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
}

pub(crate) fn gaussian(n: usize) -> Vec<f32> {
    let mut uniform = uniform(1);
    (0..n).map(|_| 0.02 * normal(&mut uniform) as f32).collect()
}

pub(crate) fn laplacian(n: usize) -> Vec<f32> {
    let mut uniform = uniform(2);
    (0..n)
        .map(|_| {
            let x = uniform() - 0.5;
            (-0.02 * x.signum() * (1.0 - 2.0 * x.abs()).ln()) as f32
        })
        .collect()
}

/// Student's distribution with four degrees of freedom: outliers of ten deviations.
pub(crate) fn heavy_tailed(n: usize) -> Vec<f32> {
    let mut uniform = uniform(3);
    (0..n)
        .map(|_| {
            let squares: f64 = (0..4).map(|_| normal(&mut uniform).powi(2)).sum();
            (0.02 * normal(&mut uniform) / (squares / 4.0).sqrt()) as f32
        })
        .collect()
}
