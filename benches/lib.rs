//! What the benches share: seeded inputs, and the limits of the machine they run on.
//!
//! - `matmul.rs`: one row to many, by format, beside the `gemm` crate and a plain loop.
//! - `attention.rs`: prefill and decode, beside the plain formula.
//! - `attention_features.rs`: what each option costs, other shapes, windows, batches.
//! - `sampling.rs`: a token from logits, step by step, beside sorting the vocabulary.
//! - `tokenizer.rs`: text to ids, beside the `tokenizers` crate.
//! - `serving.rs`: what more rows, more sequences and guesses bring, in pairs.
//! - `growth.rs`: how time grows with a text, as charts.
//!
//! `peers/` is a workspace of its own: llama.cpp and candle on the same files.
//!
//! A figure is worth quoting as a share of a limit taken in the same run: `cargo bench -p benches
//! --bench matmul` prints the `limit/...` rows first.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use mistral_core::ceilings;
use mistral_core::kv::{KvElement, KvError, KvPage, PAGE};
use mistral_core::ndarray::Array2;

pub mod chart;

/// Numbers in -1..1, the same for the same seed.
pub fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Pages of random keys and values, `(kv_heads, head_dim)` each, for `len` positions.
///
/// # Errors
///
/// [`KvError::OutOfMemory`]: there is no memory for them.
pub fn pages<E: KvElement>(
    heads: (usize, usize),
    len: usize,
    seed: u64,
) -> Result<Vec<Arc<KvPage<E>>>, KvError> {
    let mut next = numbers(seed);
    let mut row = || Array2::from_shape_simple_fn(heads, &mut next);
    let page = |_| {
        let mut page = KvPage::new(heads.0, PAGE, heads.1)?;
        for slot in 0..PAGE {
            page.write(slot, row().view(), row().view())?;
        }
        Ok(Arc::new(page))
    };
    (0..len.div_ceil(PAGE)).map(page).collect()
}

/// Bytes that are read to find the limit of the memory: several times any cache.
const READ_BYTES: usize = 512 << 20;

/// `limit/...`: what this machine can do at the time of the run, by [`ceilings`].
///
/// They come as rates. An iteration stands for 10^9 bytes or operations.
pub fn limits(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit");
    group.throughput(Throughput::Elements(GIGA));
    for (name, rate) in [
        ("f32", ceilings::f32_gflops as fn() -> f64),
        ("bf16", ceilings::bf16_gflops),
        ("int8", ceilings::int8_gops),
        ("int16", ceilings::int16_gops),
    ] {
        group.bench_function(name, |b| b.iter_custom(|iterations| time(iterations, rate())));
    }
    group.throughput(Throughput::Bytes(GIGA));
    // Without the memory to read from, there is nothing to hold decoding against.
    if ceilings::read_gb_per_second(READ_BYTES).is_some() {
        let rate = || ceilings::read_gb_per_second(READ_BYTES).unwrap_or(f64::MIN_POSITIVE);
        group.bench_function("read", |b| b.iter_custom(|iterations| time(iterations, rate())));
    }
}

const GIGA: u64 = 1_000_000_000;

/// How long so many times 10^9 take at a rate of 10^9 a second.
fn time(iterations: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(iterations as f64 / rate).unwrap_or(Duration::MAX)
}
