//! Attention over what was attended to most (H2O, arXiv:2306.14048).

use mistral_attention::{Attention, Window};
use mistral_core::kv::KvElement;
use mistral_core::ops::RopeAngles;
use mistral_kvcache::HeavyHitterCache;
use ndarray::ArrayViewMut2;

use super::{Heads, SequenceCache};
use crate::error::ModelError;
use crate::layer::Shared;

impl<E: KvElement> SequenceCache for HeavyHitterCache<E> {
    fn position(&self) -> usize {
        HeavyHitterCache::position(self)
    }

    fn next_layer(&self) -> usize {
        HeavyHitterCache::next_layer(self)
    }

    fn attend(
        &mut self,
        layer: usize,
        angles: &RopeAngles,
        shared: Shared<'_>,
        heads: Heads<'_>,
    ) -> Result<(), ModelError> {
        let Heads { mut q, mut k, v, out, scratch } = heads;
        shared.rope.apply(q.view_mut(), angles)?;
        shared.rope.apply(k.view_mut(), angles)?;
        let step = self.stage(layer, k.view(), v)?;
        let kv = step.kv()?;
        let shape = (shared.config.n_kv_heads, kv.positions().len());
        scratch.key_sums.clear();
        scratch.key_sums.resize(shape.0 * shape.1, 0.0);
        let mut sums = ArrayViewMut2::from_shape(shape, &mut scratch.key_sums)?;
        // The view counts slots, not positions, and all that is kept is to be seen.
        let attention = Attention::new(shared.attention.config().with_window(Window::Full))?;
        let call = attention.call(q.view(), &kv).key_sums(sums.view_mut());
        call.scratch(&scratch.attention).run(out)?;
        step.commit(sums.view())?;
        Ok(())
    }
}
