//! A whole cache against its specification, over any operations in any order: after each of them,
//! everything that can be asked of the cache is what a list of everything pushed says.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

mod spec;

use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::{CacheConfig, CacheError, Int8, KvElement, RollingKvCache, SnapshotError};
use proptest::prelude::*;
use spec::whole::{Names, Sequence, assert_is, reserve};
use spec::{HEAD_DIM, HEADS, Source, assert_shows, rounded};

const MAX_CHUNK: usize = 40;
const CONTEXT_LEN: usize = 400;
const MOST_SEQUENCES: usize = 5;

/// What happens to one sequence.
#[derive(Debug, Clone)]
enum Op {
    /// The next layer stages and commits, or drops.
    Stage {
        len: usize,
        commit: bool,
    },
    /// All layers that are left in this chunk stage and commit.
    Chunk {
        len: usize,
    },
    Abandon,
    Rewind {
        tokens: usize,
    },
    Fork,
    ForkAt {
        tokens: usize,
    },
    /// Saved, and restored beside itself and in another cache.
    SaveAndRestore,
    Reserve {
        tokens: usize,
    },
    Reset,
    Join,
    Leave,
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![3 => Just(1usize), 3 => 1usize..=8, 1 => 1usize..=MAX_CHUNK];
    prop_oneof![
        8 => (len(), any::<bool>()).prop_map(|(len, commit)| Op::Stage { len, commit }),
        16 => len().prop_map(|len| Op::Chunk { len }),
        4 => Just(Op::Abandon),
        6 => (0usize..9).prop_map(|tokens| Op::Rewind { tokens }),
        1 => (0usize..200).prop_map(|tokens| Op::Rewind { tokens }),
        2 => Just(Op::Fork),
        3 => (0usize..9).prop_map(|tokens| Op::ForkAt { tokens }),
        1 => (0usize..200).prop_map(|tokens| Op::ForkAt { tokens }),
        3 => Just(Op::SaveAndRestore),
        1 => (1usize..300).prop_map(|tokens| Op::Reserve { tokens }),
        1 => Just(Op::Reset),
        1 => Just(Op::Join),
        3 => Just(Op::Leave),
    ]
}

fn window() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![
        8 => (1usize..=12).prop_map(Some),
        1 => (13usize..=140).prop_map(Some),
        1 => Just(Some(CONTEXT_LEN + 1)),
        2 => Just(None),
    ]
}

fn config() -> impl Strategy<Value = CacheConfig> {
    let windows = prop_oneof![
        2 => window().prop_map(|window| vec![window; 3]),
        1 => prop::collection::vec(window(), 2),
    ];
    let sinks = prop_oneof![2 => Just(0), 2 => 1usize..6, 1 => 6usize..40, 1 => Just(150)];
    (windows, sinks, 0usize..6).prop_map(|(windows, sinks, slack)| {
        CacheConfig::new(windows.len(), HEADS, HEAD_DIM)
            .with_windows(windows)
            .with_context_len(CONTEXT_LEN)
            .with_max_chunk(MAX_CHUNK)
            .with_sinks(sinks)
            .with_rewind_slack(slack)
    })
}

/// A cache and its specification, side by side.
struct Pair<E: KvElement> {
    cache: RollingKvCache<E>,
    sequences: Vec<Sequence>,
    names: Names,
    source: Source,
}

impl<E: KvElement> Pair<E> {
    fn new(config: CacheConfig, seed: u64) -> Self {
        let cache = RollingKvCache::new(config).unwrap();
        let (names, source) = (Names::default(), Source::new(seed));
        let mut pair = Self { cache, sequences: Vec::new(), names, source };
        pair.join();
        pair
    }

    fn join(&mut self) {
        let id = self.cache.add_sequence().unwrap();
        self.sequences.push(Sequence::new(id, self.cache.config(), &mut self.names));
    }

