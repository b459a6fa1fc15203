//! Chunks of several sequences of one cache, attended to in one call, give each sequence the bits
//! that it has alone; what must not be in a batch is refused and changes nothing.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

use mistral_attention::{Attention, AttentionConfig, BatchItem, Scratch, Window};
use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::ndarray::Array3;
use mistral_kvcache::{
    CacheConfig, CacheError, Int8, KvElement, RollingKvCache, SequenceChunk, SequenceId,
};
use proptest::prelude::*;

use self::random::random;

mod random;

const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 8;
const N_LAYERS: usize = 2;
const MAX_CHUNK: usize = 60;

#[derive(Debug, Clone)]
enum Op {
    Join,
    Leave {
        which: usize,
    },
    Rewind {
        which: usize,
        tokens: usize,
    },
    Fork {
        which: usize,
    },
    /// Chunks of so many tokens for the sequences from `first` on; 0 leaves one out.
    Batch {
        first: usize,
        lengths: Vec<usize>,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let len =
        prop_oneof![3 => Just(1usize), 1 => Just(0), 2 => 2usize..20, 1 => 16usize..=MAX_CHUNK];
    let lengths = prop::collection::vec(len, 1..6);
    prop_oneof![
        2 => Just(Op::Join),
        1 => any::<usize>().prop_map(|which| Op::Leave { which }),
        1 => (any::<usize>(), 0usize..4).prop_map(|(which, tokens)| Op::Rewind { which, tokens }),
        1 => any::<usize>().prop_map(|which| Op::Fork { which }),
        10 => (any::<usize>(), lengths).prop_map(|(first, lengths)| Op::Batch { first, lengths }),
    ]
}

/// A sequence in the cache of all, and the same one in a cache of its own.
struct Member<E: KvElement> {
    id: SequenceId,
    alone: RollingKvCache<E>,
    alone_id: SequenceId,
}

/// One layer's queries, queries for sinks, keys and values of a chunk.
type Arrays = [Array3<f32>; 4];

struct Run<E: KvElement> {
    attention: Attention,
    cache: RollingKvCache<E>,
    members: Vec<Member<E>>,
    state: u64,
}

impl<E: KvElement> Run<E> {
    fn new(config: CacheConfig, seed: u64) -> Self {
        let window = Window::from_hf(config.window()).unwrap();
        let attention = AttentionConfig::new(N_HEADS, N_KV_HEADS, HEAD_DIM).with_window(window);
        let attention = Attention::new(attention.with_sinks(config.sinks())).unwrap();
        let cache = RollingKvCache::new(config).unwrap();
        Self { attention, cache, members: Vec::new(), state: seed }
    }

    fn take(&mut self, op: &Op) {
        let n = self.members.len();
        match op {
            Op::Join => {
                let mut alone = RollingKvCache::new(self.cache.config().clone()).unwrap();
                let alone_id = alone.add_sequence().unwrap();
                let id = self.cache.add_sequence().unwrap();
                self.members.push(Member { id, alone, alone_id });
            }
            _ if n == 0 => {}
            Op::Leave { which } => {
                let left = self.members.remove(which % n);
                self.cache.remove_sequence(left.id).unwrap();
            }
            Op::Rewind { which, tokens } => {
                let Member { id, alone, alone_id } = &mut self.members[which % n];
                let found = self.cache.rewind(*id, *tokens);
                assert_eq!(found.is_ok(), alone.rewind(*alone_id, *tokens).is_ok());
            }
            Op::Fork { which } => {
                let Member { id, alone, alone_id } = &self.members[which % n];
                let (alone, alone_id) = (alone.clone(), *alone_id);
                let id = self.cache.fork(*id).unwrap();
                self.members.push(Member { id, alone, alone_id });
            }
            Op::Batch { first, lengths } => {
                let mut left = MAX_CHUNK;
                let mut chunks = Vec::new();
                for (i, &len) in lengths.iter().take(n).enumerate() {
                    let len = len.min(left);
                    left -= len;
                    if len > 0 {
                        chunks.push(((first % n + i) % n, len));
                    }
                }
                for layer in 0..N_LAYERS {
                    self.layer(layer, &chunks);
                }
            }
        }
    }

