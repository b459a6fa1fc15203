//! The cache against its specification: a plain list of everything that was ever committed.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::ndarray::{Array3, Axis};
use mistral_kvcache::{
    CacheConfig, CacheError, Element, KvView, LayerCache, RollingKvCache, SequenceId,
};
use proptest::prelude::*;

const HEADS: usize = 2;
const HEAD_DIM: usize = 3;

/// Chunks that differ in every element from every other chunk, dropped ones included.
struct Source {
    state: u64,
}

impl Source {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn chunk(&mut self, len: usize) -> Array3<f32> {
        Array3::from_shape_fn((len, HEADS, HEAD_DIM), |_| {
            self.state =
                self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.state >> 40) as f32 / 8388608.0 - 1.0
        })
    }
}

/// Everything committed, oldest first: what the ring is a window onto.
#[derive(Clone)]
struct Pushed {
    keys: Array3<f32>,
    values: Array3<f32>,
}

impl Pushed {
    fn new() -> Self {
        let none = Array3::zeros((0, HEADS, HEAD_DIM));
        Self { keys: none.clone(), values: none }
    }

    fn len(&self) -> usize {
        self.keys.dim().0
    }

    fn with(&self, keys: &Array3<f32>, values: &Array3<f32>) -> Self {
        let mut more = self.clone();
        more.keys.append(Axis(0), keys.view()).unwrap();
        more.values.append(Axis(0), values.view()).unwrap();
        more
    }
}

/// The view ends with the chunk, reaches back as far as its first query sees, holds no more than
/// a window before the chunk, and each of its rows is the one that was pushed at that position.
fn assert_shows<E: Element>(view: &KvView<E>, pushed: &Pushed, chunk_len: usize, keep: usize) {
    let positions = view.positions();
    let first_query = pushed.len() - chunk_len;
    assert_eq!(positions.end, pushed.len());
    assert!(
        positions.start <= (first_query + 1).saturating_sub(keep),
        "history from {} on is missing for the query at {first_query}, {keep} visible",
        positions.start
    );
    assert!(first_query - positions.start <= keep);
    for head in 0..HEADS {
        let rows = view.head(head).unwrap();
        let row = |from: &Array3<f32>, position: usize| -> Vec<E> {
            (0..HEAD_DIM).map(|d| E::from_f32(from[[position, head, d]])).collect()
        };
        let (mut keys, mut values) = (rows.keys(positions.clone()), rows.values(positions.clone()));
        for position in positions.clone() {
            assert_eq!(keys.next().unwrap(), row(&pushed.keys, position));
            assert_eq!(values.next().unwrap(), row(&pushed.values, position));
        }
        assert!(keys.next().is_none() && values.next().is_none());
    }
}

/// Stages chunks of the given lengths in one layer and commits those marked so.
fn push_all<E: Element>(mut layer: LayerCache<E>, keep: usize, steps: &[(usize, bool)], seed: u64) {
    let mut source = Source::new(seed);
    let mut pushed = Pushed::new();
    for &(len, commit) in steps {
        let (k, v) = (source.chunk(len), source.chunk(len));
        let step = layer.stage(k.view(), v.view()).unwrap();
        let with_chunk = pushed.with(&k, &v);
        assert_shows(&step.kv().unwrap(), &with_chunk, len, keep);
        assert_eq!(step.positions(), pushed.len()..pushed.len() + len);
        if commit {
            step.commit();
            pushed = with_chunk;
        }
        assert_eq!(layer.position(), pushed.len());
        assert_eq!(layer.held(), pushed.len().saturating_sub(keep)..pushed.len());
        let slots: Vec<_> = layer.slots().collect();
        for position in layer.held() {
            assert_eq!(slots[position % layer.capacity()], Some(position));
        }
        assert_eq!(slots.iter().flatten().count(), layer.held().len());
    }
}

