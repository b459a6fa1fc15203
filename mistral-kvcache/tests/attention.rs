//! Attention through the cache is attention over plain arrays, by bits, in every state that the
//! cache can reach.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

use mistral_attention::{Attention, AttentionConfig, Window};
use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::ndarray::{Array3, Axis, concatenate};
use mistral_kvcache::{
    CacheConfig, Element, Int8, KvElement, KvView, LayerCache, RollingKvCache, SequenceId,
};
use proptest::prelude::*;

use self::random::random;

mod random;

const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 8;
const MAX_CHUNK: usize = 150;

/// Everything that was pushed and not taken back, as plain arrays.
#[derive(Clone)]
struct Text {
    keys: Array3<f32>,
    values: Array3<f32>,
}

/// A way to attend to the whole text at once, without a rolling cache.
trait AtOnce: KvElement {
    fn attend(attention: &Attention, q: [&Array3<f32>; 2], text: &Text) -> Array3<f32>;
}

fn attend<E: KvElement>(
    attention: &Attention,
    [q, sink_queries]: [&Array3<f32>; 2],
    kv: &KvView<'_, E>,
) -> Array3<f32> {
    let mut out = Array3::zeros(q.dim());
    let call = attention.call(q.view(), kv).sink_queries(sink_queries.view());
    call.run(out.view_mut()).unwrap();
    out
}

fn over_arrays<E: Element>(
    attention: &Attention,
    q: [&Array3<f32>; 2],
    text: &Text,
) -> Array3<f32> {
    let [k, v] = [&text.keys, &text.values].map(|array| array.mapv(E::from_f32));
    attend(attention, q, &KvView::from_arrays(k.view(), v.view()).unwrap())
}

impl AtOnce for f32 {
    fn attend(attention: &Attention, q: [&Array3<f32>; 2], text: &Text) -> Array3<f32> {
        over_arrays::<Self>(attention, q, text)
    }
}

impl AtOnce for f16 {
    fn attend(attention: &Attention, q: [&Array3<f32>; 2], text: &Text) -> Array3<f32> {
        over_arrays::<Self>(attention, q, text)
    }
}

impl AtOnce for bf16 {
    fn attend(attention: &Attention, q: [&Array3<f32>; 2], text: &Text) -> Array3<f32> {
        over_arrays::<Self>(attention, q, text)
    }
}

/// There are no arrays of it: everything in one chunk of a cache that forgets nothing.
impl AtOnce for Int8 {
    fn attend(attention: &Attention, q: [&Array3<f32>; 2], text: &Text) -> Array3<f32> {
        let mut layer = LayerCache::<Self>::full(N_KV_HEADS, HEAD_DIM, usize::MAX / 2).unwrap();
        let step = layer.stage(text.keys.view(), text.values.view()).unwrap();
        attend(attention, q, &step.kv().unwrap())
    }
}

#[derive(Debug, Clone)]
enum Op {
    Chunk {
        len: usize,
    },
    Rewind {
        tokens: usize,
    },
    /// Goes on with a fork; the other one stays as it is.
    Fork,
    /// Goes back to the sequence that was forked from last.
    Return,
    /// Goes on with what was saved and restored.
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![2 => Just(1usize), 3 => 1usize..=20, 1 => 1usize..=MAX_CHUNK];
    prop_oneof![
        8 => len.prop_map(|len| Op::Chunk { len }),
        4 => (0usize..8).prop_map(|tokens| Op::Rewind { tokens }),
        2 => Just(Op::Fork),
        2 => Just(Op::Return),
        1 => Just(Op::Restore),
    ]
}

struct Run<E: KvElement> {
    attention: Attention,
    cache: RollingKvCache<E>,
    id: SequenceId,
    text: Text,
    /// Where forks branched off.
    left: Vec<(SequenceId, Text)>,
    state: u64,
}

