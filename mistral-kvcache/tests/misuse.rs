//! What must not be done is refused with the cure, and changes nothing.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

use mistral_attention::{Attention, AttentionConfig, AttentionError, Window};
use mistral_kvcache::ndarray::{Array3, ArrayView3};
use mistral_kvcache::{CacheConfig, CacheError, KvError, LayerCache, RollingKvCache, SequenceId};

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

    // A chunk that says where it belongs is refused anywhere else, in any layer.
    for position in [4, 6] {
        let error = cache.stage_at(id, 2, position, five.view(), five.view()).unwrap_err();
        assert_eq!(error, CacheError::ChunkOutOfOrder { found: position, expected: 0 });
    }
    drop(cache.stage_at(id, 2, 0, five.view(), five.view()).unwrap());

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
    for config in [config.clone(), config.with_window(11)] {
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
    let lost = CacheError::HistoryOverwritten { position: 4, oldest: 7 };
    assert_eq!(cache.abandon_chunk(id), Err(lost));
    assert_eq!(cache.next_layer(id), Ok(1));
    // The chunk can still be finished.
    let k = ones(4, HEADS);
    cache.stage(id, 1, k.view(), k.view()).unwrap().commit();
    assert_eq!(cache.position(id), Ok(8));
}

/// A cache of one layer whose sequence has had `tokens`, one by one.
fn decoded(config: CacheConfig, tokens: usize) -> (RollingKvCache<f32>, SequenceId) {
    let mut cache = RollingKvCache::new(config).unwrap();
    let id = cache.add_sequence().unwrap();
    for _ in 0..tokens {
        let k = ones(1, HEADS);
        cache.stage(id, 0, k.view(), k.view()).unwrap().commit();
    }
    (cache, id)
}

#[test]
fn a_rewind_beyond_the_slack_says_how_far_it_may_go() {
    for slack in 0..5 {
        let config = CacheConfig::new(1, HEADS, HEAD_DIM).with_window(4).with_rewind_slack(slack);
        let (cache, id) = decoded(config, 50);
        let oldest = 50 - slack - 1;
        assert_eq!(cache.reaches_back_to(id), Ok(oldest));
        for tokens in 0..=51 {
            let mut cache = cache.clone();
            let expected = match 50usize.checked_sub(tokens) {
                None => Err(CacheError::RewindBeforeStart { tokens, position: 50 }),
                Some(position) if position > 0 && position < oldest => {
                    Err(CacheError::HistoryOverwritten { position, oldest })
                }
                Some(_) => Ok(()),
            };
            assert_eq!(cache.rewind(id, tokens), expected);
            let left = if expected.is_ok() { 50 - tokens } else { 50 };
            assert_eq!(cache.position(id), Ok(left));
        }
    }
    let mut layer = LayerCache::<f32>::new(HEADS, HEAD_DIM, 4).unwrap();
    for _ in 0..9 {
        let k = ones(1, HEADS);
        layer.stage(k.view(), k.view()).unwrap().commit();
    }
    let error = layer.rewind(2).unwrap_err();
    assert_eq!(error, CacheError::HistoryOverwritten { position: 7, oldest: 8 });
    assert_eq!(
        error.to_string(),
        "cannot go back to position 7: rows that it would need are overwritten, the oldest \
         position to return to is 8: keep more with with_rewind_slack, or reset and prefill again"
    );
    assert_eq!(layer.rewind(10), Err(CacheError::RewindBeforeStart { tokens: 10, position: 9 }));
    layer.rewind(1).unwrap();
    assert_eq!(layer.held(), 5..8);
    layer.rewind(8).unwrap();
    assert_eq!(layer.position(), 0);
    assert_eq!(layer.kv().unwrap_err(), CacheError::View(KvError::Empty));
}

#[test]
fn a_chunk_within_the_slack_can_be_abandoned() {
    let config = CacheConfig::new(2, HEADS, HEAD_DIM).with_window(4).with_rewind_slack(3);
    let mut cache = RollingKvCache::<f32>::new(config).unwrap();
    let id = cache.add_sequence().unwrap();
    let push = |cache: &mut RollingKvCache<f32>, layer, len| {
        let k = ones(len, HEADS);
        cache.stage(id, layer, k.view(), k.view()).unwrap().commit();
    };
    push(&mut cache, 0, 30);
    push(&mut cache, 1, 30);
    push(&mut cache, 0, 4);
    assert_eq!(cache.abandon_chunk(id), Ok(()));
    push(&mut cache, 0, 5);
    let lost = CacheError::HistoryOverwritten { position: 30, oldest: 31 };
    assert_eq!(cache.abandon_chunk(id), Err(lost));
}