#[test]
fn every_window_and_chunk_size_shows_exactly_what_was_pushed() {
    for window in 1..=12usize {
        for chunk in 1..=37usize {
            // At least two chunks, and six windows.
            let n = (2 * chunk).max(6 * window).div_ceil(chunk);
            let steps = vec![(chunk, true); n];
            let seed = (window * 100 + chunk) as u64;
            push_all(
                LayerCache::<f32>::new(HEADS, HEAD_DIM, window).unwrap(),
                window,
                &steps,
                seed,
            );
            push_all(
                LayerCache::<f16>::new(HEADS, HEAD_DIM, window).unwrap(),
                window,
                &steps,
                seed,
            );
            push_all(
                LayerCache::<bf16>::new(HEADS, HEAD_DIM, window).unwrap(),
                window,
                &steps,
                seed,
            );
        }
    }
}

/// What happens to one sequence in one step of the random test of a whole cache.
#[derive(Debug, Clone)]
enum Step {
    /// Every layer commits; before that, layer `retry` is staged and dropped once.
    Whole {
        len: usize,
        retry: usize,
    },
    /// The first `layers` commit and then the chunk is abandoned.
    Abandoned {
        len: usize,
        layers: usize,
    },
    Reset,
    /// The sequence leaves and another one joins.
    Replaced,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1usize..=14, 0usize..3).prop_map(|(len, retry)| Step::Whole { len, retry }),
        3 => (1usize..=14, 1usize..3).prop_map(|(len, layers)| Step::Abandoned { len, layers }),
        3 => (1usize..3).prop_map(|layers| Step::Abandoned { len: 1, layers }),
        1 => Just(Step::Reset),
        1 => Just(Step::Replaced),
    ]
}

const N_LAYERS: usize = 3;

/// A sequence as the specification sees it.
struct Expected {
    id: SequenceId,
    layers: Vec<Pushed>,
    /// The most tokens it has had: its memory is never given back before it leaves.
    most: usize,
}

impl Expected {
    fn join<E: Element>(cache: &mut RollingKvCache<E>) -> Self {
        Self { id: cache.add_sequence().unwrap(), layers: vec![Pushed::new(); N_LAYERS], most: 0 }
    }

    /// Stages, checks the view and commits in the layers below `layers`; what was pushed then.
    fn push<E: Element>(
        &mut self,
        cache: &mut RollingKvCache<E>,
        source: &mut Source,
        len: usize,
        layers: usize,
        retry: usize,
    ) -> Vec<Pushed> {
        let keep = cache.config().window().unwrap_or(usize::MAX);
        let mut after = self.layers.clone();
        self.most = self.most.max(after[0].len() + len);
        for (layer, pushed) in after.iter_mut().enumerate().take(layers) {
            if layer == retry {
                let k = source.chunk(len);
                drop(cache.stage(self.id, layer, k.view(), k.view()).unwrap());
            }
            let (k, v) = (source.chunk(len), source.chunk(len));
            *pushed = pushed.with(&k, &v);
            let step = cache.stage(self.id, layer, k.view(), v.view()).unwrap();
            assert_shows(&step.kv().unwrap(), pushed, len, keep);
            step.commit();
        }
        after
    }

    fn take<E: Element>(
        &mut self,
        cache: &mut RollingKvCache<E>,
        source: &mut Source,
        step: &Step,
    ) {
        match *step {
            Step::Whole { len, retry } => {
                self.layers = self.push(cache, source, len, N_LAYERS, retry);
            }
            Step::Abandoned { len, layers } => {
                self.push(cache, source, len, layers, N_LAYERS);
                assert_eq!(cache.next_layer(self.id).unwrap(), layers);
                let result = cache.abandon_chunk(self.id);
                if let Err(error) = result {
                    assert!(matches!(error, CacheError::HistoryOverwritten { .. }));
                    assert!(len > 1, "one token can always be taken back");
                    let window = cache.config().window().unwrap();
                    assert!(self.layers[0].len() + len > window, "nothing was overwritten");
                    cache.reset(self.id).unwrap();
                    self.layers = vec![Pushed::new(); N_LAYERS];
                }
            }
            Step::Reset => {
                cache.reset(self.id).unwrap();
                self.layers = vec![Pushed::new(); N_LAYERS];
            }
            Step::Replaced => {
                cache.remove_sequence(self.id).unwrap();
                let gone = cache.position(self.id).unwrap_err();
                assert_eq!(gone, CacheError::UnknownSequence { id: self.id });
                *self = Self::join(cache);
            }
        }
        assert_eq!(cache.position(self.id).unwrap(), self.layers[0].len());
        assert_eq!(cache.next_layer(self.id).unwrap(), 0);
    }
}

