//! The shapes of one call, checked once. Kernels trust it and hold no checks of their own.

use std::ops::Range;

use mistral_core::kv::{KvElement, KvView};

use crate::config::AttentionConfig;
use crate::error::AttentionError;

/// Where the queries of a call stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Alignment {
    /// The last query at the last position of the view, which must hold all that is seen.
    #[default]
    Last,
    /// The first query at this position; the view may hold any part of what is seen.
    PartFrom(usize),
}

/// A call whose arrays fit each other and the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    config: AttentionConfig,
    q_len: usize,
    first_position: usize,
    /// Positions in the view, without sinks before a gap.
    held: Range<usize>,
    /// The same with the sinks, if there is no gap before it.
    reach: Range<usize>,
    /// Sinks that are there, to be seen if they are not in the window.
    sinks: Range<usize>,
}

impl Plan {
    /// Checks shapes and history.
    pub(crate) fn new<E: KvElement>(
        config: &AttentionConfig,
        q: (usize, usize, usize),
        kv: &KvView<'_, E>,
        alignment: Alignment,
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
        let held = kv.positions();
        let gap = kv.sinks() < held.start;
        let reach = if kv.sinks() == held.end { 0..held.end } else { held.clone() };
        let sinks = match alignment {
            Alignment::Last => 0..config.sinks().min(kv.sinks()),
            Alignment::PartFrom(_) if gap && kv.sinks() > 0 => {
                return Err(AttentionError::PartWithGap {
                    sinks: kv.sinks(),
                    view_starts_at: held.start,
                });
            }
            Alignment::PartFrom(_) => {
                let end = config.sinks().min(reach.end);
                reach.start.min(end)..end
            }
        };
        let first_position = match alignment {
            Alignment::PartFrom(first) if first.checked_add(q_len).is_none() => {
                return Err(AttentionError::PositionOverflow { first, queries: q_len });
            }
            Alignment::PartFrom(first) => first,
            Alignment::Last if q_len > held.len() => {
                return Err(AttentionError::TooManyQueries {
                    queries: q_len,
                    positions: held.len(),
                });
            }
            Alignment::Last => held.end - q_len,
        };
        let plan = Self { config: *config, q_len, first_position, held, reach, sinks };
        if q_len > 0 && alignment == Alignment::Last {
            plan.check_history()?;
        }
        Ok(plan)
    }

    fn check_history(&self) -> Result<(), AttentionError> {
        let window = self.config.window();
        let needed_from = window.first_visible(self.first_position);
        if needed_from < self.reach.start {
            let view_starts_at = self.held.start;
            return Err(AttentionError::MissingHistory { needed_from, view_starts_at });
        }
        let last = self.first_position + self.q_len - 1;
        let needed = self.config.sinks().min(window.first_visible(last));
        if needed > self.sinks.end {
            return Err(AttentionError::MissingSinks { needed, found: self.sinks.end });
        }
        Ok(())
    }

    /// The layer's configuration.
    pub(crate) fn config(&self) -> &AttentionConfig {
        &self.config
    }

    /// Number of queries.
    pub(crate) fn q_len(&self) -> usize {
        self.q_len
    }

    /// Positions in the view, without sinks before a gap.
    pub(crate) fn held(&self) -> Range<usize> {
        self.held.clone()
    }

    /// The keys of the window that query `query` (counted from the first of the call) sees.
    #[inline(always)]
    pub(crate) fn visible(&self, query: usize) -> Range<usize> {
        let seen = self.config.window().visible(self.first_position.saturating_add(query));
        let start = seen.start.clamp(self.reach.start, self.reach.end);
        start..seen.end.clamp(start, self.reach.end)
    }

    /// The sinks that query `query` sees and that are not in its window.
    #[inline(always)]
    pub(crate) fn visible_sinks(&self, query: usize) -> Range<usize> {
        let position = self.first_position.saturating_add(query);
        let end = self.sinks.end.min(self.config.window().first_visible(position));
        self.sinks.start.min(end)..end
    }

    /// Whether query `query` sees no key at all, as may be where the view is part of a history.
    pub(crate) fn sees_nothing(&self, query: usize) -> bool {
        self.visible(query).is_empty() && self.visible_sinks(query).is_empty()
    }

    /// The keys of the window that at least one of some consecutive queries sees.
    pub(crate) fn visible_to_any(&self, queries: Range<usize>) -> Range<usize> {
        let last = queries.end.saturating_sub(1);
        self.visible(queries.start).start..self.visible(last).end
    }

    /// The sinks that at least one of some consecutive queries sees outside its window.
    pub(crate) fn sinks_of_any(&self, queries: Range<usize>) -> Range<usize> {
        self.visible_sinks(queries.end.saturating_sub(1))
    }
}
