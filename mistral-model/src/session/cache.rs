//! The cache of a session: one sequence, in one of the formats, kept in one of the ways.

use std::path::Path;

use mistral_core::half::{bf16, f16};
use mistral_core::kv::{Int8, KvElement, KvFormat};
use mistral_core::ops::RopeAngles;
use mistral_kvcache::{CacheConfig, CacheError, HeavyHitterCache, RollingKvCache, SequenceId};

use super::SessionOptions;
use crate::config::Config;
use crate::error::ModelError;
use crate::history::{Heads, RollingSequence, SequenceCache};
use crate::layer::Shared;

/// The keys and values of a session, in one of their formats.
#[derive(Debug)]
pub(crate) enum Cache {
    F32(Store<f32>),
    F16(Store<f16>),
    BF16(Store<bf16>),
    Int8(Store<Int8>),
}

/// What is kept of the sequence.
#[derive(Debug)]
pub(crate) enum Store<E: KvElement> {
    /// Everything, or the window.
    Rolling(RollingKvCache<E>, SequenceId),
    /// What is attended to.
    HeavyHitters(HeavyHitterCache<E>),
}

/// Runs the same code on whichever format the cache has.
macro_rules! with_store {
    ($cache:expr, $store:ident => $body:expr) => {
        match $cache {
            Cache::F32($store) => $body,
            Cache::F16($store) => $body,
            Cache::BF16($store) => $body,
            Cache::Int8($store) => $body,
        }
    };
}

impl Cache {
    /// An empty cache for a model.
    pub(super) fn new(config: &Config, options: &SessionOptions) -> Result<Self, ModelError> {
        Ok(match options.kv_dtype {
            KvFormat::F32 => Self::F32(Store::new(config, options)?),
            KvFormat::Int8 => Self::Int8(Store::new(config, options)?),
            KvFormat::BF16 => Self::BF16(Store::new(config, options)?),
            _ => Self::F16(Store::new(config, options)?),
        })
    }

    /// A cache with the sequence of a snapshot, and its tokens.
    pub(super) fn restore_file(
        config: &Config,
        options: &SessionOptions,
        fingerprint: [u8; 32],
        path: &Path,
    ) -> Result<(Self, Vec<u32>), ModelError> {
        fn store<E: KvElement>(
            config: CacheConfig,
            (fingerprint, path): ([u8; 32], &Path),
            tokens: &mut Vec<u32>,
        ) -> Result<Store<E>, ModelError> {
            let mut cache = RollingKvCache::new(config)?;
            let (id, saved) = cache.restore_file(fingerprint, path)?;
            *tokens = saved;
            Ok(Store::Rolling(cache, id))
        }
        let (config, from, mut tokens) = (options.cache(config), (fingerprint, path), Vec::new());
        let cache = match options.kv_dtype {
            KvFormat::F32 => Self::F32(store(config, from, &mut tokens)?),
            KvFormat::Int8 => Self::Int8(store(config, from, &mut tokens)?),
            KvFormat::BF16 => Self::BF16(store(config, from, &mut tokens)?),
            _ => Self::F16(store(config, from, &mut tokens)?),
        };
        Ok((cache, tokens))
    }

    /// Writes the sequence and its tokens.
    pub(super) fn save_file(
        &self,
        fingerprint: [u8; 32],
        tokens: &[u32],
        path: &Path,
    ) -> Result<(), ModelError> {
        with_store!(self, store => match store {
            Store::Rolling(cache, id) => Ok(cache.save_file(*id, fingerprint, tokens, path)?),
            Store::HeavyHitters(_) => Err(ModelError::HeavyHitters { what: "a snapshot" }),
        })
    }

    /// Bytes of keys and values, the chunk under way included.
    pub(super) fn bytes(&self) -> usize {
        with_store!(self, store => store.bytes())
    }

    /// Forgets the sequence and keeps the memory.
    pub(super) fn reset(&mut self) -> Result<(), ModelError> {
        with_store!(self, store => store.reset())
    }

    /// The oldest position that the sequence can return to, but for 0.
    pub(super) fn reaches_back_to(&self) -> Result<usize, ModelError> {
        with_store!(self, store => store.reaches_back_to())
    }

    /// Takes back the last `tokens` tokens.
    pub(super) fn rewind(&mut self, tokens: usize) -> Result<(), ModelError> {
        with_store!(self, store => store.rewind(tokens))
    }

