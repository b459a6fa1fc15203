//! One transformer block (arXiv:2310.06825, figure 1 and table 1).
//!
//! ```text
//! h   = x + attention(norm(x))
//! out = h + feed_forward(norm(h))
//! ```

use std::ops::Range;

use mistral_attention::Attention;
use mistral_core::Matrix;
use mistral_core::kv::KvElement;
use mistral_core::ops::{Rope, RopeAngles, add, matmul_each, matmul_with, rms_norm, swiglu};
use mistral_kvcache::{RollingKvCache, SequenceId};
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3};

use crate::config::Config;
use crate::error::ModelError;
use crate::low_rank::{Addends, Projection};
use crate::scratch::{AttendScratch, Scratch};

/// The parameters of a block. Matrices are `(outputs, inputs)`.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    /// `(n_heads * head_dim, dim)`
    pub(crate) q_proj: Matrix,
    /// `(n_kv_heads * head_dim, dim)`
    pub(crate) k_proj: Matrix,
    /// `(n_kv_heads * head_dim, dim)`
    pub(crate) v_proj: Matrix,
    /// `(dim, n_heads * head_dim)`
    pub(crate) o_proj: Matrix,
    pub(crate) feed_forward_norm: Vec<f32>,
    /// `(hidden_dim, dim)`
    pub(crate) gate_proj: Matrix,
    /// `(hidden_dim, dim)`
    pub(crate) up_proj: Matrix,
    /// `(dim, hidden_dim)`
    pub(crate) down_proj: Matrix,
}

/// What all blocks of a model share, and what adapters add to the one that runs.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) config: &'a Config,
    pub(crate) attention: &'a Attention,
    pub(crate) rope: &'a Rope,
    pub(crate) addends: Addends<'a>,
}

/// What a block hands to attention, for the tokens of one pass.
///
/// Shapes: `q` and `out` are `(tokens, n_heads, head_dim)`, `k` and `v` `(tokens, n_kv_heads,
/// head_dim)`. Queries and keys are not rotated yet.
pub(crate) struct Heads<'a> {
    pub(crate) q: ArrayViewMut3<'a, f32>,
    pub(crate) k: ArrayViewMut3<'a, f32>,
    pub(crate) v: ArrayView3<'a, f32>,
    pub(crate) out: ArrayViewMut3<'a, f32>,
    pub(crate) scratch: &'a mut AttendScratch,
}

/// Where a block's attention finds the keys and values of earlier tokens: the rest of the block
/// does not know whether its tokens belong to one sequence or to many.
pub(crate) trait History {
    /// Rotates, stages the keys and values, attends, and commits them.
    fn attend(&mut self, shared: Shared<'_>, heads: Heads<'_>) -> Result<(), ModelError>;
}

/// The next chunk of one sequence, in one layer of its cache.
pub(crate) struct CacheSlot<'a, E: KvElement> {
    pub(crate) cache: &'a mut RollingKvCache<E>,
    pub(crate) sequence: SequenceId,
    pub(crate) layer: usize,
    /// The rotation of each token of the chunk.
    pub(crate) angles: &'a RopeAngles,
}