    /// Takes chunks of some members through a layer, together and alone.
    fn layer(&mut self, layer: usize, chunks: &[(usize, usize)]) {
        let heads = [N_HEADS, N_HEADS, N_KV_HEADS, N_KV_HEADS];
        let mut draw = |len| heads.map(|heads| random(&mut self.state, (len, heads, HEAD_DIM)));
        let arrays: Vec<Arrays> = chunks.iter().map(|&(_, len)| draw(len)).collect();
        let staged: Vec<_> = chunks
            .iter()
            .zip(&arrays)
            .map(|(&(member, _), [.., k, v])| {
                let id = self.members[member].id;
                SequenceChunk { id, keys: k.view(), values: v.view() }
            })
            .collect();
        let mut outs: Vec<_> = arrays.iter().map(|[q, ..]| Array3::zeros(q.dim())).collect();
        let step = self.cache.stage_batch(layer, &staged).unwrap();
        let views: Vec<_> = step.kv().map(Result::unwrap).collect();
        let items = arrays.iter().zip(&mut outs).zip(&views).map(|(([q, turned, ..], out), kv)| {
            BatchItem {
                q: q.view(),
                kv: *kv,
                out: out.view_mut(),
                sink_queries: Some(turned.view()),
            }
        });
        let mut items: Vec<_> = items.collect();
        self.attention.forward_batch(&mut items, &Scratch::default(), None).unwrap();
        drop(items);
        drop(views);
        step.commit();
        for ((&(member, _), [q, turned, k, v]), out) in chunks.iter().zip(&arrays).zip(&outs) {
            let Member { alone, alone_id, .. } = &mut self.members[member];
            let step = alone.stage(*alone_id, layer, k.view(), v.view()).unwrap();
            let mut expected = Array3::zeros(q.dim());
            let kv = step.kv().unwrap();
            let call = self.attention.call(q.view(), &kv).sink_queries(turned.view());
            call.run(expected.view_mut()).unwrap();
            step.commit();
            let bits = |x: &Array3<f32>| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(out), bits(&expected), "layer {layer} of {chunks:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn a_ragged_batch_gives_each_sequence_the_bits_that_it_has_alone(
        window in prop_oneof![3 => (1usize..=40).prop_map(Some), 1 => Just(None)],
        sinks in 0usize..5,
        ops in prop::collection::vec(op(), 1..30),
        seed in any::<u64>(),
    ) {
        let config = CacheConfig::new(N_LAYERS, N_KV_HEADS, HEAD_DIM)
            .with_windows(vec![window; N_LAYERS])
            .with_sinks(sinks)
            .with_rewind_slack(3)
            .with_max_chunk(MAX_CHUNK);
        fn run<E: KvElement>(mut run: Run<E>, ops: &[Op]) {
            run.take(&Op::Join);
            ops.iter().for_each(|op| run.take(op));
            for Member { id, alone, alone_id } in &run.members {
                assert_eq!(run.cache.position(*id), alone.position(*alone_id));
            }
        }
        run(Run::<f32>::new(config.clone(), seed), &ops);
        run(Run::<f16>::new(config.clone(), seed), &ops);
        run(Run::<bf16>::new(config.clone(), seed), &ops);
        run(Run::<Int8>::new(config, seed), &ops);
    }
}

/// A cache of one layer with three sequences, and ones for chunks.
fn three() -> (RollingKvCache<f32>, [SequenceId; 3]) {
    let config = CacheConfig::new(1, N_KV_HEADS, HEAD_DIM).with_window(4).with_max_chunk(40);
    let mut cache = RollingKvCache::new(config).unwrap();
    let ids = [(); 3].map(|()| cache.add_sequence().unwrap());
    (cache, ids)
}

fn ones(len: usize) -> Array3<f32> {
    Array3::ones((len, N_KV_HEADS, HEAD_DIM))
}

fn chunk(id: SequenceId, rows: &Array3<f32>) -> SequenceChunk<'_> {
    SequenceChunk { id, keys: rows.view(), values: rows.view() }
}

#[test]
fn a_batch_that_does_not_fit_is_refused_whole() {
    let (mut cache, [a, b, c]) = three();
    let (one, twenty, none) = (ones(1), ones(20), ones(0));
    let planned = cache.config().plan(mistral_kvcache::KvFormat::F32, 3, 40).unwrap();
    let mut refusal = |chunks: &[SequenceChunk<'_>]| {
        let error = cache.stage_batch(0, chunks).unwrap_err();
        assert_eq!([a, b, c].map(|id| cache.position(id).unwrap()), [0; 3]);
        assert_eq!([a, b, c].map(|id| cache.next_layer(id).unwrap()), [0; 3]);
        assert_eq!(cache.bytes(), planned);
        error
    };
    let twice = [chunk(a, &one), chunk(b, &one), chunk(a, &one)];
    assert_eq!(refusal(&twice), CacheError::SequenceTwice { id: a });
    let long = [chunk(a, &twenty), chunk(b, &twenty), chunk(c, &one)];
    assert_eq!(refusal(&long), CacheError::BatchTooLong { found: 41, max_chunk: 40 });
    let in_batch = |id, source| CacheError::InBatch { id, source: Box::new(source) };
    let empty = refusal(&[chunk(a, &one), chunk(b, &none)]);
    assert_eq!(empty, in_batch(b, CacheError::EmptyChunk));
    assert!(empty.to_string().starts_with(&format!("{b} of the batch: the chunk has no tokens")));
    let stranger = three().1[0];
    let unknown = refusal(&[chunk(a, &one), chunk(stranger, &one)]);
    assert_eq!(unknown, CacheError::UnknownSequence { id: stranger });
    let layer = cache.stage_batch(1, &[chunk(a, &one)]).unwrap_err();
    assert_eq!(layer, in_batch(a, CacheError::NoSuchLayer { found: 1, n_layers: 1 }));
}

#[test]
fn a_batch_as_long_as_a_chunk_may_be_fits_however_it_is_cut() {
    // At positions that would all like to begin elsewhere in a panel.
    for lengths in [[1, 19, 20], [18, 18, 4], [20, 20, 0], [13, 13, 14], [38, 1, 1]] {
        let (mut cache, ids) = three();
        for (id, position) in ids.iter().zip([7, 2, 30]) {
            let rows = ones(position);
            cache.stage(*id, 0, rows.view(), rows.view()).unwrap().commit();
        }
        let planned = cache.bytes();
        let rows = lengths.map(ones);
        let chunks: Vec<_> = ids.iter().zip(&rows).filter(|(_, rows)| !rows.is_empty()).collect();
        let chunks: Vec<_> = chunks.into_iter().map(|(id, rows)| chunk(*id, rows)).collect();
        cache.stage_batch(0, &chunks).unwrap().commit();
        assert_eq!(cache.bytes(), planned);
        let found = ids.map(|id| cache.position(id).unwrap());
        assert_eq!(found, [7 + lengths[0], 2 + lengths[1], 30 + lengths[2]]);
    }
}

#[test]
fn a_batch_that_is_dropped_changes_nothing_and_none_is_one_too() {
    let (mut cache, ids) = three();
    let rows = ones(3);
    let chunks = ids.map(|id| chunk(id, &rows));
    drop(cache.stage_batch(0, &chunks).unwrap());
    assert_eq!(ids.map(|id| cache.position(id).unwrap()), [0; 3]);
    let step = cache.stage_batch(0, &chunks).unwrap();
    assert_eq!(step.positions().collect::<Vec<_>>(), [0..3, 0..3, 0..3]);
    step.commit();
    let step = cache.stage_batch(0, &[]).unwrap();
    assert_eq!(step.kv().count(), 0);
    step.commit();
    assert_eq!(ids.map(|id| cache.position(id).unwrap()), [3; 3]);
}