#[test]
fn nothing_branches_off_in_the_middle_of_a_chunk_or_ahead() {
    let config = CacheConfig::new(2, HEADS, HEAD_DIM).with_window(4);
    let mut cache = RollingKvCache::<f32>::new(config).unwrap();
    let id = cache.add_sequence().unwrap();
    let k = ones(3, HEADS);
    cache.stage(id, 0, k.view(), k.view()).unwrap().commit();
    let incomplete = CacheError::IncompleteChunk { id, committed: 1, n_layers: 2 };
    assert_eq!(cache.fork(id), Err(incomplete.clone()));
    assert_eq!(cache.fork_at(id, 0), Err(incomplete.clone()));
    assert_eq!(cache.rewind(id, 0), Err(incomplete));
    cache.stage(id, 1, k.view(), k.view()).unwrap().commit();
    let ahead = cache.fork_at(id, 4);
    assert_eq!(ahead, Err(CacheError::PositionAhead { found: 4, position: 3 }));
    assert_eq!(cache.sequences().count(), 1);
}

#[test]
fn a_sequence_of_another_cache_is_unknown() {
    let config = CacheConfig::new(1, HEADS, HEAD_DIM).with_window(4);
    let (mut a, in_a) = decoded(config.clone(), 3);
    let (mut b, in_b) = decoded(config, 3);
    let k = ones(1, HEADS);
    assert_eq!(
        refusal(&mut a, in_b, 0, k.view(), k.view()),
        CacheError::UnknownSequence { id: in_b }
    );
    assert_eq!(b.fork(in_a), Err(CacheError::UnknownSequence { id: in_a }));
    assert_eq!(b.reset(in_a), Err(CacheError::UnknownSequence { id: in_a }));
    assert_eq!(b.remove_sequence(in_a), Err(CacheError::UnknownSequence { id: in_a }));
    // A clone knows what was there, not what joins either side later.
    let mut clone = a.clone();
    assert_eq!(clone.position(in_a), Ok(3));
    let (late_in_a, late_in_clone) = (a.add_sequence().unwrap(), clone.add_sequence().unwrap());
    assert_eq!(a.position(late_in_a), Ok(0));
    assert_eq!(a.position(late_in_clone), Err(CacheError::UnknownSequence { id: late_in_clone }));
    assert_eq!(clone.position(late_in_a), Err(CacheError::UnknownSequence { id: late_in_a }));
    assert_eq!(clone.position(late_in_clone), Ok(0));
    // A clone has the same sequences, and goes its own way with them.
    let mut clone = a.clone();
    clone.rewind(in_a, 3).unwrap();
    assert_eq!((clone.position(in_a), a.position(in_a)), (Ok(0), Ok(3)));
}

#[test]
fn attention_with_a_longer_window_than_the_cache_is_refused() {
    let (mut cache, id) = decoded(CacheConfig::new(1, HEADS, HEAD_DIM).with_window(4), 20);
    let k = ones(1, HEADS);
    let step = cache.stage(id, 0, k.view(), k.view()).unwrap();
    let attention = |window| {
        let config = AttentionConfig::new(HEADS, HEADS, HEAD_DIM);
        Attention::new(config.with_window(Window::last(window).unwrap())).unwrap()
    };
    let mut out = ones(1, HEADS);
    // The view has a window before the chunk, so that is one more than needed.
    let refused = attention(6).forward(k.view(), &step.kv().unwrap(), out.view_mut());
    let missing = AttentionError::MissingHistory { needed_from: 15, view_starts_at: 16 };
    assert_eq!(refused, Err(missing));
    assert_eq!(attention(4).forward(k.view(), &step.kv().unwrap(), out.view_mut()), Ok(()));
}

#[test]
fn heads_that_do_not_group_are_refused() {
    let ungrouped = Attention::new(AttentionConfig::new(3, HEADS, HEAD_DIM)).unwrap_err();
    assert_eq!(ungrouped, AttentionError::UngroupedHeads { n_heads: 3, n_kv_heads: HEADS });
    let (cache, id) = decoded(CacheConfig::new(1, HEADS, HEAD_DIM).with_window(4), 1);
    let other = Attention::new(AttentionConfig::new(3, 3, HEAD_DIM)).unwrap();
    let (q, mut out) = (ones(1, 3), ones(1, 3));
    let refused = other.forward(q.view(), &cache.kv(id, 0).unwrap(), out.view_mut()).unwrap_err();
    let (found, expected) = ((HEADS, HEAD_DIM), (3, HEAD_DIM));
    assert_eq!(refused, AttentionError::KvShape { found, expected });
}
