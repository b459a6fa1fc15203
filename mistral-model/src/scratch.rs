//! The memory that a forward pass writes to: allocated once, used by every layer and chunk.

use mistral_core::ops::{Activations, RopeAngles};
use ndarray::{ArrayViewMut2, ArrayViewMut3, ShapeError};

use crate::config::Config;
use crate::error::ModelError;

/// Buffers for chunks of up to a given number of tokens.
///
/// Cost: `4 * max_chunk * (2 * dim + 2 * n_heads * head_dim + 2 * n_kv_heads * head_dim +
/// 2 * hidden_dim)` bytes, 93 MB for a 7B model with chunks of 512. Quantised weights add up to
/// `2.4 * max_chunk * hidden_dim` bytes, 18 MB, the first time that they are used.
#[derive(Debug)]
pub struct Scratch {
    /// `(tokens, dim)`: the residual stream between the layers.
    pub(crate) hidden: Vec<f32>,
    /// `(tokens, dim)`: what a norm gives, and what a block adds to the residual stream.
    pub(crate) normed: Vec<f32>,
    /// `(tokens, n_heads, head_dim)`
    pub(crate) q: Vec<f32>,
    /// `(tokens, n_kv_heads, head_dim)`
    pub(crate) k: Vec<f32>,
    /// `(tokens, n_kv_heads, head_dim)`
    pub(crate) v: Vec<f32>,
    /// `(tokens, n_heads, head_dim)`
    pub(crate) attended: Vec<f32>,
    /// `(tokens, hidden_dim)`
    pub(crate) gate: Vec<f32>,
    /// `(tokens, hidden_dim)`
    pub(crate) up: Vec<f32>,
    /// The rotation of each token of the chunk.
    pub(crate) angles: RopeAngles,
    /// Inputs of a matrix, rounded to integers; empty where weights are floats.
    pub(crate) activations: Activations,
}

impl Scratch {
    /// Buffers for chunks of up to `max_chunk` tokens.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`]: there is no memory for them.
    pub fn new(config: &Config, max_chunk: usize) -> Result<Self, ModelError> {
        let q = config.n_heads * config.head_dim;
        let kv = config.n_kv_heads * config.head_dim;
        let buffer = |features: usize| {
            let out_of_memory = || ModelError::OutOfMemory { tokens: max_chunk, features };
            let n = max_chunk.checked_mul(features).ok_or_else(out_of_memory)?;
            let mut buffer = Vec::new();
            buffer.try_reserve_exact(n).map_err(|_| out_of_memory())?;
            buffer.resize(n, 0.0);
            Ok::<_, ModelError>(buffer)
        };
        Ok(Self {
            hidden: buffer(config.dim)?,
            normed: buffer(config.dim)?,
            q: buffer(q)?,
            k: buffer(kv)?,
            v: buffer(kv)?,
            attended: buffer(q)?,
            gate: buffer(config.hidden_dim)?,
            up: buffer(config.hidden_dim)?,
            angles: RopeAngles::default(),
            activations: Activations::default(),
        })
    }
}

/// The front of a buffer as `(tokens, features)`.
pub(crate) fn rows(
    buffer: &mut [f32],
    tokens: usize,
    features: usize,
) -> Result<ArrayViewMut2<'_, f32>, ShapeError> {
    let n = (tokens * features).min(buffer.len());
    ArrayViewMut2::from_shape((tokens, features), &mut buffer[..n])
}

/// The front of a buffer as `(tokens, heads, head_dim)`.
pub(crate) fn heads(
    buffer: &mut [f32],
    tokens: usize,
    heads: usize,
    head_dim: usize,
) -> Result<ArrayViewMut3<'_, f32>, ShapeError> {
    let n = (tokens * heads * head_dim).min(buffer.len());
    ArrayViewMut3::from_shape((tokens, heads, head_dim), &mut buffer[..n])
}
