//! What must not be done is refused with the cure, and changes nothing.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

use mistral_kvcache::ndarray::{Array3, ArrayView3};
use mistral_kvcache::{CacheConfig, CacheError, RollingKvCache, SequenceId};

const HEADS: usize = 2;
const HEAD_DIM: usize = 3;

fn ones(len: usize, heads: usize) -> Array3<f32> {
    Array3::ones((len, heads, HEAD_DIM))
}

fn refusal(
    cache: &mut RollingKvCache<f32>,
    id: SequenceId,
    layer: usize,
    keys: ArrayView3<f32>,
    values: ArrayView3<f32>,
) -> CacheError {
    let before = (cache.position(id), cache.next_layer(id), cache.bytes());
    let error = cache.stage(id, layer, keys, values).unwrap_err();
    let after = (cache.position(id), cache.next_layer(id), cache.bytes());
    assert_eq!(before, after, "a refused call changed something");
    error
}

#[test]
fn layers_out_of_order_and_unequal_chunks_are_refused() {
    let config = CacheConfig::new(3, HEADS, HEAD_DIM).with_window(4);
    let mut cache = RollingKvCache::<f32>::new(config).unwrap();
    let id = cache.add_sequence().unwrap();
    let (two, five) = (ones(2, HEADS), ones(5, HEADS));
    let refuse =
        |cache: &mut _, layer, k: &Array3<f32>| refusal(cache, id, layer, k.view(), k.view());
    let skipped = refuse(&mut cache, 1, &two);
    assert_eq!(skipped, CacheError::LayerOutOfOrder { expected: 0, found: 1 });
    let beyond = refuse(&mut cache, 3, &two);
    assert_eq!(beyond, CacheError::NoSuchLayer { found: 3, n_layers: 3 });

    cache.stage(id, 0, five.view(), five.view()).unwrap().commit();
    let incomplete = CacheError::IncompleteChunk { id, committed: 1, n_layers: 3 };
    assert_eq!(refuse(&mut cache, 0, &five), incomplete);
    assert_eq!(cache.reserve(id, 1).unwrap_err(), incomplete);
    let unequal = refuse(&mut cache, 1, &two);
    assert_eq!(unequal, CacheError::ChunkLengthDiffers { layer: 1, expected: 5, found: 2 });
    cache.stage(id, 1, five.view(), five.view()).unwrap().commit();
    let twice = refuse(&mut cache, 1, &five);
    assert_eq!(twice, CacheError::LayerOutOfOrder { expected: 2, found: 1 });

    // Another sequence takes its turn in between and disturbs nothing.
    let other = cache.add_sequence().unwrap();
    cache.stage(other, 0, two.view(), two.view()).unwrap().commit();
    cache.stage(id, 2, five.view(), five.view()).unwrap().commit();
    assert_eq!(cache.position(id), Ok(5));
    assert_eq!(cache.position(other), Ok(0));
}

#[test]
fn chunks_of_another_shape_are_refused() {
    let config = CacheConfig::new(1, HEADS, HEAD_DIM).with_max_chunk(4);
    let mut cache = RollingKvCache::<f32>::new(config).unwrap();
    let id = cache.add_sequence().unwrap();
    let mut refuse =
        |k: Array3<f32>, v: Array3<f32>| refusal(&mut cache, id, 0, k.view(), v.view());
    assert_eq!(
        refuse(ones(2, HEADS), ones(3, HEADS)),
        CacheError::ShapeMismatch { keys: (2, HEADS, HEAD_DIM), values: (3, HEADS, HEAD_DIM) }
    );
    assert_eq!(
        refuse(ones(2, 1), ones(2, 1)),
        CacheError::HeadsDiffer { expected: (HEADS, HEAD_DIM), found: (1, HEAD_DIM) }
    );
    assert_eq!(refuse(ones(0, HEADS), ones(0, HEADS)), CacheError::EmptyChunk);
    assert_eq!(
        refuse(ones(5, HEADS), ones(5, HEADS)),
        CacheError::ChunkTooLong { found: 5, max_chunk: 4 }
    );
}

#[test]
fn without_a_window_nothing_is_evicted_and_the_context_ends() {
    let config = CacheConfig::new(1, HEADS, HEAD_DIM).with_context_len(10);
    // A window longer than the context must not wrap either: it would lose visible positions.
    for config in [config, config.with_window(11)] {
        let mut cache = RollingKvCache::<f32>::new(config).unwrap();
        let id = cache.add_sequence().unwrap();
        let (six, four) = (ones(6, HEADS), ones(4, HEADS));
        cache.stage(id, 0, six.view(), six.view()).unwrap().commit();
        let full = CacheError::ContextFull { position: 6, len: 6, context_len: 10 };
        assert_eq!(refusal(&mut cache, id, 0, six.view(), six.view()), full);
        cache.stage(id, 0, four.view(), four.view()).unwrap().commit();
        assert_eq!(cache.held(id, 0), Ok(0..10));
    }
}

#[test]
fn a_half_done_chunk_that_evicted_history_says_so_and_stays_as_it_is() {
    let config = CacheConfig::new(2, HEADS, HEAD_DIM).with_window(4);
    let mut cache = RollingKvCache::<f32>::new(config).unwrap();
    let id = cache.add_sequence().unwrap();
    for layer in [0, 1, 0] {
        let k = ones(4, HEADS);
        cache.stage(id, layer, k.view(), k.view()).unwrap().commit();
    }
    let lost = CacheError::HistoryOverwritten { id, position: 4, oldest: 4 };
    assert_eq!(cache.abandon_chunk(id), Err(lost));
    assert_eq!(cache.next_layer(id), Ok(1));
    // The chunk can still be finished.
    let k = ones(4, HEADS);
    cache.stage(id, 1, k.view(), k.view()).unwrap().commit();
    assert_eq!(cache.position(id), Ok(8));
}