impl<E: KvElement> History for CacheSlot<'_, E> {
    fn attend(&mut self, shared: Shared<'_>, heads: Heads<'_>) -> Result<(), ModelError> {
        let Heads { mut q, mut k, v, out, scratch } = heads;
        let start = self.cache.position(self.sequence)?;
        let sinks = Sinks::new(self.cache.config().sinks(), shared, start..start + q.dim().0);
        if let Some(sinks) = &sinks {
            sinks.rotate(shared.rope, q.view(), scratch)?;
        }
        shared.rope.apply(q.view_mut(), self.angles)?;
        shared.rope.apply(k.view_mut(), self.angles)?;
        let step = self.cache.stage(self.sequence, self.layer, k.view(), v)?;
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

impl Layer {
    /// Runs the block on the tokens of a pass, in place.
    ///
    /// Shapes: `x` is `(tokens, dim)`.
    pub(crate) fn forward(
        &self,
        shared: Shared<'_>,
        mut x: ArrayViewMut2<'_, f32>,
        history: &mut impl History,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let tokens = x.nrows();
        self.attend(shared, x.view(), history, scratch)?;
        add(x.view_mut(), scratch.normed.rows(tokens)?.view())?;
        self.feed_forward(shared, x.view(), scratch)?;
        add(x, scratch.normed.rows(tokens)?.view())?;
        Ok(())
    }

    /// `normed = o_proj(attention(rope(q_proj(norm(x))), rope(k_proj(norm(x))), v_proj(norm(x))))`
    fn attend(
        &self,
        shared: Shared<'_>,
        x: ArrayView2<'_, f32>,
        history: &mut impl History,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let config = shared.config;
        let n = x.nrows();
        let mut normed = scratch.normed.rows(n)?;
        rms_norm(x, &self.attention_norm, config.norm_eps, normed.view_mut())?;
        let projections = [
            (&self.q_proj, scratch.q.rows(n)?),
            (&self.k_proj, scratch.k.rows(n)?),
            (&self.v_proj, scratch.v.rows(n)?),
        ];
        matmul_each(&mut scratch.activations, normed.view(), projections)?;
        let (addends, memory) = (shared.addends, &mut scratch.addends);
        addends.apply(Projection::Q, normed.view(), scratch.q.rows(n)?, memory)?;
        addends.apply(Projection::K, normed.view(), scratch.k.rows(n)?, memory)?;
        addends.apply(Projection::V, normed.view(), scratch.v.rows(n)?, memory)?;
        let v = scratch.v.heads(n, config.n_kv_heads)?;
        let heads = Heads {
            q: scratch.q.heads(n, config.n_heads)?,
            k: scratch.k.heads(n, config.n_kv_heads)?,
            v: v.view(),
            out: scratch.attended.heads(n, config.n_heads)?,
            scratch: &mut scratch.attend,
        };
        history.attend(shared, heads)?;
        let attended = scratch.attended.rows(n)?;
        let activations = &mut scratch.activations;
        matmul_with(activations, attended.view(), &self.o_proj, normed.view_mut())?;
        addends.apply(Projection::O, attended.view(), normed, &mut scratch.addends)
    }

    /// `normed = down_proj(silu(gate_proj(norm(x))) * up_proj(norm(x)))`
    fn feed_forward(
        &self,
        shared: Shared<'_>,
        x: ArrayView2<'_, f32>,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let config = shared.config;
        let n = x.nrows();
        let mut normed = scratch.normed.rows(n)?;
        let mut gate = scratch.gate.rows(n)?;
        let mut up = scratch.up.rows(n)?;
        rms_norm(x, &self.feed_forward_norm, config.norm_eps, normed.view_mut())?;
        let activations = &mut scratch.activations;
        let projections = [(&self.gate_proj, gate.view_mut()), (&self.up_proj, up.view_mut())];
        matmul_each(activations, normed.view(), projections)?;
        let (addends, memory) = (shared.addends, &mut scratch.addends);
        addends.apply(Projection::Gate, normed.view(), gate.view_mut(), memory)?;
        addends.apply(Projection::Up, normed.view(), up.view_mut(), memory)?;
        swiglu(gate.view_mut(), up.view())?;
        matmul_with(activations, gate.view(), &self.down_proj, normed.view_mut())?;
        addends.apply(Projection::Down, gate.view(), normed, memory)
    }

    /// Bytes of the parameters in memory.
    pub(crate) fn bytes(&self) -> usize {
        let matrices = [
            &self.q_proj,
            &self.k_proj,
            &self.v_proj,
            &self.o_proj,
            &self.gate_proj,
            &self.up_proj,
            &self.down_proj,
        ];
        matrices.into_iter().map(Matrix::bytes).sum::<usize>()
            + size_of_val(self.attention_norm.as_slice())
            + size_of_val(self.feed_forward_norm.as_slice())
    }
}
