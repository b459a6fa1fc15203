//! The cache against its specification: a plain list of everything that was ever committed.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

mod spec;

use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::ndarray::{Array3, Axis, Slice};
use mistral_kvcache::{CacheConfig, Element, Int8, KvElement, LayerCache, RollingKvCache};
use proptest::prelude::*;
use spec::{HEAD_DIM, HEADS, Source, assert_shows, rounded};

/// Stages chunks of the given lengths in one layer and commits those marked so.
fn push_all<E: KvElement>(
    mut layer: LayerCache<E>,
    keep: usize,
    steps: &[(usize, bool)],
    seed: u64,
) {
    let mut source = Source::new(seed);
    let mut pushed = Vec::new();
    for &(len, commit) in steps {
        let (k, v) = (source.chunk(len), source.chunk(len));
        let step = layer.stage(k.view(), v.view()).unwrap();
        let start = pushed.len();
        let mut with_chunk = pushed.clone();
        with_chunk.extend(rounded::<E>(&k, &v));
        let oldest = start.saturating_sub(keep);
        assert_shows(&step.kv().unwrap(), &with_chunk, oldest..start + len, 0);
        assert_eq!(step.positions(), start..start + len);
        if commit {
            step.commit();
            pushed = with_chunk;
        }
        assert_eq!(layer.position(), pushed.len());
        assert_eq!(layer.held(), pushed.len().saturating_sub(keep)..pushed.len());
        let slots: Vec<_> = layer.slots().collect();
        assert_eq!(slots.len(), layer.capacity().next_multiple_of(16));
        for position in layer.held() {
            assert_eq!(slots[position % slots.len()], Some(position));
        }
        assert_eq!(slots.iter().flatten().count(), layer.held().len());
    }
}

fn push_all_rolling<E: KvElement>(window: usize, steps: &[(usize, bool)], seed: u64) {
    let layer = LayerCache::<E>::new(HEADS, HEAD_DIM, window).unwrap();
    push_all(layer, window, steps, seed);
}

#[test]
fn every_window_and_chunk_size_shows_exactly_what_was_pushed() {
    for window in 1..=12usize {
        for chunk in 1..=37usize {
            // At least two chunks, and six windows.
            let n = (2 * chunk).max(6 * window).div_ceil(chunk);
            let steps = vec![(chunk, true); n];
            let seed = (window * 100 + chunk) as u64;
            push_all_rolling::<f32>(window, &steps, seed);
            push_all_rolling::<f16>(window, &steps, seed);
            push_all_rolling::<bf16>(window, &steps, seed);
            push_all_rolling::<Int8>(window, &steps, seed);
        }
    }
}

#[test]
fn floats_are_rounded_as_their_type_rounds() {
    fn check<E: Element>() {
        let (k, v) = (Source::new(1).chunk(40), Source::new(2).chunk(40));
        for (i, row) in rounded::<E>(&k, &v).iter().enumerate() {
            for head in 0..HEADS {
                for d in 0..HEAD_DIM {
                    assert_eq!(row.keys[head][d], E::from_f32(k[[i, head, d]]).to_f32());
                    assert_eq!(row.values[head][d], E::from_f32(v[[i, head, d]]).to_f32());
                }
            }
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_steps_and_drops_in_one_layer_show_exactly_what_was_pushed(
        window in 1usize..=12,
        steps in prop::collection::vec((1usize..=37, any::<bool>()), 1..24),
        seed in any::<u64>(),
    ) {
        push_all_rolling::<f32>(window, &steps, seed);
        push_all_rolling::<f16>(window, &steps, seed);
        push_all_rolling::<bf16>(window, &steps, seed);
        push_all_rolling::<Int8>(window, &steps, seed);
    }

    #[test]
    fn a_full_layer_shows_everything_across_its_growth(
        steps in prop::collection::vec((1usize..=150, any::<bool>()), 1..12),
        seed in any::<u64>(),
    ) {
        let layer = LayerCache::<f32>::full(HEADS, HEAD_DIM, 2000).unwrap();
        push_all(layer, 2000, &steps, seed);
    }
}

#[test]
fn strides_do_not_matter() {
    let wide = Source::new(5).chunk(8);
    let reversed = wide.slice_axis(Axis(0), Slice::new(0, None, -1));
    let mut layer = LayerCache::<f16>::new(HEADS, HEAD_DIM, 16).unwrap();
    layer.stage(reversed, reversed).unwrap().commit();
    let swapped = wide.permuted_axes([0, 2, 1]);
    let back = swapped.as_standard_layout().into_owned().permuted_axes([0, 2, 1]);
    let reversed = reversed_copy(&back);
    assert_shows(&layer.kv().unwrap(), &rounded::<f16>(&reversed, &reversed), 0..8, 0);
    // Elements of a head that do not lie side by side.
    layer.clear();
    layer.stage(back.view(), back.view()).unwrap().commit();
    assert_shows(&layer.kv().unwrap(), &rounded::<f16>(&back, &back), 0..8, 0);
}

fn reversed_copy(array: &Array3<f32>) -> Array3<f32> {
    array.slice_axis(Axis(0), Slice::new(0, None, -1)).to_owned()
}

#[test]
fn decode_moves_no_memory() {
    let windowed = CacheConfig::new(1, HEADS, HEAD_DIM).with_window(5);
    let windowless = CacheConfig::new(1, HEADS, HEAD_DIM).with_context_len(2000);
    for (config, tokens) in [(windowed, 0), (windowless, 1000)] {
        let mut cache = RollingKvCache::<f32>::new(config).unwrap();
        let id = cache.add_sequence().unwrap();
        cache.reserve(id, tokens).unwrap();
        let bytes = cache.bytes();
        for _ in 0..1000 {
            let k = Array3::ones((1, HEADS, HEAD_DIM));
            cache.stage(id, 0, k.view(), k.view()).unwrap().commit();
        }
        assert_eq!(cache.bytes(), bytes);
    }
}