fn run_all<E: Element>(config: CacheConfig, steps: &[(usize, Step)], seed: u64) {
    let mut source = Source::new(seed);
    let mut cache = RollingKvCache::<E>::new(config).unwrap();
    let mut sequences: Vec<Expected> = (0..3).map(|_| Expected::join(&mut cache)).collect();
    for (which, step) in steps {
        sequences[*which].take(&mut cache, &mut source, step);
        let planned: usize =
            sequences.iter().map(|s| config.sequence_bytes(E::DTYPE, s.most).unwrap()).sum();
        assert_eq!(cache.bytes(), planned + config.staging_bytes(E::DTYPE).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_steps_and_drops_in_one_layer_show_exactly_what_was_pushed(
        window in 1usize..=12,
        steps in prop::collection::vec((1usize..=37, any::<bool>()), 1..24),
        seed in any::<u64>(),
    ) {
        push_all(LayerCache::<f32>::new(HEADS, HEAD_DIM, window).unwrap(), window, &steps, seed);
        push_all(LayerCache::<f16>::new(HEADS, HEAD_DIM, window).unwrap(), window, &steps, seed);
        push_all(LayerCache::<bf16>::new(HEADS, HEAD_DIM, window).unwrap(), window, &steps, seed);
    }

    #[test]
    fn a_full_layer_shows_everything_across_its_growth(
        steps in prop::collection::vec((1usize..=150, any::<bool>()), 1..12),
        seed in any::<u64>(),
    ) {
        let layer = LayerCache::<f32>::full(HEADS, HEAD_DIM, 2000).unwrap();
        push_all(layer, 2000, &steps, seed);
    }

    #[test]
    fn sequences_never_mix_and_abandoned_chunks_leave_no_trace(
        window in prop::option::weighted(0.8, 1usize..=12),
        steps in prop::collection::vec((0usize..3, step()), 1..40),
        seed in any::<u64>(),
    ) {
        let config = CacheConfig::new(N_LAYERS, HEADS, HEAD_DIM)
            .with_context_len(600)
            .with_max_chunk(14);
        let config = window.map_or(config, |window| config.with_window(window));
        run_all::<f32>(config, &steps, seed);
        run_all::<bf16>(config, &steps, seed);
    }
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
        let mut seen = Vec::new();
        for _ in 0..1000 {
            let k = Array3::ones((1, HEADS, HEAD_DIM));
            let step = cache.stage(id, 0, k.view(), k.view()).unwrap();
            let view = step.kv().unwrap();
            let ends = [view.segments().next().unwrap(), view.segments().last().unwrap()];
            seen.push(ends.map(|segment| segment.keys().as_ptr() as usize / 4));
            step.commit();
        }
        assert_eq!(cache.bytes(), bytes);
        // The chunk's buffer never moves, and the ring is entered at one of its slots.
        let ring = seen[1][0];
        assert!(seen.iter().skip(1).all(|[_, chunk]| *chunk == seen[1][1]));
        let reached = 5 * HEADS * HEAD_DIM;
        assert!(seen.iter().skip(1).all(|[first, _]| (ring..ring + reached).contains(first)));
    }
}
