//! Random shapes and numbers, and a call that asks for everything.

use std::sync::Arc;

use mistral_attention::ndarray::{Array2, Array3, Axis};
use mistral_attention::{Attention, AttentionConfig, KvElement, KvPage, KvView, Window};
use proptest::prelude::*;

/// Slots of a page.
pub(crate) const PAGE: usize = 128;

/// Numbers in -1..1 that repeat for a seed.
pub(crate) fn array(shape: (usize, usize, usize), seed: u64) -> Array3<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array3::from_shape_simple_fn(shape, || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// Pages with position `start + i` in slot `shift + i`.
pub(crate) fn pages<E: KvElement>(
    k: &Array3<f32>,
    v: &Array3<f32>,
    shift: usize,
) -> Vec<Arc<KvPage<E>>> {
    let (len, heads, dim) = k.dim();
    let n = (shift + len).div_ceil(PAGE);
    let mut pages: Vec<_> = (0..n).map(|_| KvPage::new(heads, PAGE, dim).unwrap()).collect();
    for i in 0..len {
        let slot = shift + i;
        let (key, value) = (k.index_axis(Axis(0), i), v.index_axis(Axis(0), i));
        pages[slot / PAGE].write(slot % PAGE, key, value).unwrap();
    }
    pages.into_iter().map(Arc::new).collect()
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) kv_heads: usize,
    pub(crate) group: usize,
    pub(crate) dim: usize,
    pub(crate) len: usize,
    pub(crate) queries: usize,
    pub(crate) window: usize,
    pub(crate) sinks: usize,
    pub(crate) cap: Option<f32>,
    pub(crate) seed: u64,
}

pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let heads = (1usize..4, 1usize..7, prop_oneof![Just(16usize), Just(40), Just(64), Just(80)]);
    let lengths = (1usize..300, 1usize..40, 0usize..150, 0usize..6);
    (heads, lengths, proptest::option::of(2f32..30.0), any::<u64>()).prop_map(
        |((kv_heads, group, dim), (len, queries, window, sinks), cap, seed)| {
            let queries = queries.min(len);
            Shape { kv_heads, group, dim, len, queries, window, sinks, cap, seed }
        },
    )
}

impl Shape {
    pub(crate) fn config(&self) -> AttentionConfig {
        let window = Window::last(self.window).unwrap_or(Window::Full);
        let config = AttentionConfig::new(self.kv_heads * self.group, self.kv_heads, self.dim)
            .with_window(window)
            .with_sinks(self.sinks);
        self.cap.map_or(config, |cap| config.with_soft_cap(cap))
    }

    /// Queries, queries for sinks, keys, values.
    pub(crate) fn arrays(&self) -> [Array3<f32>; 4] {
        let q = (self.queries, self.kv_heads * self.group, self.dim);
        let kv = (self.len, self.kv_heads, self.dim);
        [
            array(q, self.seed) * 3.0,
            array(q, self.seed ^ 7) * 3.0,
            array(kv, self.seed ^ 1) * 3.0,
            array(kv, self.seed ^ 2),
        ]
    }
}

pub(crate) fn bits<'a>(x: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    x.into_iter().map(|x| x.to_bits()).collect()
}

/// Everything that a call gives.
pub(crate) fn call<E: KvElement>(
    attention: &Attention,
    q: &Array3<f32>,
    sink_queries: &Array3<f32>,
    kv: &KvView<'_, E>,
) -> (Array3<f32>, Array2<f32>, Array2<f32>) {
    let mut out = Array3::from_elem(q.dim(), f32::NAN);
    let mut lse = Array2::from_elem((q.dim().0, q.dim().1), f32::NAN);
    let mut sums = Array2::zeros((attention.config().n_kv_heads(), kv.positions().len()));
    attention
        .call(q.view(), kv)
        .sink_queries(sink_queries.view())
        .lse(lse.view_mut())
        .key_sums(sums.view_mut())
        .run(out.view_mut())
        .unwrap();
    (out, lse, sums)
}
