//! `features/...`: what each option of attention costs, and other shapes than Mistral 7B's.
//!
//! Prefill is 1024 tokens at once, decode one token behind 4096, over pages in f16. Elements are
//! flops over visible pairs; decode's throughput is the bytes of visible keys and values. Compare
//! the rows of a group with its `plain`, taken in the same run.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a bench may panic

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use benches::{numbers, pages};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mistral_attention::half::{bf16, f16};
use mistral_attention::ndarray::{Array2, Array3, Axis};
use mistral_attention::{
    Attention, AttentionConfig, BatchItem, KvElement, KvPage, KvSegment, KvView, PAGE, Scratch,
    Window, merge,
};

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;

/// Queries and positions.
const WAYS: [(&str, usize, usize); 2] = [("prefill", 1024, 1024), ("decode", 1, 4096)];

/// Queries, and pages of keys and values, of a shape.
struct Data<E> {
    q: Array3<f32>,
    pages: Vec<Arc<KvPage<E>>>,
    keys: usize,
}

impl<E: KvElement> Data<E> {
    fn new((heads, kv_heads, dim): (usize, usize, usize), queries: usize, keys: usize) -> Self {
        let mut next = numbers(1);
        let q = Array3::from_shape_simple_fn((queries, heads, dim), &mut next);
        Self { q, pages: pages((kv_heads, dim), keys, 2).unwrap(), keys }
    }

    fn view(&self) -> KvView<'_, E> {
        self.part(0..self.keys)
    }

    /// Positions from the border of a page on.
    fn part(&self, positions: Range<usize>) -> KvView<'_, E> {
        let pages = &self.pages[positions.start / PAGE..];
        let slots = 0..positions.len();
        KvView::new([KvSegment::from_pages(positions.start, pages, slots).unwrap()]).unwrap()
    }

    fn throughput(&self, window: Window) -> Throughput {
        let (queries, heads, dim) = self.q.dim();
        let (keys, kv_heads) = (self.keys, self.pages[0].n_kv_heads());
        let visible = |position| window.visible(position).len() as u64;
        if queries == 1 {
            Throughput::Bytes(visible(keys - 1) * (2 * kv_heads * dim * size_of::<E>()) as u64)
        } else {
            let pairs: u64 = (keys - queries..keys).map(visible).sum();
            Throughput::Elements(4 * pairs * (heads * dim) as u64)
        }
    }
}

fn config() -> AttentionConfig {
    AttentionConfig::new(HEADS, KV_HEADS, HEAD_DIM)
}

/// Grouped, multi-head and multi-query, and heads of other sizes.
fn shapes(c: &mut Criterion) {
    for (way, queries, keys) in WAYS {
        let mut group = c.benchmark_group(format!("features/shape/{way}"));
        for shape @ (heads, kv_heads, dim) in [
            (HEADS, KV_HEADS, HEAD_DIM),
            (8, 8, 128),
            (32, 1, 128),
            (32, 8, 64),
            (32, 8, 80),
            (32, 8, 96),
            (16, 4, 256),
        ] {
            let attention = Attention::new(AttentionConfig::new(heads, kv_heads, dim)).unwrap();
            let data = Data::<f16>::new(shape, queries, keys);
            let (kv, scratch) = (data.view(), Scratch::default());
            let mut out = Array3::zeros(data.q.dim());
            group.throughput(data.throughput(Window::Full));
            let id = BenchmarkId::from_parameter(format!("{heads}/{kv_heads} of {dim}"));
            group.bench_function(id, |b| {
                b.iter(|| {
                    let call = attention.call(black_box(data.q.view()), &kv).scratch(&scratch);
                    call.run(out.view_mut()).unwrap();
                });
            });
        }
    }
}