    /// Another cache with what the sequence had at `position`, in shared memory.
    pub(super) fn fork_at(&self, position: usize) -> Result<Self, ModelError> {
        Ok(match self {
            Self::F32(store) => Self::F32(store.fork_at(position)?),
            Self::F16(store) => Self::F16(store.fork_at(position)?),
            Self::BF16(store) => Self::BF16(store.fork_at(position)?),
            Self::Int8(store) => Self::Int8(store.fork_at(position)?),
        })
    }

    /// Takes back what layers have of a chunk that was begun at `start`: whether that was exact.
    pub(crate) fn undo_chunk(&mut self, start: usize) -> bool {
        with_store!(self, store => store.undo_chunk(start))
    }
}

impl SequenceCache for Cache {
    fn position(&self) -> usize {
        with_store!(self, store => store.position())
    }

    fn next_layer(&self) -> usize {
        with_store!(self, store => store.next_layer())
    }

    fn attend(
        &mut self,
        layer: usize,
        angles: &RopeAngles,
        shared: Shared<'_>,
        heads: Heads<'_>,
    ) -> Result<(), ModelError> {
        with_store!(self, store => match store {
            Store::Rolling(cache, id) => {
                RollingSequence { cache, id: *id }.attend(layer, angles, shared, heads)
            }
            Store::HeavyHitters(cache) => cache.attend(layer, angles, shared, heads),
        })
    }
}

impl<E: KvElement> Store<E> {
    fn new(config: &Config, options: &SessionOptions) -> Result<Self, ModelError> {
        if let Some(sizes) = options.heavy_hitter_cache(config) {
            return Ok(Self::HeavyHitters(HeavyHitterCache::new(sizes)?));
        }
        let mut cache = RollingKvCache::new(options.cache(config))?;
        let id = cache.add_sequence()?;
        Ok(Self::Rolling(cache, id))
    }

    fn position(&self) -> usize {
        match self {
            Self::Rolling(cache, id) => cache.position(*id).unwrap_or_default(),
            Self::HeavyHitters(cache) => cache.position(),
        }
    }

    fn next_layer(&self) -> usize {
        match self {
            Self::Rolling(cache, id) => cache.next_layer(*id).unwrap_or_default(),
            Self::HeavyHitters(cache) => cache.next_layer(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Rolling(cache, _) => cache.bytes(),
            Self::HeavyHitters(cache) => cache.bytes(),
        }
    }

    fn reset(&mut self) -> Result<(), ModelError> {
        match self {
            Self::Rolling(cache, id) => cache.reset(*id)?,
            Self::HeavyHitters(cache) => cache.reset(),
        }
        Ok(())
    }

    fn reaches_back_to(&self) -> Result<usize, ModelError> {
        match self {
            Self::Rolling(cache, id) => Ok(cache.reaches_back_to(*id)?),
            Self::HeavyHitters(_) => Err(ModelError::HeavyHitters { what: "a rewind" }),
        }
    }

    fn rewind(&mut self, tokens: usize) -> Result<(), ModelError> {
        match self {
            Self::Rolling(cache, id) => Ok(cache.rewind(*id, tokens)?),
            Self::HeavyHitters(_) => Err(ModelError::HeavyHitters { what: "a rewind" }),
        }
    }

    fn fork_at(&self, position: usize) -> Result<Self, ModelError> {
        match self {
            Self::Rolling(cache, id) => {
                let mut cache = cache.clone();
                let fork = cache.fork_at(*id, position)?;
                cache.remove_sequence(*id)?;
                Ok(Self::Rolling(cache, fork))
            }
            Self::HeavyHitters(cache) if position == cache.position() => {
                Ok(Self::HeavyHitters(cache.clone()))
            }
            Self::HeavyHitters(_) => Err(ModelError::HeavyHitters { what: "a rewind" }),
        }
    }

    fn undo_chunk(&mut self, start: usize) -> bool {
        match self {
            Self::Rolling(cache, id) => {
                // Logits that are none are found when the last layer has committed already.
                let undo = |cache: &mut RollingKvCache<E>| {
                    cache.abandon_chunk(*id)?;
                    let more = cache.position(*id)?.saturating_sub(start);
                    if more > 0 { cache.rewind(*id, more) } else { Ok::<(), CacheError>(()) }
                };
                undo(cache).is_ok()
            }
            Self::HeavyHitters(cache) => (cache.position(), cache.next_layer()) == (start, 0),
        }
    }
}