impl<E: AtOnce> Run<E> {
    fn new(window: Option<usize>, sinks: usize, slack: usize, seed: u64) -> Self {
        let config = CacheConfig::new(1, N_KV_HEADS, HEAD_DIM)
            .with_windows(vec![window])
            .with_sinks(sinks)
            .with_rewind_slack(slack)
            .with_max_chunk(MAX_CHUNK);
        let window = window.map_or(Window::Full, |window| Window::last(window).unwrap());
        let attention = AttentionConfig::new(N_HEADS, N_KV_HEADS, HEAD_DIM);
        let mut cache = RollingKvCache::new(config).unwrap();
        let none = Array3::zeros((0, N_KV_HEADS, HEAD_DIM));
        Self {
            attention: Attention::new(attention.with_window(window).with_sinks(sinks)).unwrap(),
            id: cache.add_sequence().unwrap(),
            cache,
            text: Text { keys: none.clone(), values: none },
            left: Vec::new(),
            state: seed,
        }
    }

    fn chunk(&mut self, len: usize) {
        let [k, v] = [(); 2].map(|()| random(&mut self.state, (len, N_KV_HEADS, HEAD_DIM)));
        let [q, sink_queries] = [(); 2].map(|()| random(&mut self.state, (len, N_HEADS, HEAD_DIM)));
        for (text, chunk) in [(&mut self.text.keys, &k), (&mut self.text.values, &v)] {
            *text = concatenate(Axis(0), &[text.view(), chunk.view()]).unwrap();
        }
        let step = self.cache.stage(self.id, 0, k.view(), v.view()).unwrap();
        let found = attend(&self.attention, [&q, &sink_queries], &step.kv().unwrap());
        step.commit();
        let expected = E::attend(&self.attention, [&q, &sink_queries], &self.text);
        for ((index, found), expected) in found.indexed_iter().zip(&expected) {
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{found} at (token, head, d) = {index:?} of a chunk of {len} up to position {}, \
                 expected {expected}",
                self.text.keys.dim().0
            );
        }
    }

    fn take(&mut self, op: &Op) {
        match *op {
            Op::Chunk { len } => self.chunk(len),
            Op::Rewind { tokens } => {
                if self.cache.rewind(self.id, tokens).is_ok() {
                    let len = self.text.keys.dim().0 - tokens;
                    for array in [&mut self.text.keys, &mut self.text.values] {
                        let shape = (len, N_KV_HEADS, HEAD_DIM);
                        *array = Array3::from_shape_fn(shape, |index| array[index]);
                    }
                }
            }
            Op::Fork => {
                let fork = self.cache.fork(self.id).unwrap();
                self.left.push((self.id, self.text.clone()));
                self.id = fork;
            }
            Op::Return => {
                if let Some((id, text)) = self.left.pop() {
                    (self.id, self.text) = (id, text);
                }
            }
            Op::Restore => {
                let mut saved = Vec::new();
                self.cache.save(self.id, [0; 32], &[], &mut saved).unwrap();
                self.id = self.cache.restore([0; 32], saved.as_slice()).unwrap().0;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_state_of_the_cache_is_attended_to_as_plain_arrays_by_bits(
        window in prop_oneof![
            3 => (1usize..=40).prop_map(Some),
            2 => (41usize..=300).prop_map(Some),
            1 => Just(None),
        ],
        sinks in prop_oneof![2 => Just(0), 2 => 1usize..=5, 1 => 6usize..=40],
        slack in 0usize..6,
        ops in prop::collection::vec(op(), 1..40),
        seed in any::<u64>(),
    ) {
        fn run<E: AtOnce>(mut run: Run<E>, ops: &[Op]) {
            ops.iter().for_each(|op| run.take(op));
        }
        run(Run::<f32>::new(window, sinks, slack, seed), &ops);
        run(Run::<f16>::new(window, sinks, slack, seed), &ops);
        run(Run::<bf16>::new(window, sinks, slack, seed), &ops);
        run(Run::<Int8>::new(window, sinks, slack, seed), &ops);
    }
}