/// Each option of a call, beside none.
fn options(c: &mut Criterion) {
    for (way, queries, keys) in WAYS {
        let data = Data::<f16>::new((HEADS, KV_HEADS, HEAD_DIM), queries, keys);
        let (kv, scratch) = (data.view(), Scratch::default());
        let mut out = Array3::zeros(data.q.dim());
        let mut lse = Array2::zeros((queries, HEADS));
        let mut sums = Array2::zeros((KV_HEADS, keys));
        let mut group = c.benchmark_group(format!("features/option/{way}"));
        group.throughput(data.throughput(Window::Full));
        let [plain, capped] = [config(), config().with_soft_cap(30.0)];
        for (name, config) in [("plain", plain), ("soft-cap", capped)] {
            let attention = Attention::new(config).unwrap();
            group.bench_function(name, |b| {
                b.iter(|| {
                    let call = attention.call(black_box(data.q.view()), &kv).scratch(&scratch);
                    call.run(out.view_mut()).unwrap();
                });
            });
        }
        let attention = Attention::new(plain).unwrap();
        group.bench_function("log-sum-exp", |b| {
            b.iter(|| {
                let call = attention.call(black_box(data.q.view()), &kv).scratch(&scratch);
                call.lse(lse.view_mut()).run(out.view_mut()).unwrap();
            });
        });
        group.bench_function("sums over keys", |b| {
            b.iter(|| {
                let call = attention.call(black_box(data.q.view()), &kv).scratch(&scratch);
                call.key_sums(sums.view_mut()).run(out.view_mut()).unwrap();
            });
        });
        group.bench_function("two parts, merged", |b| {
            b.iter(|| merged(&attention, &data, &scratch));
        });
        let other = Data::<bf16>::new((HEADS, KV_HEADS, HEAD_DIM), queries, keys);
        let kv = other.view();
        group.bench_function("bf16", |b| {
            b.iter(|| {
                let call = attention.call(black_box(other.q.view()), &kv).scratch(&scratch);
                call.run(out.view_mut()).unwrap();
            });
        });
    }
}

/// The history in two halves.
fn merged(attention: &Attention, data: &Data<f16>, scratch: &Scratch) -> Array3<f32> {
    let (queries, keys) = (data.q.dim().0, data.keys);
    let part = |positions: Range<usize>| {
        let kv = data.part(positions);
        let (mut out, mut lse) = (Array3::zeros(data.q.dim()), Array2::zeros((queries, HEADS)));
        let call = attention.call(black_box(data.q.view()), &kv).scratch(scratch);
        call.part_from(keys - queries).lse(lse.view_mut()).run(out.view_mut()).unwrap();
        (out, lse)
    };
    let (mut out, mut lse) = part(0..keys / 2);
    let (other, other_lse) = part(keys / 2..keys);
    merge((out.view_mut(), lse.view_mut()), (other.view(), other_lse.view())).unwrap();
    out
}

/// A window, with sinks and without, and no window, for a long prompt.
fn window(c: &mut Criterion) {
    let last = Window::last(4096).unwrap();
    let data = Data::<f16>::new((HEADS, KV_HEADS, HEAD_DIM), 16384, 16384);
    let (kv, scratch) = (data.view(), Scratch::default());
    let mut out = Array3::zeros(data.q.dim());
    let mut group = c.benchmark_group("features/window/prefill 16384");
    for (name, config) in [
        ("plain", config()),
        ("window 4096", config().with_window(last)),
        ("window 4096 and 4 sinks", config().with_window(last).with_sinks(4)),
    ] {
        let attention = Attention::new(config).unwrap();
        group.throughput(data.throughput(config.window()));
        group.bench_function(name, |b| {
            b.iter(|| {
                let call = attention.call(black_box(data.q.view()), &kv).scratch(&scratch);
                call.run(out.view_mut()).unwrap();
            });
        });
    }
}

/// Eight sequences of unequal length, a token of each: one call, or one call each.
fn batch(c: &mut Criterion) {
    let attention = Attention::new(config()).unwrap();
    let scratch = Scratch::default();
    let data = Data::<f16>::new((HEADS, KV_HEADS, HEAD_DIM), 8, 4096);
    let lengths = [4096, 100, 1500, 700, 3000, 33, 2048, 900];
    let views = lengths.map(|len| data.part(0..len));
    let mut out = Array3::zeros(data.q.dim());
    let mut group = c.benchmark_group("features/batch of 8/decode");
    group.bench_function("one call", |b| {
        b.iter(|| {
            let rows =
                data.q.axis_chunks_iter(Axis(0), 1).zip(out.axis_chunks_iter_mut(Axis(0), 1));
            let mut items: Vec<_> = rows
                .zip(&views)
                .map(|((q, out), &kv)| BatchItem { q, kv, out, sink_queries: None })
                .collect();
            attention.forward_batch(black_box(&mut items), &scratch, None).unwrap();
        });
    });
    group.bench_function("one call each", |b| {
        b.iter(|| {
            let rows =
                data.q.axis_chunks_iter(Axis(0), 1).zip(out.axis_chunks_iter_mut(Axis(0), 1));
            for ((q, out), kv) in rows.zip(&views) {
                attention.call(black_box(q), kv).scratch(&scratch).run(out).unwrap();
            }
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = shapes, options, window, batch
}
criterion_main!(benches);
