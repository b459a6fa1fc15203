//! Heavy hitters against a plain list of everything that is kept, and under attention.

#![allow(clippy::unwrap_used)] // a test may panic

use mistral_attention::{Attention, AttentionConfig};
use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::ndarray::{Array2, Array3, ArrayView3, Axis};
use mistral_kvcache::{
    CacheError, HeavyHitterCache, HeavyHitterConfig, Int8, Kept, KvElement, KvPage, KvSegment,
    KvView,
};
use proptest::prelude::*;

const LAYERS: usize = 2;
const HEADS: usize = 2;
const DIM: usize = 20;

/// Some number from -1 to 1 for each list of numbers.
fn noise(of: &[usize]) -> f32 {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    for n in of {
        x = (x ^ *n as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x ^= x >> 32;
    }
    (x % 2001) as f32 / 1000.0 - 1.0
}

/// Keys of the positions from `first` on; values are these with another `seed`.
fn rows(
    seed: usize,
    layer: usize,
    first: usize,
    len: usize,
    heads: usize,
    dim: usize,
) -> Array3<f32> {
    Array3::from_shape_fn((len, heads, dim), |(i, h, d)| noise(&[seed, layer, first + i, h, d]))
}

/// A row in cache precision.
fn rounded<E: KvElement>(row: &[f32]) -> Vec<f32> {
    let mut page = KvPage::<E>::new(1, 1, row.len()).unwrap();
    let one = Array2::from_shape_fn((1, row.len()), |(_, d)| row[d]);
    page.write(0, one.view(), one.view()).unwrap();
    let mut back = vec![0.0; row.len()];
    page.key(0, 0, &mut back).unwrap();
    back
}

/// What one head keeps, by the definition.
#[derive(Clone, Default)]
struct Model(Vec<Kept>);

impl Model {
    fn commit(
        &mut self,
        chunk: std::ops::Range<usize>,
        budget: (usize, usize),
        weight: impl Fn(usize) -> f32,
    ) {
        let end = chunk.end;
        self.0.extend(chunk.map(|position| Kept { position, weight: 0.0 }));
        for kept in &mut self.0 {
            kept.weight += f64::from(weight(kept.position));
        }
        let (recent, heavy) = budget;
        let (mut older, newer): (Vec<Kept>, Vec<Kept>) =
            self.0.iter().partition(|kept| kept.position + recent < end);
        let room = heavy + recent - newer.len();
        older.sort_by(|a, b| {
            b.weight.partial_cmp(&a.weight).unwrap().then(b.position.cmp(&a.position))
        });
        older.truncate(room);
        older.sort_by_key(|kept| kept.position);
        self.0 = older;
        self.0.extend(newer);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Chunk(usize),
    /// Staged and not committed.
    Drop(usize),
    /// Committed with a weight that is none.
    Refused(usize),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..=4).prop_map(Step::Chunk),
        4 => (1usize..=60).prop_map(Step::Chunk),
        1 => (1usize..=60).prop_map(Step::Drop),
        1 => (1usize..=60).prop_map(Step::Refused),
        1 => Just(Step::Reset),
    ]
}

/// The view is, index by index, what is kept and then the chunk.
fn check_view<E: KvElement>(view: &KvView<'_, E>, layer: usize, indices: &[Vec<usize>]) {
    assert_eq!(view.positions(), 0..indices[0].len());
    for (head, positions) in indices.iter().enumerate() {
        let held = view.head(head).unwrap();
        let mut row = [0.0; DIM];
        for (index, position) in positions.iter().enumerate() {
            for (seed, name) in [(0, "key"), (1, "value")] {
                match seed {
                    0 => held.key(index, &mut row).unwrap(),
                    _ => held.value(index, &mut row).unwrap(),
                }
                let exact: Vec<_> =
                    (0..DIM).map(|d| noise(&[seed, layer, *position, head, d])).collect();
                assert_eq!(row.as_slice(), rounded::<E>(&exact), "{name} of position {position}");
            }
        }
    }
}

