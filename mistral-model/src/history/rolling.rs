//! Attention over a rolling buffer: the window, and the first tokens beside it.

use std::ops::Range;

use mistral_attention::Attention;
use mistral_core::kv::KvElement;
use mistral_core::ops::{Rope, RopeAngles};
use mistral_kvcache::{RollingKvCache, SequenceId};
use ndarray::{ArrayView3, ArrayViewMut3};

use super::{Heads, SequenceCache};
use crate::error::ModelError;
use crate::layer::Shared;
use crate::scratch::AttendScratch;

/// One sequence of a rolling cache.
pub(crate) struct RollingSequence<'a, E: KvElement> {
    pub(crate) cache: &'a mut RollingKvCache<E>,
    pub(crate) id: SequenceId,
}

impl<E: KvElement> SequenceCache for RollingSequence<'_, E> {
    fn position(&self) -> usize {
        self.cache.position(self.id).unwrap_or_default()
    }

    fn next_layer(&self) -> usize {
        self.cache.next_layer(self.id).unwrap_or_default()
    }

    fn attend(
        &mut self,
        layer: usize,
        angles: &RopeAngles,
        shared: Shared<'_>,
        heads: Heads<'_>,
    ) -> Result<(), ModelError> {
        let Heads { mut q, mut k, v, out, scratch } = heads;
        let start = self.position();
        let sinks = Sinks::new(self.cache.config().sinks(), shared, start..start + q.dim().0);
        if let Some(sinks) = &sinks {
            sinks.rotate(shared.rope, q.view(), scratch)?;
        }
        shared.rope.apply(q.view_mut(), angles)?;
        shared.rope.apply(k.view_mut(), angles)?;
        let step = self.cache.stage_at(self.id, layer, start, k.view(), v)?;
        let kv = step.kv()?;
        match sinks {
            None => shared.attention.call(q.view(), &kv).scratch(&scratch.attention).run(out)?,
            Some(Sinks { attention, .. }) => {
                let turned = ArrayView3::from_shape(q.dim(), &scratch.sink_queries)?;
                let call = attention.call(q.view(), &kv).sink_queries(turned);
                call.scratch(&scratch.attention).run(out)?;
            }
        }
        step.commit();
        Ok(())
    }
}

/// Attention of a session that keeps the first positions of its text (StreamingLLM,
/// arXiv:2309.17453).
///
/// Once the text is longer than `sinks + window`, a query is as far from a sink as their places in
/// a cache of that size are: no distance grows beyond what the model has seen.
struct Sinks {
    attention: Attention,
    /// Where the queries stand.
    positions: Range<usize>,
    /// The last place in such a cache.
    last: usize,
}

impl Sinks {
    /// `None` if none are kept, or nothing is ever forgotten.
    fn new(sinks: usize, shared: Shared<'_>, positions: Range<usize>) -> Option<Self> {
        let config = shared.attention.config();
        let window = config.window().size().filter(|_| sinks > 0)?;
        let last = sinks.saturating_add(window.get() - 1);
        let attention = Attention::new(config.with_sinks(sinks)).ok()?;
        Some(Self { attention, positions, last })
    }

    /// Rotates a copy of the queries.
    fn rotate(
        &self,
        rope: &Rope,
        q: ArrayView3<'_, f32>,
        scratch: &mut AttendScratch,
    ) -> Result<(), ModelError> {
        let places = self.positions.clone().map(|position| position.min(self.last));
        rope.angles_into(places, &mut scratch.sink_angles);
        scratch.sink_queries.clear();
        scratch.sink_queries.extend(q.iter());
        let copy = ArrayViewMut3::from_shape(q.dim(), &mut scratch.sink_queries)?;
        rope.apply(copy, &scratch.sink_angles)?;
        Ok(())
    }
}
