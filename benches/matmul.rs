//! `matmul/...`: the weights of a 7B feed-forward layer by one row and by many.
//!
//! One row is bound by memory: its throughput is the bytes of the weights. Many rows are bound by
//! arithmetic: elements are flops. Compare with `limit/read`, `limit/f32`, `limit/bf16` (`bf16xbf16`),
//! `limit/int8` (weights of 4 bits, `w8a8`) and `limit/int16` (other blocks) of the same run.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a bench may panic

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::{limits, numbers};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gemm::Parallelism;
use mistral_core::ndarray::Array2;
use mistral_core::ops::Activations;
use mistral_core::{Matrix, MatrixError, WeightFormat, ops, threads};

const INPUTS: usize = 4096;
const OUTPUTS: usize = 14336;

fn weights(format: WeightFormat) -> Matrix {
    let mut next = numbers(2);
    Matrix::from_rows(OUTPUTS, INPUTS, format, |_, row| {
        row.fill_with(&mut next);
        Ok::<(), MatrixError>(())
    })
    .unwrap()
}

fn ours(c: &mut Criterion) {
    for format in WeightFormat::ALL {
        let weights = weights(format);
        for rows in [1, 2, 4, 8, 16, 64, 512] {
            let x = Array2::from_shape_simple_fn((rows, INPUTS), numbers(3));
            let mut out = Array2::zeros((rows, OUTPUTS));
            let name = if rows == 1 { "gemv" } else { "gemm" };
            let mut group = c.benchmark_group(format!("matmul/{name}/{format}"));
            group.throughput(if rows == 1 {
                Throughput::Bytes(weights.bytes() as u64)
            } else {
                Throughput::Elements((2 * rows * INPUTS * OUTPUTS) as u64)
            });
            let id = format!("{rows}x{INPUTS}x{OUTPUTS}");
            let mut activations = Activations::default();
            group.bench_function(id, |b| {
                b.iter(|| {
                    let x = black_box(x.view());
                    ops::matmul_with(&mut activations, x, &weights, out.view_mut()).unwrap();
                });
            });
        }
    }
}

/// The `gemm` crate on f32, which other Rust engines build on.
fn rival(c: &mut Criterion) {
    let w = Array2::from_shape_simple_fn((OUTPUTS, INPUTS), numbers(2));
    for rows in [1, 8, 512] {
        let x = Array2::from_shape_simple_fn((rows, INPUTS), numbers(3));
        let mut out = Array2::<f32>::zeros((rows, OUTPUTS));
        let mut group = c.benchmark_group("matmul/gemm-crate/f32");
        group.throughput(Throughput::Elements((2 * rows * INPUTS * OUTPUTS) as u64));
        group.bench_function(format!("{rows}x{INPUTS}x{OUTPUTS}"), |b| {
            b.iter(|| {
                let (to, from, by) = (out.as_mut_ptr(), x.as_ptr(), w.as_ptr());
                let (ins, outs) = (INPUTS as isize, OUTPUTS as isize);
                let threads = Parallelism::Rayon(0);
                // SAFETY: the pointers are those of arrays of exactly these sizes and strides.
                unsafe {
                    gemm::gemm(
                        rows, OUTPUTS, INPUTS, to, 1, outs, false, from, 1, ins, by, ins, 1, 0.0,
                        1.0, false, false, false, threads,
                    );
                }
            });
        });
    }
}

/// What it costs to have two things done at once: a matmul of one row does it once for each thread
/// but the first.
fn parallel_region(c: &mut Criterion) {
    let mut group = c.benchmark_group("parallel-region");
    group.bench_function("join", |b| {
        threads::enter(|| b.iter(|| threads::join(|| black_box(1), || black_box(2))));
    });
    // As between two products of a step: the other threads had nothing to do for a while. What is
    // beyond the 20 microseconds of either half is the cost.
    let (half, pause) = (Duration::from_micros(20), Duration::from_micros(60));
    let regions = move |n: u64| {
        let mut total = Duration::ZERO;
        for _ in 0..n {
            spin(pause);
            let start = Instant::now();
            threads::join(|| spin(half), || spin(half));
            total += start.elapsed();
        }
        total
    };
    group.bench_function("20us-after-60us-alone/entered", |b| {
        b.iter_custom(|n| threads::enter(|| regions(n)));
    });
    group.bench_function("20us-after-60us-alone/rayon", |b| {
        b.iter_custom(|n| rayon::scope(|_| regions(n)));
    });
}

/// Keeps a thread busy.
fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// The plain loop, one row.
fn naive(c: &mut Criterion) {
    let w = Array2::from_shape_simple_fn((OUTPUTS, INPUTS), numbers(2));
    let x = Array2::from_shape_simple_fn((1, INPUTS), numbers(3)).into_raw_vec_and_offset().0;
    let mut group = c.benchmark_group("matmul/naive/f32");
    group.throughput(Throughput::Bytes((4 * INPUTS * OUTPUTS) as u64));
    group.bench_function(BenchmarkId::from_parameter(format!("1x{INPUTS}x{OUTPUTS}")), |b| {
        b.iter(|| {
            let dot = |row: &[f32]| row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
            w.outer_iter().map(|row| dot(row.to_slice().unwrap())).collect::<Vec<f32>>()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = limits, parallel_region, ours, rival, naive
}
criterion_main!(benches);
