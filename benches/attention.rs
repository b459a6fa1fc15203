//! `attention/...`: one layer of Mistral 7B, 32 query heads over 8 key/value heads of 128.
//!
//! Elements are flops over visible pairs of positions (four times `head_dim` for each pair and
//! head), so a kernel that computes what the mask hides gains nothing by it. Decode reads the
//! visible keys and values once: its throughput is their bytes.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a bench may panic

use std::hint::black_box;
use std::time::Duration;

use benches::{limits, numbers, pages};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mistral_attention::half::{bf16, f16};
use mistral_attention::ndarray::Array3;
use mistral_attention::{
    Attention, AttentionConfig, Element, Int8, KvElement, KvSegment, KvView, PAGE, Scratch, Window,
    reference,
};

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;

/// Caches that take turns in decode, as layers do: together more than the processor's own memory.
const LAYERS: usize = 8;

fn array<E: Element>(len: usize, heads: usize, seed: u64) -> Array3<E> {
    let mut next = numbers(seed);
    Array3::from_shape_simple_fn((len, heads, HEAD_DIM), || <E as Element>::from_f32(next()))
}

fn visible_pairs(queries: usize, keys: usize, window: Window) -> u64 {
    (keys - queries..keys).map(|position| window.visible(position).len() as u64).sum()
}

fn run<E: KvElement>(c: &mut Criterion, name: &str, queries: usize, keys: usize, window: Window) {
    let config = AttentionConfig::new(HEADS, KV_HEADS, HEAD_DIM).with_window(window);
    let attention = Attention::new(config).unwrap();
    let q = array::<f32>(queries, HEADS, 1);
    let layers: Vec<_> = (0..if queries == 1 { LAYERS } else { 1 })
        .map(|layer| pages::<E>((KV_HEADS, HEAD_DIM), keys, layer as u64 + 2).unwrap())
        .collect();
    let scratch = Scratch::default();
    let mut out = Array3::zeros((queries, HEADS, HEAD_DIM));
    let mut group = c.benchmark_group(format!("attention/{name}/{}", E::FORMAT));
    group.throughput(if queries == 1 {
        let page: usize = layers[0][0].bytes();
        Throughput::Bytes((page / PAGE * window.visible(keys - 1).len()) as u64)
    } else {
        let pairs = visible_pairs(queries, keys, window);
        Throughput::Elements(4 * pairs * (HEADS * HEAD_DIM) as u64)
    });
    let mut turn = 0;
    group.bench_function(format!("ctx={keys} window={window}"), |b| {
        b.iter(|| {
            turn += 1;
            let pages = &layers[turn % layers.len()];
            let segment = KvSegment::from_pages(0, pages, 0..keys).unwrap();
            let kv = KvView::new([segment]).unwrap();
            let call = attention.call(black_box(q.view()), &kv).scratch(&scratch);
            call.run(out.view_mut()).unwrap();
        });
    });
}

/// The same over plain arrays, position by position.
fn arrays(c: &mut Criterion) {
    let attention = Attention::new(AttentionConfig::new(HEADS, KV_HEADS, HEAD_DIM)).unwrap();
    let (k, v) = (array::<f16>(4096, KV_HEADS, 2), array::<f16>(4096, KV_HEADS, 3));
    let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
    for (name, queries) in [("decode", 1), ("prefill", 4096)] {
        let q = array::<f32>(queries, HEADS, 1);
        let mut out = Array3::zeros(q.dim());
        c.bench_function(&format!("attention/{name}/f16/arrays ctx=4096"), |b| {
            b.iter(|| attention.forward(black_box(q.view()), &kv, out.view_mut()).unwrap());
        });
    }
}

fn prefill(c: &mut Criterion) {
    let window = Window::last(4096).unwrap();
    run::<f16>(c, "prefill", 4096, 4096, Window::Full);
    run::<bf16>(c, "prefill", 4096, 4096, Window::Full);
    run::<f32>(c, "prefill", 4096, 4096, Window::Full);
    run::<Int8>(c, "prefill", 4096, 4096, Window::Full);
    run::<f16>(c, "prefill", 8192, 8192, window);
    run::<f16>(c, "prefill", 512, 16384, window);
}

fn decode(c: &mut Criterion) {
    let window = Window::last(4096).unwrap();
    run::<f16>(c, "decode", 1, 512, window);
    run::<f16>(c, "decode", 1, 4096, window);
    run::<f16>(c, "decode", 1, 16384, window);
    run::<f32>(c, "decode", 1, 4096, window);
    run::<Int8>(c, "decode", 1, 4096, window);
}

/// The plain formula, in f64, one query.
fn naive(c: &mut Criterion) {
    let config = AttentionConfig::new(HEADS, KV_HEADS, HEAD_DIM);
    let q = array::<f32>(1, HEADS, 1);
    let (k, v) = (array::<f32>(4096, KV_HEADS, 2), array::<f32>(4096, KV_HEADS, 3));
    let view = KvView::from_arrays(k.view(), v.view()).unwrap();
    c.bench_function("attention/naive/f64/decode ctx=4096", |b| {
        b.iter(|| reference::forward(&config, black_box(q.view()), &view).unwrap());
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = limits, prefill, decode, arrays, naive
}
criterion_main!(benches);
