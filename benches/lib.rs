//! What the benches share: seeded inputs, and the limits of the machine they run on.
//!
//! - `matmul.rs`: one row to many, by format, beside the `gemm` crate and a plain loop.
//! - `attention.rs`: prefill and decode, beside the plain formula.
//!
//! A figure is worth quoting as a share of a limit taken in the same run: `cargo bench -p benches
//! --bench matmul` prints the `limit/...` rows first.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use mistral_core::simd::{Kernel, Lanes, Level, Simd, sum_lanes};
use mistral_core::threads;

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

/// `limit/f32` and `limit/read`: what this machine can do at the time of the run.
pub fn limits(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit");
    let rounds = 1_000_000;
    group.throughput(Throughput::Elements(multiply_adds_flops(rounds)));
    group.bench_function("f32", |b| b.iter(|| multiply_adds(rounds)));
    let mut next = numbers(1);
    let data = vec![Lanes(std::array::from_fn(|_| next())); 8 << 20];
    group.throughput(Throughput::Bytes(size_of_val(data.as_slice()) as u64));
    group.bench_function("read", |b| b.iter(|| read_streams(&data)));
}

/// Fused multiply-adds on vectors in registers, nothing read: the arithmetic limit of a thread.
struct MultiplyAdds {
    rounds: usize,
}

impl Kernel for MultiplyAdds {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        // Six chains of sixteen lanes: enough to hide the latency of one.
        let mut chains = [simd.splat(black_box(1.0)); 6];
        let (factor, addend) = (simd.splat(black_box(0.999)), simd.splat(black_box(0.001)));
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = simd.mul_add(*chain, factor, addend);
            }
        }
        chains.into_iter().map(|chain| sum_lanes(simd, chain)).sum()
    }
}

/// Flops of one call of [`multiply_adds`].
fn multiply_adds_flops(rounds: usize) -> u64 {
    (threads::count() * rounds * 6 * 16 * 2) as u64
}

/// Runs `rounds` of arithmetic on every thread.
fn multiply_adds(rounds: usize) {
    on_every_thread(threads::count(), &|_| {
        black_box(Level::detect().dispatch(MultiplyAdds { rounds }));
    });
}

/// Sums four streams far apart, as decode reads weights.
struct ReadStreams<'a> {
    data: &'a [Lanes<f32>],
}

impl Kernel for ReadStreams<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let run = self.data.len() / 4;
        let (a, rest) = self.data.split_at(run);
        let (b, rest) = rest.split_at(run);
        let (c, d) = rest.split_at(run);
        let mut sums = [simd.splat(0.0); 4];
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for (sum, lanes) in sums.iter_mut().zip([a, b, c, d]) {
                *sum = simd.add(*sum, simd.load(&lanes.0));
            }
        }
        sums.into_iter().map(|sum| sum_lanes(simd, sum)).sum()
    }
}

/// Reads all of `data`, each thread its own part in four streams.
fn read_streams(data: &[Lanes<f32>]) {
    let n = threads::count();
    on_every_thread(n, &|i| {
        let part = &data[data.len() / n * i..][..data.len() / n];
        black_box(Level::detect().dispatch(ReadStreams { data: part }));
    });
}

fn on_every_thread(n: usize, work: &(impl Fn(usize) + Sync)) {
    fn split(first: usize, n: usize, work: &(impl Fn(usize) + Sync)) {
        if n <= 1 {
            return work(first);
        }
        let half = n / 2;
        threads::join(|| split(first, half, work), || split(first + half, n - half, work));
    }
    split(0, n, work);
}
