//! The shapes of one call, checked once. Kernels trust it and hold no checks of their own.

use std::ops::Range;

use mistral_core::Element;
use mistral_core::kv::KvView;

use crate::config::AttentionConfig;
use crate::error::AttentionError;

/// A call whose arrays fit each other and the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    config: AttentionConfig,
    q_len: usize,
    first_position: usize,
}

impl Plan {
    /// Checks shapes and history. The last query stands at the last position of the view.
    pub(crate) fn new<E: Element>(
        config: &AttentionConfig,
        q: (usize, usize, usize),
        kv: &KvView<'_, E>,
    ) -> Result<Self, AttentionError> {
        let (q_len, n_heads, head_dim) = q;
        if (n_heads, head_dim) != (config.n_heads(), config.head_dim()) {
            return Err(AttentionError::QueryShape {
                found: (n_heads, head_dim),
                expected: (config.n_heads(), config.head_dim()),
            });
        }
        if (kv.n_kv_heads(), kv.head_dim()) != (config.n_kv_heads(), config.head_dim()) {
            return Err(AttentionError::KvShape {
                found: (kv.n_kv_heads(), kv.head_dim()),
                expected: (config.n_kv_heads(), config.head_dim()),
            });
        }
        let positions = kv.positions();
        if q_len > positions.len() {
            return Err(AttentionError::TooManyQueries {
                queries: q_len,
                positions: positions.len(),
            });
        }
        let first_position = positions.end - q_len;
        let needed_from = config.window().first_visible(first_position);
        if q_len > 0 && needed_from < positions.start {
            return Err(AttentionError::MissingHistory {
                needed_from,
                view_starts_at: positions.start,
            });
        }
        Ok(Self { config: *config, q_len, first_position })
    }

    /// The layer's configuration.
    pub(crate) fn config(&self) -> &AttentionConfig {
        &self.config
    }

    /// Number of queries.
    pub(crate) fn q_len(&self) -> usize {
        self.q_len
    }

    /// The keys that query `query` (counted from the first of the call) sees.
    #[inline(always)]
    pub(crate) fn visible(&self, query: usize) -> Range<usize> {
        self.config.window().visible(self.first_position + query)
    }

    /// The keys that at least one of some consecutive queries sees.
    pub(crate) fn visible_to_any(&self, queries: Range<usize>) -> Range<usize> {
        let last = queries.end.saturating_sub(1);
        self.visible(queries.start).start..self.visible(last).end
    }
}
