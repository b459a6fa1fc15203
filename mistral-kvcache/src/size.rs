//! How large one layer of a sequence is, and how many bytes slots take.

use std::num::NonZeroUsize;

use mistral_core::half::{bf16, f16};
use mistral_core::kv::{Int8, KvElement, KvFormat, KvPage, PAGE, PANEL};

use crate::error::CacheError;
use crate::ring::Ring;

/// What one layer keeps of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerSize {
    /// Tokens that a query sees, its own included; all there may be if nothing is forgotten.
    pub(crate) window: NonZeroUsize,
    /// Which slots hold them, and those of the slack.
    pub(crate) ring: Ring,
    /// Whether nothing is forgotten, so that slots are added as tokens come.
    pub(crate) grows: bool,
    /// First positions that are pinned beside the ring; 0 where nothing is forgotten.
    pub(crate) sinks: usize,
    /// Most tokens of the sequence, whichever layer may not forget any.
    pub(crate) limit: Option<usize>,
}

impl LayerSize {
    /// Slots of the ring when the sequence has had `tokens`.
    pub(crate) fn slots_for(&self, tokens: usize) -> usize {
        if self.grows {
            tokens.div_ceil(PAGE).saturating_mul(PAGE).min(self.ring.slots())
        } else {
            self.ring.slots()
        }
    }

    /// Slots of the pinned positions.
    pub(crate) fn sink_slots(&self) -> Result<usize, CacheError> {
        self.sinks.checked_next_multiple_of(PANEL).ok_or(CacheError::SizeOverflow)
    }

    /// Bytes of such a layer when the sequence has had `tokens`.
    pub(crate) fn bytes(
        &self,
        format: KvFormat,
        heads: (usize, usize),
        tokens: usize,
    ) -> Result<usize, CacheError> {
        slot_bytes(format, heads, self.slots_for(tokens))?
            .checked_add(slot_bytes(format, heads, self.sink_slots()?)?)
            .ok_or(CacheError::SizeOverflow)
    }
}

/// Slots of a chunk of up to `max_chunk` tokens: its first one may lie in any slot of a panel.
pub(crate) fn chunk_slots(max_chunk: usize) -> Result<usize, CacheError> {
    max_chunk
        .checked_add(PANEL - 1)
        .and_then(|slots| slots.checked_next_multiple_of(PANEL))
        .ok_or(CacheError::SizeOverflow)
}

/// Bytes of the keys and values of `slots` slots, a multiple of sixteen.
pub(crate) fn slot_bytes(
    format: KvFormat,
    (n_kv_heads, head_dim): (usize, usize),
    slots: usize,
) -> Result<usize, CacheError> {
    fn bytes<E: KvElement>(n_kv_heads: usize, slots: usize, head_dim: usize) -> Option<usize> {
        KvPage::<E>::bytes_for(n_kv_heads, slots, head_dim)
    }
    let bytes = match format {
        KvFormat::F32 => bytes::<f32>,
        KvFormat::F16 => bytes::<f16>,
        KvFormat::BF16 => bytes::<bf16>,
        KvFormat::Int8 => bytes::<Int8>,
        _ => return Err(CacheError::UnknownFormat { format }),
    };
    bytes(n_kv_heads, slots, head_dim).ok_or(CacheError::SizeOverflow)
}
