//! Attention through the cache, chunk by chunk, against attention over the whole text at once.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

use mistral_attention::{Attention, AttentionConfig, Window, reference};
use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::ndarray::{Array3, Axis, Slice};
use mistral_kvcache::{ChunkPlan, Element, KvView, LayerCache};

const N_TOKENS: usize = 96;
const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 8;

/// Numbers in -2..2 that look random, from a linear congruential generator.
fn random(n_heads: usize, seed: u64) -> Array3<f32> {
    let mut state = seed;
    Array3::from_shape_fn((N_TOKENS, n_heads, HEAD_DIM), |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / 4194304.0 - 2.0
    })
}

struct Text {
    q: Array3<f32>,
    k: Array3<f32>,
    v: Array3<f32>,
}

impl Text {
    fn new(seed: u64) -> Self {
        Self {
            q: random(N_HEADS, seed),
            k: random(N_KV_HEADS, seed + 1),
            v: random(N_KV_HEADS, seed + 2),
        }
    }

    /// The whole text at once, without a cache, and the same in f64.
    fn at_once<E: Element>(&self, attention: &Attention) -> (Array3<f32>, Array3<f64>) {
        let [k, v] = [&self.k, &self.v].map(|array| array.mapv(E::from_f32));
        let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
        let mut out = Array3::zeros(self.q.dim());
        attention.forward(self.q.view(), &kv, out.view_mut()).unwrap();
        let exact = reference::forward(&attention.config(), self.q.view(), &kv).unwrap();
        (out, exact)
    }

    /// Chunk by chunk through a cache.
    fn in_chunks<E: Element>(
        &self,
        attention: &Attention,
        mut layer: LayerCache<E>,
        chunk: usize,
    ) -> Array3<f32> {
        let mut out = Array3::zeros(self.q.dim());
        for tokens in ChunkPlan::new(N_TOKENS, chunk).unwrap() {
            let rows = Slice::from(tokens);
            let [q, k, v] = [&self.q, &self.k, &self.v].map(|a| a.slice_axis(Axis(0), rows));
            let step = layer.stage(k, v).unwrap();
            attention.forward(q, &step.kv().unwrap(), out.slice_axis_mut(Axis(0), rows)).unwrap();
            step.commit();
        }
        out
    }
}

fn assert_same_bits(found: &Array3<f32>, expected: &Array3<f32>, case: &str) {
    for ((index, found), expected) in found.indexed_iter().zip(expected) {
        assert_eq!(
            found.to_bits(),
            expected.to_bits(),
            "{case}: {found} at (token, head, d) = {index:?}, expected {expected}"
        );
    }
}

fn chunked_equals_one_shot<E: Element>(window: Window, new_layer: impl Fn() -> LayerCache<E>) {
    let config = AttentionConfig::new(N_HEADS, N_KV_HEADS, HEAD_DIM).with_window(window);
    let attention = Attention::new(config).unwrap();
    let text = Text::new(7);
    let (at_once, exact) = text.at_once::<E>(&attention);
    for ((index, &found), expected) in at_once.indexed_iter().zip(&exact) {
        let error = (f64::from(found) - expected).abs();
        assert!(error < 4e-6, "{window:?}: {found} at {index:?}, expected {expected}");
    }
    for chunk in 1..=37 {
        let chunked = text.in_chunks(&attention, new_layer(), chunk);
        let case = format!("{window:?}, chunks of {chunk}, {}", E::DTYPE);
        assert_same_bits(&chunked, &at_once, &case);
    }
}

#[test]
fn any_window_and_chunk_size_equal_one_shot_by_bits() {
    fn every_window<E: Element>() {
        for size in 1..=12 {
            chunked_equals_one_shot(Window::last(size).unwrap(), || {
                LayerCache::<E>::new(N_KV_HEADS, HEAD_DIM, size).unwrap()
            });
        }
    }
    every_window::<f32>();
    every_window::<f16>();
    every_window::<bf16>();
}

#[test]
fn any_chunk_size_without_a_window_equals_one_shot_by_bits() {
    chunked_equals_one_shot(Window::Full, || {
        LayerCache::<f32>::full(N_KV_HEADS, HEAD_DIM, N_TOKENS).unwrap()
    });
}
