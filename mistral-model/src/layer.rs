//! One transformer block (arXiv:2310.06825, figure 1 and table 1).
//!
//! ```text
//! h   = x + attention(norm(x))
//! out = h + feed_forward(norm(h))
//! ```

use std::ops::Range;

use mistral_attention::Attention;
use mistral_core::Matrix;
use mistral_core::ops::{Rope, add, matmul_each, matmul_with, rms_norm, swiglu};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};

use crate::config::Config;
use crate::error::ModelError;
use crate::history::{Heads, History};
use crate::low_rank::{Addends, Projection};
use crate::scratch::Scratch;

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

/// What a block takes beside its own parameters: from the model, and from adapters.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) config: &'a Config,
    pub(crate) attention: &'a Attention,
    pub(crate) rope: &'a Rope,
    pub(crate) addends: Addends<'a>,
}

impl Layer {
    /// Runs the block on the tokens of a pass, in place.
    ///
    /// Shapes: `x` is `(tokens, dim)`.
    pub(crate) fn forward(
        &self,
        shared: Shared<'_>,
        x: ArrayViewMut2<'_, f32>,
        history: &mut impl History,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        self.attend(shared, x.view(), history, scratch)?;
        self.complete(shared, x, 0, scratch)
    }

    /// The part of a block in which tokens meet: the history has them, and every one has seen what
    /// it may.
    ///
    /// `attended = attention(rope(q_proj(norm(x))), rope(k_proj(norm(x))), v_proj(norm(x)))`
    pub(crate) fn attend(
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
        history.attend(shared, heads)
    }

    /// The part of a block in which every token is by itself, so that those whose output nobody
    /// reads can be left out: `x` are some tokens, and their attention is `attended` from row
    /// `first` on.
    pub(crate) fn complete(
        &self,
        shared: Shared<'_>,
        mut x: ArrayViewMut2<'_, f32>,
        first: usize,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let tokens = x.nrows();
        if tokens == 0 {
            return Ok(());
        }
        self.project(shared, first..first + tokens, scratch)?;
        add(x.view_mut(), scratch.normed.rows(tokens)?.view())?;
        self.feed_forward(shared, x.view(), scratch)?;
        add(x, scratch.normed.rows(tokens)?.view())?;
        Ok(())
    }

    /// `normed = o_proj(attended)`, of some rows.
    fn project(
        &self,
        shared: Shared<'_>,
        tokens: Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let attended = scratch.attended.rows(tokens.end)?;
        let attended = attended.slice_axis(Axis(0), Slice::from(tokens.clone()));
        let mut normed = scratch.normed.rows(tokens.len())?;
        matmul_with(&mut scratch.activations, attended, &self.o_proj, normed.view_mut())?;
        shared.addends.apply(Projection::O, attended, normed, &mut scratch.addends)
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

    /// All matrices.
    pub(crate) fn matrices(&self) -> [&Matrix; 7] {
        [
            &self.q_proj,
            &self.k_proj,
            &self.v_proj,
            &self.o_proj,
            &self.gate_proj,
            &self.up_proj,
            &self.down_proj,
        ]
    }

    /// Bytes of the parameters in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.matrices().into_iter().map(Matrix::bytes).sum::<usize>()
            + size_of_val(self.attention_norm.as_slice())
            + size_of_val(self.feed_forward_norm.as_slice())
    }
}
