//! Heavy hitters: what is kept, what is refused, and what it costs, by literal examples.

#![allow(clippy::unwrap_used)] // a test may panic

use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::ndarray::{Array2, Array3, array};
use mistral_kvcache::{CacheError, HeavyHitterCache, HeavyHitterConfig, Int8, KvElement, KvError};

fn config(recent: usize, heavy: usize) -> HeavyHitterConfig {
    HeavyHitterConfig::new(1, 1, 4).with_recent(recent).with_heavy(heavy)
}

/// Feeds one token for each weight in `weights`' last column; the positions kept, sorted.
fn feed(cache: &mut HeavyHitterCache<f32>, weights: Array2<f32>, tokens: usize) -> Vec<usize> {
    let k = Array3::ones((tokens, 1, 4));
    cache.stage(0, k.view(), k.view()).unwrap().commit(weights.view()).unwrap();
    cache.kept(0, 0).unwrap().iter().map(|kept| kept.position).collect()
}

#[test]
fn the_heaviest_survive_beside_the_recent() {
    // The drawing in the module's documentation.
    let mut cache = HeavyHitterCache::new(config(2, 1)).unwrap();
    assert_eq!(feed(&mut cache, array![[1.3, 0.6, 0.2]], 3), [0, 1, 2]);
    assert_eq!(feed(&mut cache, array![[0.6, 0.1, 0.1, 0.2]], 1), [0, 3, 2]);
    assert_eq!(feed(&mut cache, array![[0.2, 0.1, 0.3, 0.4]], 1), [0, 3, 4]);
    let weights: Vec<_> = cache.kept(0, 0).unwrap().iter().map(|kept| kept.weight as f32).collect();
    assert_eq!(weights, [2.1, 0.3, 0.4]);
}

#[test]
fn recent_positions_stay_whatever_their_weight() {
    let mut cache = HeavyHitterCache::new(config(3, 2)).unwrap();
    for position in 0..50usize {
        let n = cache.kept(0, 0).unwrap().len() + 1;
        // Older positions get everything, new ones nothing.
        let weights = Array2::from_shape_fn((1, n), |(_, i)| if i + 1 < n { 1.0 } else { 0.0 });
        let kept = feed(&mut cache, weights, 1);
        for recent in position.saturating_sub(2)..=position {
            assert!(kept.contains(&recent), "{recent} is not in {kept:?}");
        }
        assert_eq!(kept.len(), 5.min(position + 1));
    }
}

#[test]
fn without_heavy_hitters_it_is_a_window() {
    let mut cache = HeavyHitterCache::new(config(5, 0)).unwrap();
    let mut end = 0;
    for len in [1, 3, 2, 9, 1, 1, 4, 5] {
        let n = cache.kept(0, 0).unwrap().len() + len;
        let weights = Array2::from_shape_fn((1, n), |(_, i)| 100.0 - i as f32);
        let mut kept = feed(&mut cache, weights, len);
        end += len;
        kept.sort_unstable();
        assert_eq!(kept, (end.saturating_sub(5)..end).collect::<Vec<_>>());
    }
}

#[test]
fn of_equal_weights_the_newer_survives() {
    let mut cache = HeavyHitterCache::new(config(1, 2)).unwrap();
    assert_eq!(feed(&mut cache, array![[0.5, 0.5, 0.5, 0.5, 0.5, 0.5]], 6), [3, 4, 5]);
    assert_eq!(feed(&mut cache, array![[0.0, 0.0, 0.0, 0.5]], 1), [6, 4, 5]);
    // -0 is no lighter than 0.
    let mut cache = HeavyHitterCache::new(config(1, 1)).unwrap();
    assert_eq!(feed(&mut cache, array![[0.0, -0.0, 0.0]], 3), [1, 2]);
}

#[test]
fn a_chunk_may_be_many_budgets_long() {
    let mut cache = HeavyHitterCache::new(config(3, 2)).unwrap();
    let mut weights = Array2::from_elem((1, 400), 0.25);
    weights[[0, 131]] = 2.0;
    weights[[0, 7]] = 1.0;
    assert_eq!(feed(&mut cache, weights, 400), [7, 131, 397, 398, 399]);
    let mut weights = Array2::from_elem((1, 305), 0.25);
    weights[[0, 5]] = 1.75; // position 400: 1.75 against 1.25 of position 7
    assert_eq!(feed(&mut cache, weights, 300), [400, 131, 697, 698, 699]);
}