    /// Stages the layer that is next; whether there was room for the chunk.
    fn stage(&mut self, which: usize, len: usize, commit: bool) -> bool {
        let Sequence { id, layers_done: layer, position, .. } = self.sequences[which];
        let len = if layer > 0 { self.sequences[which].chunk_len } else { len };
        let (k, v) = (self.source.chunk(len), self.source.chunk(len));
        if self.cache.config().limit().is_some_and(|limit| position + len > limit) {
            let error = self.cache.stage(id, layer, k.view(), v.view()).unwrap_err();
            let context_len = CONTEXT_LEN;
            assert_eq!(error, CacheError::ContextFull { position, len, context_len });
            return false;
        }
        reserve(&mut self.sequences, which, (layer, len), &mut self.names);
        let sequence = &mut self.sequences[which];
        let step = self.cache.stage(id, layer, k.view(), v.view()).unwrap();
        assert_eq!(step.positions(), position..position + len);
        let rows = rounded::<E>(&k, &v);
        let expected = &mut sequence.layers[layer];
        let (held, pinned) = (expected.held(), expected.pinned());
        let pushed: Vec<_> = expected.pushed.iter().chain(&rows).copied().collect();
        assert_shows(&step.kv().unwrap(), &pushed, held.start..position + len, pinned);
        if commit {
            step.commit();
            expected.push(&rows);
            sequence.chunk_len = len;
            sequence.layers_done += 1;
            if sequence.layers_done == sequence.layers.len() {
                sequence.layers_done = 0;
                sequence.position += len;
            }
        }
        true
    }

    fn abandon(&mut self, which: usize) {
        let sequence = &mut self.sequences[which];
        let (committed, position) = (&sequence.layers[..sequence.layers_done], sequence.position);
        let possible = committed.iter().all(|layer| layer.can_return_to(position));
        let slack = self.cache.config().rewind_slack();
        assert!(possible || sequence.chunk_len > slack + 1, "one that must always be possible");
        match self.cache.abandon_chunk(sequence.id) {
            Ok(()) => {
                assert!(possible);
                sequence.return_to(position);
            }
            Err(error) => {
                assert!(!possible);
                assert!(matches!(error, CacheError::HistoryOverwritten { .. }), "{error}");
            }
        }
    }

    /// An error if a chunk is under way, and nothing else has an effect then.
    fn under_way(&mut self, which: usize) -> bool {
        let Sequence { id, layers_done: committed, ref layers, .. } = self.sequences[which];
        let expected = CacheError::IncompleteChunk { id, committed, n_layers: layers.len() };
        if committed > 0 {
            assert_eq!(self.cache.rewind(id, 0), Err(expected.clone()));
            assert_eq!(self.cache.fork(id), Err(expected.clone()));
            assert_eq!(self.cache.reserve(id, 1), Err(expected.clone()));
            let saved = self.cache.save(id, [0; 32], &[], Vec::new());
            assert!(matches!(saved, Err(SnapshotError::Cache(error)) if error == expected));
        }
        committed > 0
    }

    fn rewind(&mut self, which: usize, tokens: usize) {
        let sequence = &mut self.sequences[which];
        let (id, position) = (sequence.id, sequence.position);
        let Some(target) = position.checked_sub(tokens) else {
            let error = CacheError::RewindBeforeStart { tokens, position };
            assert_eq!(self.cache.rewind(id, tokens), Err(error));
            return;
        };
        let oldest = self.cache.reaches_back_to(id).unwrap();
        assert_eq!(target == 0 || target >= oldest, sequence.can_return_to(target));
        if sequence.can_return_to(target) {
            assert_eq!(self.cache.rewind(id, tokens), Ok(()));
            sequence.return_to(target);
        } else {
            let error = CacheError::HistoryOverwritten { position: target, oldest };
            assert_eq!(self.cache.rewind(id, tokens), Err(error));
        }
    }