fn run<E: KvElement>(recent: usize, heavy: usize, steps: &[Step], seed: usize) {
    let sizes = HeavyHitterConfig::new(LAYERS, HEADS, DIM)
        .with_recent(recent)
        .with_heavy(heavy)
        .with_max_chunk(60);
    let mut cache = HeavyHitterCache::<E>::new(sizes).unwrap();
    let mut models = vec![vec![Model::default(); HEADS]; LAYERS];
    for (n, step) in steps.iter().enumerate() {
        let (Step::Chunk(len) | Step::Drop(len) | Step::Refused(len)) = *step else {
            cache.reset();
            models = vec![vec![Model::default(); HEADS]; LAYERS];
            continue;
        };
        let first = cache.position();
        for (layer, models) in models.iter_mut().enumerate() {
            let [keys, values] = [0, 1].map(|seed| rows(seed, layer, first, len, HEADS, DIM));
            let indices: Vec<Vec<usize>> = (0..HEADS)
                .map(|head| {
                    let kept = cache.kept(layer, head).unwrap().iter();
                    kept.map(|kept| kept.position).chain(first..first + len).collect()
                })
                .collect();
            // Few different weights, so that many are equal.
            let weight = |head: usize, position: usize| {
                (noise(&[seed, n, layer, head, position]) * 2.0).abs().floor() * 0.25
            };
            let mut weights = Array2::from_shape_fn((HEADS, indices[0].len()), |(head, index)| {
                weight(head, indices[head][index])
            });
            let staged = cache.stage(layer, keys.view(), values.view()).unwrap();
            assert_eq!(staged.positions(), first..first + len);
            check_view(&staged.kv().unwrap(), layer, &indices);
            match step {
                Step::Chunk(_) => {
                    staged.commit(weights.view()).unwrap();
                    for (head, model) in models.iter_mut().enumerate() {
                        model.commit(first..first + len, (recent, heavy), |at| weight(head, at));
                    }
                }
                Step::Refused(_) => {
                    weights[[1, len - 1]] = f32::NAN;
                    let error = staged.commit(weights.view()).unwrap_err();
                    assert_eq!(error, CacheError::BadWeight { head: 1, index: len - 1 });
                }
                _ => drop(staged),
            }
            for (head, model) in models.iter().enumerate() {
                let mut kept = cache.kept(layer, head).unwrap().to_vec();
                kept.sort_by_key(|kept| kept.position);
                assert_eq!(kept, model.0);
            }
            if !matches!(step, Step::Chunk(_)) {
                break;
            }
        }
    }
    assert_eq!(cache.bytes(), sizes.bytes::<E>().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_format_keeps_what_a_plain_list_keeps(
        (recent, heavy) in prop_oneof![
            3 => (0usize..12, 1usize..12),
            1 => (1usize..12, Just(0)),
            2 => (0usize..80, 1usize..80),
        ],
        steps in prop::collection::vec(step(), 1..25),
        seed in any::<usize>(),
    ) {
        run::<f32>(recent, heavy, &steps, seed);
        run::<f16>(recent, heavy, &steps, seed);
        run::<bf16>(recent, heavy, &steps, seed);
        run::<Int8>(recent, heavy, &steps, seed);
    }
}

/// Attention over plain pages with every position from 0 on.
fn attend_full<E: KvElement>(
    attention: &Attention,
    q: ArrayView3<'_, f32>,
    (keys, values): (&Array3<f32>, &Array3<f32>),
) -> Array3<f32> {
    let mut pages = Vec::new();
    let rows: Vec<_> = keys.outer_iter().zip(values.outer_iter()).collect();
    for rows in rows.chunks(mistral_kvcache::PAGE) {
        let mut page = KvPage::<E>::new(HEADS, rows.len(), DIM).unwrap();
        for (slot, (key, value)) in rows.iter().enumerate() {
            page.write(slot, *key, *value).unwrap();
        }
        pages.push(std::sync::Arc::new(page));
    }
    let view = KvView::new([KvSegment::from_pages(0, &pages, 0..rows.len()).unwrap()]).unwrap();
    let mut out = Array3::zeros(q.dim());
    attention.forward(q, &view, out.view_mut()).unwrap();
    out
}

fn is_a_full_cache<E: KvElement>(recent: usize, heavy: usize) {
    let attention = Attention::new(AttentionConfig::new(2 * HEADS, HEADS, DIM)).unwrap();
    let sizes = HeavyHitterConfig::new(1, HEADS, DIM).with_recent(recent).with_heavy(heavy);
    let mut cache = HeavyHitterCache::<E>::new(sizes).unwrap();
    let mut end = 0;
    for len in [1, 1, 14, 1, 40, 71, 1, 3, 100, 1, 67] {
        let q = rows(2, 0, end, len, 2 * HEADS, DIM);
        let [k, v] = [0, 1].map(|seed| rows(seed, 0, end, len, HEADS, DIM));
        end += len;
        let step = cache.stage(0, k.view(), v.view()).unwrap();
        let (mut out, mut weights) = (Array3::zeros(q.dim()), Array2::zeros((HEADS, end)));
        let call = attention.call(q.view(), &step.kv().unwrap());
        call.key_sums(weights.view_mut()).run(out.view_mut()).unwrap();
        step.commit(weights.view()).unwrap();
        let [keys, values] = [0, 1].map(|seed| rows(seed, 0, 0, end, HEADS, DIM));
        assert_eq!(out, attend_full::<E>(&attention, q.view(), (&keys, &values)));
    }
    assert_eq!(end, 300);
    let mut total = 0.0;
    for head in 0..HEADS {
        let kept = cache.kept(0, head).unwrap();
        assert!(kept.iter().map(|kept| kept.position).eq(0..end));
        total += kept.iter().map(|kept| kept.weight).sum::<f64>();
    }
    // Each query of each head has given away a weight of 1.
    assert!((total - (2 * HEADS * end) as f64).abs() < 1e-2, "{total}");
}

#[test]
fn with_room_for_all_it_is_a_full_cache_bit_for_bit() {
    for (recent, heavy) in [(150, 150), (0, 300), (300, 0), (1, 500)] {
        is_a_full_cache::<f32>(recent, heavy);
        is_a_full_cache::<f16>(recent, heavy);
        is_a_full_cache::<bf16>(recent, heavy);
        is_a_full_cache::<Int8>(recent, heavy);
    }
}

#[test]
fn what_every_query_attends_to_is_never_evicted() {
    // Position 3 is a heavy hitter in head 0 and position 5 in head 1.
    let attention = Attention::new(AttentionConfig::new(HEADS, HEADS, DIM)).unwrap();
    let sizes = HeavyHitterConfig::new(1, HEADS, DIM).with_recent(4).with_heavy(4);
    let mut cache = HeavyHitterCache::<f16>::new(sizes).unwrap();
    for position in 0..200 {
        let q = Array3::from_elem((1, HEADS, DIM), 1.0);
        let mut k = rows(0, 0, position, 1, HEADS, DIM);
        for (head, heavy) in [(0, 3), (1, 5)] {
            if position == heavy {
                k.index_axis_mut(Axis(1), head).fill(2.0);
            }
        }
        let n = cache.kept(0, 0).unwrap().len() + 1;
        let step = cache.stage(0, k.view(), k.view()).unwrap();
        let (mut out, mut weights) = (Array3::zeros(q.dim()), Array2::zeros((HEADS, n)));
        let call = attention.call(q.view(), &step.kv().unwrap());
        call.key_sums(weights.view_mut()).run(out.view_mut()).unwrap();
        step.commit(weights.view()).unwrap();
    }
    for (head, heavy) in [(0, 3), (1, 5)] {
        let kept = cache.kept(0, head).unwrap();
        assert_eq!(kept.len(), 8);
        let heaviest = kept.iter().max_by(|a, b| a.weight.total_cmp(&b.weight)).unwrap();
        assert_eq!(heaviest.position, heavy);
    }
}