#[test]
fn weights_that_no_softmax_gives_change_nothing() {
    let mut cache = HeavyHitterCache::<f32>::new(config(2, 1)).unwrap();
    feed(&mut cache, array![[1.0, 0.5, 0.75]], 3);
    let before = cache.kept(0, 0).unwrap().to_vec();
    let k = Array3::zeros((1, 1, 4));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.25] {
        let step = cache.stage(0, k.view(), k.view()).unwrap();
        let error = step.commit(array![[0.0, 0.0, bad, 1.0]].view()).unwrap_err();
        assert_eq!(error, CacheError::BadWeight { head: 0, index: 2 });
    }
    for weights in [Array2::zeros((1, 3)), Array2::zeros((1, 5)), Array2::zeros((2, 4))] {
        let step = cache.stage(0, k.view(), k.view()).unwrap();
        let error = step.commit(weights.view()).unwrap_err();
        let (found, expected) = (weights.dim(), (1, 4));
        assert_eq!(error, CacheError::WeightsShape { found, expected });
    }
    assert_eq!(cache.kept(0, 0).unwrap(), before);
    assert_eq!((cache.position(), cache.next_layer()), (3, 0));
    // The turn is not lost.
    assert_eq!(feed(&mut cache, array![[0.0, 0.0, 0.0, 1.0]], 1), [0, 3, 2]);
}

#[test]
fn bytes_are_planned_and_never_change() {
    fn check<E: KvElement>(row_bytes: usize) {
        for (recent, heavy) in [(1, 0), (8, 8), (100, 29), (100, 100)] {
            let sizes = HeavyHitterConfig::new(3, 2, 64).with_recent(recent).with_heavy(heavy);
            let planned = sizes.with_max_chunk(40).bytes::<E>().unwrap();
            let mut cache = HeavyHitterCache::<E>::new(sizes.with_max_chunk(40)).unwrap();
            let budget = recent + heavy;
            let slots = 3 * budget.next_multiple_of(16) + 64; // 40 + 15 in whole panels
            let by_hand = slots * row_bytes + 3 * 2 * budget * 16 + (budget + 40) * 8;
            assert_eq!((planned, cache.bytes()), (by_hand, by_hand));
            for len in [40, 1, 40] {
                for layer in 0..3 {
                    let k = Array3::ones((len, 2, 64));
                    let n = cache.kept(layer, 0).unwrap().len() + len;
                    let step = cache.stage(layer, k.view(), k.view()).unwrap();
                    step.commit(Array2::ones((2, n)).view()).unwrap();
                }
                assert_eq!(cache.bytes(), planned);
            }
        }
    }
    check::<f32>(2 * 2 * 64 * 4);
    check::<f16>(2 * 2 * 64 * 2);
    check::<bf16>(2 * 2 * 64 * 2);
    check::<Int8>(2 * 2 * (64 + 2 * 2));
}

