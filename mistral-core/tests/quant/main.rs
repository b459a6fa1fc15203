//! Block-quantised formats: ggml's bytes and values, and what holds for any weights.
#![allow(clippy::unwrap_used)] // a fixture that cannot be read must fail the test

use mistral_core::quant::Block;

mod accuracy;
mod drawn;
mod edges;
mod golden;
mod properties;

/// Runs `$body` with `$format` as each block type.
macro_rules! for_each_format {
    ($format:ident => $body:expr) => {{
        for_each_format!(@ $format, $body, Q8_0, Q4_0, Q5_0, Q4K, Q5K, Q6K, W8A8, W4A8)
    }};
    (@ $format:ident, $body:expr, $($block:ident),*) => {{
        $({ type $format = $block; $body })*
    }};
}

use for_each_format;

fn quantised<B: Block>(weights: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; weights.len() / B::WEIGHTS * B::BYTES];
    for (weights, bytes) in weights.chunks(B::WEIGHTS).zip(bytes.chunks_mut(B::BYTES)) {
        B::quantise(weights).write(bytes);
    }
    bytes
}

fn dequantised<B: Block>(bytes: &[u8]) -> Vec<f32> {
    let mut weights = vec![f32::NAN; bytes.len() / B::BYTES * B::WEIGHTS];
    for (bytes, weights) in bytes.chunks(B::BYTES).zip(weights.chunks_mut(B::WEIGHTS)) {
        B::from_bytes(bytes).dequantise(weights);
    }
    weights
}

fn restored<B: Block>(weights: &[f32]) -> Vec<f32> {
    dequantised::<B>(&quantised::<B>(weights))
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}
