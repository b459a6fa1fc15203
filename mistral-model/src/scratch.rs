//! The memory that a forward pass writes to: allocated once, used by every layer and chunk.

use std::ops::Range;
use std::sync::Arc;

use mistral_core::ops::{Activations, RopeAngles};
use ndarray::{ArrayViewMut2, ArrayViewMut3, ShapeBuilder, ShapeError};

use crate::config::Config;
use crate::error::ModelError;
use crate::low_rank::AddendScratch;

/// Floats between the rows of a buffer: rows whose distance is a power of two share the same few
/// places of the first-level cache, which costs matmul up to a twentieth of its speed.
const PAD: usize = 16;

/// Rows of activations.
#[derive(Debug)]
pub(crate) struct Buffer {
    data: Vec<f32>,
    features: usize,
}

impl Buffer {
    fn new(tokens: usize, features: usize) -> Result<Self, ModelError> {
        let mut buffer = Self { data: Vec::new(), features };
        buffer.grow(tokens)?;
        Ok(buffer)
    }

    /// Makes room for `tokens` rows. Never shrinks.
    fn grow(&mut self, tokens: usize) -> Result<(), ModelError> {
        let padded = self.features.checked_add(PAD).and_then(|row| row.checked_mul(tokens));
        grow(&mut self.data, padded, (tokens, self.features))
    }

    /// The first rows, `(tokens, features)`.
    pub(crate) fn rows(&mut self, tokens: usize) -> Result<ArrayViewMut2<'_, f32>, ShapeError> {
        let row = self.features + PAD;
        let shape = (tokens, self.features).strides((row, 1));
        ArrayViewMut2::from_shape(shape, front(&mut self.data, tokens * row))
    }

    /// Moves some rows to where the first of them is row `to`.
    pub(crate) fn move_rows(&mut self, rows: Range<usize>, to: usize) {
        let row = self.features + PAD;
        self.data.copy_within(rows.start * row..rows.end * row, to * row);
    }

    /// The first rows, `(tokens, heads, features / heads)`.
    pub(crate) fn heads(
        &mut self,
        tokens: usize,
        heads: usize,
    ) -> Result<ArrayViewMut3<'_, f32>, ShapeError> {
        let (row, head_dim) = (self.features + PAD, self.features / heads.max(1));
        let shape = (tokens, heads, head_dim).strides((row, head_dim, 1));
        ArrayViewMut3::from_shape(shape, front(&mut self.data, tokens * row))
    }
}

/// Makes a buffer at least `n` long, for a shape to be named if there is no memory.
fn grow(
    data: &mut Vec<f32>,
    n: Option<usize>,
    (tokens, features): (usize, usize),
) -> Result<(), ModelError> {
    let out_of_memory = || ModelError::OutOfMemory { tokens, features };
    let n = n.ok_or_else(out_of_memory)?;
    if let Some(more) = n.checked_sub(data.len()) {
        data.try_reserve_exact(more).map_err(|_| out_of_memory())?;
        data.resize(n, 0.0);
    }
    Ok(())
}

/// The first `n` numbers, or as many as there are.
fn front(data: &mut [f32], n: usize) -> &mut [f32] {
    let n = n.min(data.len());
    &mut data[..n]
}

/// The memory of one layer's attention.
#[derive(Debug, Default)]
pub(crate) struct AttendScratch {
    /// Shared by sequences that attend at the same time.
    pub(crate) attention: Arc<mistral_attention::Scratch>,
    /// `(tokens, n_heads, head_dim)`: the queries that meet sinks. Empty in sessions without.
    pub(crate) sink_queries: Vec<f32>,
    pub(crate) sink_angles: RopeAngles,
    /// `(n_kv_heads, keys)`: the weight that each key got. Empty in sessions without heavy hitters.
    pub(crate) key_sums: Vec<f32>,
}

impl AttendScratch {
    /// Memory for another sequence that attends at the same time.
    pub(crate) fn beside(&self) -> Self {
        Self { attention: Arc::clone(&self.attention), ..Self::default() }
    }
}

/// Buffers for chunks of up to a given number of tokens.
///
/// Cost: `4 * max_chunk * (2 * dim + 2 * n_heads * head_dim + 2 * n_kv_heads * head_dim +
/// 2 * hidden_dim)` bytes, 93 MB for a 7B model with chunks of 512. Quantised weights add up to
/// `2.4 * max_chunk * hidden_dim` bytes, 18 MB, the first time that they are used.
#[derive(Debug)]
pub struct Scratch {
    /// `(tokens, dim)`, without padding: the residual stream between the layers.
    pub(crate) hidden: Vec<f32>,
    /// `(tokens, dim)`: what a norm gives, and what a block adds to the residual stream.
    pub(crate) normed: Buffer,
    /// `(tokens, n_heads, head_dim)`
    pub(crate) q: Buffer,
    /// `(tokens, n_kv_heads, head_dim)`
    pub(crate) k: Buffer,
    /// `(tokens, n_kv_heads, head_dim)`
    pub(crate) v: Buffer,
    /// `(tokens, n_heads, head_dim)`
    pub(crate) attended: Buffer,
    /// `(tokens, hidden_dim)`
    pub(crate) gate: Buffer,
    /// `(tokens, hidden_dim)`
    pub(crate) up: Buffer,
    /// The rotation of each token of the chunk.
    pub(crate) angles: RopeAngles,
    /// Inputs of a matrix, rounded to integers; empty where weights are floats.
    pub(crate) activations: Activations,
    /// What attention needs.
    pub(crate) attend: AttendScratch,
    /// Empty in sessions without an adapter.
    pub(crate) addends: AddendScratch,
}

impl Scratch {
    /// Buffers for chunks of up to `max_chunk` tokens.
    ///
    /// # Errors
    ///
    /// - [`ModelError::Config`]: no model has such sizes.
    /// - [`ModelError::OutOfMemory`]: there is no memory for them.
    pub fn new(config: &Config, max_chunk: usize) -> Result<Self, ModelError> {
        config.validate()?;
        let q = config.n_heads * config.head_dim;
        let kv = config.n_kv_heads * config.head_dim;
        let buffer = |features| Buffer::new(max_chunk, features);
        let mut hidden = Vec::new();
        grow(&mut hidden, config.dim.checked_mul(max_chunk), (max_chunk, config.dim))?;
        Ok(Self {
            hidden,
            normed: buffer(config.dim)?,
            q: buffer(q)?,
            k: buffer(kv)?,
            v: buffer(kv)?,
            attended: buffer(q)?,
            gate: buffer(config.hidden_dim)?,
            up: buffer(config.hidden_dim)?,
            angles: RopeAngles::default(),
            activations: Activations::default(),
            attend: AttendScratch::default(),
            addends: AddendScratch::default(),
        })
    }

    /// Makes room for chunks of `tokens` tokens. Never shrinks.
    pub(crate) fn grow(&mut self, tokens: usize) -> Result<(), ModelError> {
        let dim = self.normed.features;
        grow(&mut self.hidden, dim.checked_mul(tokens), (tokens, dim))?;
        let projections = [&mut self.q, &mut self.k, &mut self.v, &mut self.attended];
        let others = [&mut self.normed, &mut self.gate, &mut self.up];
        projections.into_iter().chain(others).try_for_each(|buffer| buffer.grow(tokens))
    }
}

/// The front of a buffer as `(tokens, features)`.
pub(crate) fn rows(
    buffer: &mut [f32],
    tokens: usize,
    features: usize,
) -> Result<ArrayViewMut2<'_, f32>, ShapeError> {
    ArrayViewMut2::from_shape((tokens, features), front(buffer, tokens * features))
}