#[test]
fn layers_take_turns_and_strangers_are_named() {
    let sizes = HeavyHitterConfig::new(2, 1, 4).with_recent(2).with_heavy(2).with_max_chunk(3);
    let mut cache = HeavyHitterCache::<f32>::new(sizes).unwrap();
    let k = |len, heads, dim| Array3::<f32>::zeros((len, heads, dim));
    let (two, weights) = (k(2, 1, 4), Array2::ones((1, 2)));
    let stage =
        |cache: &mut HeavyHitterCache<f32>, layer, keys: &Array3<f32>, values: &Array3<f32>| {
            cache.stage(layer, keys.view(), values.view()).map(drop).unwrap_err()
        };
    let found = stage(&mut cache, 2, &two, &two);
    assert_eq!(found, CacheError::NoSuchLayer { found: 2, n_layers: 2 });
    let found = stage(&mut cache, 1, &two, &two);
    assert_eq!(found, CacheError::LayerOutOfOrder { expected: 0, found: 1 });
    assert_eq!(stage(&mut cache, 0, &k(0, 1, 4), &k(0, 1, 4)), CacheError::EmptyChunk);
    let found = stage(&mut cache, 0, &k(4, 1, 4), &k(4, 1, 4));
    assert_eq!(found, CacheError::ChunkTooLong { found: 4, max_chunk: 3 });
    let found = stage(&mut cache, 0, &k(2, 2, 4), &k(2, 2, 4));
    assert_eq!(found, CacheError::HeadsDiffer { expected: (1, 4), found: (2, 4) });
    let found = stage(&mut cache, 0, &two, &k(2, 1, 5));
    assert!(matches!(found, CacheError::ShapeMismatch { .. }));

    cache.stage(0, two.view(), two.view()).unwrap().commit(weights.view()).unwrap();
    assert_eq!((cache.position(), cache.next_layer()), (0, 1));
    let found = stage(&mut cache, 0, &two, &two);
    assert_eq!(found, CacheError::LayerOutOfOrder { expected: 1, found: 0 });
    let found = stage(&mut cache, 1, &k(1, 1, 4), &k(1, 1, 4));
    assert_eq!(found, CacheError::ChunkLengthDiffers { layer: 1, expected: 2, found: 1 });
    cache.stage(1, two.view(), two.view()).unwrap().commit(weights.view()).unwrap();
    assert_eq!((cache.position(), cache.next_layer()), (2, 0));

    assert!(matches!(cache.kept(2, 0), Err(CacheError::NoSuchLayer { .. })));
    let found = cache.kept(0, 1).unwrap_err();
    assert_eq!(found, KvError::NoSuchHead { found: 1, n_kv_heads: 1 }.into());
    cache.reset();
    assert_eq!((cache.position(), cache.kept(1, 0).unwrap()), (0, [].as_slice()));
}

#[test]
fn a_clone_goes_its_own_way() {
    let mut cache = HeavyHitterCache::new(config(2, 1)).unwrap();
    feed(&mut cache, array![[1.0, 0.5, 0.25]], 3);
    let mut other = cache.clone();
    assert_eq!(feed(&mut cache, array![[0.0, 0.0, 0.0, 1.0]], 1), [0, 3, 2]);
    let twos = Array3::from_elem((1, 1, 4), 2.0);
    let step = other.stage(0, twos.view(), twos.view()).unwrap();
    step.commit(array![[0.0, 1.0, 0.0, 1.0]].view()).unwrap();
    let rows = |cache: &mut HeavyHitterCache<f32>| {
        let step = cache.stage(0, twos.view(), twos.view()).unwrap();
        let (view, mut row) = (step.kv().unwrap(), [0.0; 4]);
        [0, 1, 2].map(|index| {
            view.head(0).unwrap().key(index, &mut row).unwrap();
            row[0]
        })
    };
    assert_eq!(rows(&mut cache), [1.0, 1.0, 1.0]);
    assert_eq!(rows(&mut other), [2.0, 1.0, 1.0]);
    let positions: Vec<_> = other.kept(0, 0).unwrap().iter().map(|kept| kept.position).collect();
    assert_eq!(positions, [3, 1, 2]);
}

#[test]
fn zeros_are_named_and_giants_refused() {
    let refused = |config: HeavyHitterConfig| {
        let planned = config.bytes::<f32>().unwrap_err();
        assert_eq!(HeavyHitterCache::<f32>::new(config).unwrap_err(), planned);
        planned
    };
    for (config, field) in [
        (HeavyHitterConfig::new(0, 1, 1), "n_layers"),
        (HeavyHitterConfig::new(1, 0, 1), "n_kv_heads"),
        (HeavyHitterConfig::new(1, 1, 0), "head_dim"),
        (HeavyHitterConfig::new(1, 1, 1).with_max_chunk(0), "max_chunk"),
        (config(0, 0), "recent + heavy"),
    ] {
        assert_eq!(refused(config), CacheError::Zero { field });
    }
    assert_eq!(refused(config(usize::MAX, 1)), CacheError::SizeOverflow);
    assert_eq!(refused(config(usize::MAX / 16, 1)), CacheError::SizeOverflow);
    assert_eq!(refused(config(1, 1).with_max_chunk(usize::MAX)), CacheError::SizeOverflow);
}