    fn fork(&mut self, which: usize, tokens: usize) {
        let sequence = &self.sequences[which];
        let target = sequence.position.saturating_sub(tokens);
        if sequence.can_return_to(target) {
            let id = self.cache.fork_at(sequence.id, target).unwrap();
            let mut fork = Sequence { id, ..sequence.clone() };
            fork.return_to(target);
            fork.shrink();
            self.sequences.push(fork);
        } else {
            let error = self.cache.fork_at(sequence.id, target).unwrap_err();
            assert!(matches!(error, CacheError::HistoryOverwritten { .. }), "{error}");
        }
        let (found, position) =
            (self.sequences[which].position + 1, self.sequences[which].position);
        let ahead = self.cache.fork_at(self.sequences[which].id, found);
        assert_eq!(ahead, Err(CacheError::PositionAhead { found, position }));
    }

    fn save_and_restore(&mut self, which: usize) {
        let sequence = &self.sequences[which];
        let tokens: Vec<u32> = (0..sequence.position as u32).collect();
        let mut saved = Vec::new();
        self.cache.save(sequence.id, [9; 32], &tokens, &mut saved).unwrap();

        let mut other = RollingKvCache::<E>::new(self.cache.config().clone()).unwrap();
        let (id, found) = other.restore([9; 32], saved.as_slice()).unwrap();
        assert_eq!(found, tokens);
        let mut restored = Sequence { id, ..sequence.clone() };
        restored.rename(&mut self.names);
        assert_is(&other, std::slice::from_ref(&restored), &self.names);
        let mut again = Vec::new();
        other.save(id, [9; 32], &tokens, &mut again).unwrap();
        assert!(saved == again, "a restored sequence is saved as other bytes");

        restored.id = self.cache.restore([9; 32], saved.as_slice()).unwrap().0;
        self.sequences.push(restored);
    }

    fn take(&mut self, which: usize, op: &Op) {
        let which = which % self.sequences.len();
        let room = self.sequences.len() < MOST_SEQUENCES;
        match *op {
            Op::Stage { len, commit } => {
                self.stage(which, len, commit);
            }
            Op::Chunk { len } => while self.stage(which, len, true) && self.under_way(which) {},
            Op::Abandon => self.abandon(which),
            Op::Reset => {
                let sequence = &mut self.sequences[which];
                self.cache.reset(sequence.id).unwrap();
                sequence.return_to(0);
            }
            Op::Join if room => self.join(),
            Op::Leave => {
                let id = self.sequences.remove(which).id;
                self.cache.remove_sequence(id).unwrap();
                assert_eq!(self.cache.position(id), Err(CacheError::UnknownSequence { id }));
                if self.sequences.is_empty() {
                    self.join();
                }
            }
            _ if self.under_way(which) => {}
            Op::Rewind { tokens } => self.rewind(which, tokens),
            Op::Fork if room => self.fork(which, 0),
            Op::ForkAt { tokens } if room => self.fork(which, tokens),
            Op::SaveAndRestore if room => self.save_and_restore(which),
            Op::Reserve { tokens } => {
                let Sequence { id, position, .. } = self.sequences[which];
                let limit = self.cache.config().limit();
                let fits = limit.is_none_or(|limit| position + tokens <= limit);
                assert_eq!(self.cache.reserve(id, tokens).is_ok(), fits);
                if fits {
                    reserve(&mut self.sequences, which, (0, tokens), &mut self.names);
                }
            }
            _ => {}
        }
        assert_is(&self.cache, &self.sequences, &self.names);
    }
}

fn run<E: KvElement>(config: &CacheConfig, ops: &[(usize, Op)], seed: u64) {
    let mut pair = Pair::<E>::new(config.clone(), seed);
    for (which, op) in ops {
        pair.take(*which, op);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_operations_leave_what_a_list_of_everything_pushed_says(
        config in config(),
        ops in prop::collection::vec((0usize..MOST_SEQUENCES, op()), 1..60),
        seed in any::<u64>(),
    ) {
        run::<f32>(&config, &ops, seed);
        run::<f16>(&config, &ops, seed);
        run::<bf16>(&config, &ops, seed);
        run::<Int8>(&config, &ops, seed);
    }
}
