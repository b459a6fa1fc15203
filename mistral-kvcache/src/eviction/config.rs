//! Sizes, and the bytes they take.

use mistral_core::kv::{KvElement, KvPage, PANEL};

use super::Kept;
use crate::error::CacheError;

/// The sizes of a [`HeavyHitterCache`](super::HeavyHitterCache), and how much memory it will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct HeavyHitterConfig {
    pub(super) n_layers: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) recent: usize,
    pub(super) heavy: usize,
    pub(super) max_chunk: usize,
}

impl HeavyHitterConfig {
    /// `recent` 1024, `heavy` 1024, `max_chunk` 512.
    pub fn new(n_layers: usize, n_kv_heads: usize, head_dim: usize) -> Self {
        Self { n_layers, n_kv_heads, head_dim, recent: 1024, heavy: 1024, max_chunk: 512 }
    }

    /// How many of the last positions are kept whatever their weight.
    pub fn with_recent(self, recent: usize) -> Self {
        Self { recent, ..self }
    }

    /// How many of the older positions are kept, those with the largest weight; 0 for a window.
    pub fn with_heavy(self, heavy: usize) -> Self {
        Self { heavy, ..self }
    }

    /// Most tokens in a chunk, for which all layers share one buffer.
    pub fn with_max_chunk(self, max_chunk: usize) -> Self {
        Self { max_chunk, ..self }
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// How many of the last positions are kept.
    pub fn recent(&self) -> usize {
        self.recent
    }

    /// How many of the older positions are kept.
    pub fn heavy(&self) -> usize {
        self.heavy
    }

    /// Most positions kept in a head: `recent + heavy`.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: both are 0.
    /// - [`CacheError::SizeOverflow`]: it does not fit in `usize`.
    pub fn budget(&self) -> Result<usize, CacheError> {
        match self.recent.checked_add(self.heavy) {
            Some(0) => Err(CacheError::Zero { field: "recent + heavy" }),
            Some(budget) => Ok(budget),
            None => Err(CacheError::SizeOverflow),
        }
    }

    /// Bytes of a whole cache: what [`HeavyHitterCache::bytes`](super::HeavyHitterCache::bytes) says from the start to the end.
    ///
    /// Keys and values in whole panels of sixteen slots, a position and a weight for each slot,
    /// the chunk's buffer, and the list of candidates for eviction.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: a size is 0.
    /// - [`CacheError::SizeOverflow`]: it does not fit in `usize`.
    pub fn bytes<E: KvElement>(&self) -> Result<usize, CacheError> {
        let budget = self.checked_budget()?;
        let pages = |slots| KvPage::<E>::bytes_for(self.n_kv_heads, slots, self.head_dim);
        let layer = || {
            let kept = self.n_kv_heads.checked_mul(budget)?.checked_mul(size_of::<Kept>())?;
            pages(budget)?.checked_add(kept)
        };
        let shared = || {
            let candidates = budget.checked_add(self.max_chunk)?;
            pages(self.staging_slots()?)?.checked_add(candidates.checked_mul(size_of::<usize>())?)
        };
        layer()
            .and_then(|bytes| bytes.checked_mul(self.n_layers)?.checked_add(shared()?))
            .ok_or(CacheError::SizeOverflow)
    }

    /// The budget, after checking every size.
    pub(super) fn checked_budget(&self) -> Result<usize, CacheError> {
        for (field, value) in [
            ("n_layers", self.n_layers),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("max_chunk", self.max_chunk),
        ] {
            if value == 0 {
                return Err(CacheError::Zero { field });
            }
        }
        self.budget()
    }

    /// A chunk may start in any lane of its first panel.
    pub(super) fn staging_slots(&self) -> Option<usize> {
        self.max_chunk.checked_add(PANEL - 1)
    }
}
