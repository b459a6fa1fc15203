//! The model: immutable weights and the forward pass over them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mistral_attention::Attention;
use mistral_core::kv::KvElement;
use mistral_core::ops::{Rope, matmul_with, rms_norm};
use mistral_core::{Matrix, OpError};
use mistral_kvcache::{RollingKvCache, SequenceId};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};

use crate::config::Config;
use crate::error::ModelError;
use crate::history::{RollingSequence, SequenceCache, Turn};
use crate::layer::{Layer, Shared};
use crate::low_rank::{self, Addends, Run, Target};
use crate::random;
use crate::scratch::Scratch;
use crate::weights::{Adapter, Checkpoint, WeightFormats};

/// A Mistral model. Immutable and `Sync`: any number of [`Session`](crate::Session)s share one.
///
/// ```
/// use mistral_model::{Config, DType, Session, SessionOptions, Transformer};
///
/// // A model of any shape with random weights: no download.
/// let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
///     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// let model = Transformer::random(&config, DType::BF16, 7)?;
/// let mut session = Session::new(&model, SessionOptions::default())?;
/// let logits = session.prefill(&[1, 42, 5])?;
/// assert_eq!(logits.len(), 100);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Transformer {
    config: Config,
    /// That of each layer.
    attention: Vec<Attention>,
    rope: Rope,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None`: the embedding.
    output: Option<Matrix>,
}

/// What a model is put together from.
pub(crate) struct Parts {
    pub(crate) config: Config,
    /// `(vocab_size, dim)`
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Vec<f32>,
    /// `(vocab_size, dim)`; `None` if embeddings are tied.
    pub(crate) output: Option<Matrix>,
}

/// How a chunk of one sequence passes through layers.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub(crate) adapters: &'a [Arc<Adapter>],
    /// Ends the work before the next layer, once it is true.
    pub(crate) cancel: Option<&'a AtomicBool>,
    /// Of how many tokens, the last ones, the output is read.
    pub(crate) outputs: usize,
}

impl Transformer {
    /// Opens a folder with a checkpoint; see [`Checkpoint::open`] for the files it may hold.
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`]: files that are missing, damaged or do not fit each other.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, ModelError> {
        Checkpoint::open(folder)?.load()
    }

    /// Reads a checkpoint in memory: the contents of `config.json` and of `model.safetensors`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(config_json: &str, safetensors: &[u8]) -> Result<Self, ModelError> {
        Checkpoint::from_bytes(config_json, safetensors)?.load()
    }

    /// A model with random weights, the same for the same seed on every machine.
    ///
    /// Matrices keep the size of what passes through them, so that logits are of order one. Those
    /// in a block format are made of a few thousand random blocks, drawn anew for every place: to
    /// quantise 7 billion numbers would take minutes.
    ///
    /// # Errors
    ///
    /// - [`ModelError::Config`]: no model has such sizes.
    /// - [`ModelError::Matrix`]: no memory.
    pub fn random(
        config: &Config,
        formats: impl Into<WeightFormats>,
        seed: u64,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        Self::from_parts(random::parts(config, formats.into(), seed)?)
    }

    pub(crate) fn from_parts(parts: Parts) -> Result<Self, ModelError> {
        let Parts { config, embedding, layers, norm, output } = parts;
        let attention = (0..layers.len()).map(|layer| Attention::new(config.attention(layer)));
        Ok(Self {
            attention: attention.collect::<Result<_, _>>()?,
            rope: Rope::new(config.head_dim, config.rope_theta, config.rope_layout)?,
            config,
            embedding,
            layers,
            norm,
            output,
        })
    }

    /// The sizes and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of the weights that a pass over one token reads: all of them, but of the embedding, if
    /// it is not the output matrix too, a single row.
    pub fn bytes_read(&self) -> usize {
        let row = self.embedding.bytes() / self.config.vocab_size.max(1);
        match self.output {
            Some(_) => self.bytes() - self.embedding.bytes() + row,
            None => self.bytes(),
        }
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        self.embedding.bytes()
            + self.layers.iter().map(Layer::bytes).sum::<usize>()
            + size_of_val(self.norm.as_slice())
            + self.output.as_ref().map_or(0, Matrix::bytes)
    }

    /// Refuses tokens that the model does not have.
    ///
    /// # Errors
    ///
    /// [`ModelError::UnknownToken`] names the first.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.config.vocab_size;
        match tokens.iter().enumerate().find(|(_, token)| **token as usize >= vocab_size) {
            None => Ok(()),
            Some((index, &token)) => Err(ModelError::UnknownToken { token, index, vocab_size }),
        }
    }

    /// Looks up the embedding of each token: the input of layer 0.
    ///
    /// Shapes: `hidden` is `(tokens, dim)`.
    ///
    /// # Errors
    ///
    /// - [`ModelError::UnknownToken`]: a token is out of range.
    /// - [`ModelError::Op`]: `hidden` has other rows than one of `dim` for each token, or they are
    ///   not contiguous.
    pub fn embed(
        &self,
        tokens: &[u32],
        mut hidden: ArrayViewMut2<'_, f32>,
    ) -> Result<(), ModelError> {
        self.check_tokens(tokens)?;
        let (op, what) = ("embed", "tokens of hidden");
        if hidden.nrows() != tokens.len() {
            let (found, expected) = (hidden.nrows(), tokens.len());
            return Err(OpError::Shape { op, what, found, expected }.into());
        }
        for (token, row) in tokens.iter().zip(hidden.outer_iter_mut()) {
            let row = row.into_slice().ok_or(OpError::NotContiguous { op, what: "hidden" })?;
            self.embedding.row(*token as usize, row)?;
        }
        Ok(())
    }

    /// Runs some layers on the next chunk of a sequence, in place.
    ///
    /// The cache may hold all layers of the model or only those that are run here, so that a model
    /// can be spread over processes: the first of `layers` uses the cache's next layer.
    ///
    /// Shapes: `hidden` is `(tokens, dim)`.
    ///
    /// # Errors
    ///
    /// - [`ModelError::NotFinite`]: a layer gives NaN or infinity.
    /// - [`ModelError::Cache`]: the cache refuses the chunk.
    /// - [`ModelError::Shape`]: the chunk is longer than the scratch memory, or there is no such
    ///   layer.
    ///
    /// # Cost
    ///
    /// For a layer, `2 * tokens` flops for each weight and `4 * n_heads * head_dim` for each
    /// visible pair of positions.
    pub fn forward_layers<E: KvElement>(
        &self,
        layers: Range<usize>,
        hidden: ArrayViewMut2<'_, f32>,
        cache: &mut RollingKvCache<E>,
        sequence: SequenceId,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        cache.position(sequence)?;
        let mut cache = RollingSequence { cache, id: sequence };
        let chunk = Chunk { adapters: &[], cancel: None, outputs: hidden.nrows() };
        self.run_layers(chunk, layers, hidden, &mut cache, scratch)
    }

    /// [`forward_layers`](Self::forward_layers) on a sequence that is kept in any way. The last
    /// layer gives the outputs that are wanted; the rows before them are those before it.
    pub(crate) fn run_layers(
        &self,
        chunk: Chunk<'_>,
        layers: Range<usize>,
        mut hidden: ArrayViewMut2<'_, f32>,
        cache: &mut impl SequenceCache,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let (start, next) = (cache.position(), cache.next_layer());
        let chosen = self.layers.get(layers.clone()).ok_or_else(out_of_bounds)?;
        let tokens = hidden.nrows();
        // Taken out, so that the layers can borrow the buffers beside it.
        let mut angles = std::mem::take(&mut scratch.angles);
        self.rope.angles_into(start..start + tokens, &mut angles);
        let mut run = || {
            for (i, layer) in chosen.iter().enumerate() {
                if chunk.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                    return Err(ModelError::Cancelled);
                }
                let index = layers.start + i;
                let mut turn = Turn { cache: &mut *cache, layer: next + i, angles: &angles };
                let run = [Run { rows: 0..tokens, adapters: chunk.adapters }];
                layer.attend(self.shared(index, &run), hidden.view(), &mut turn, scratch)?;

                let last = i + 1 == chosen.len();
                let first = if last { tokens - chunk.outputs } else { 0 };
                let run = [Run { rows: 0..tokens - first, adapters: chunk.adapters }];
                let mut rows = hidden.slice_axis_mut(Axis(0), Slice::from(first..));
                layer.complete(self.shared(index, &run), rows.view_mut(), first, scratch)?;
                if let Some(row) = first_not_finite(rows.view()) {
                    let position = start + first + row;
                    return Err(ModelError::NotFinite { layer: index, position });
                }
            }
            Ok(())
        };
        let result = run();
        scratch.angles = angles;
        result
    }

    /// What block `layer` takes from the model, and from the adapters of the rows at hand.
    pub(crate) fn shared<'a>(&'a self, layer: usize, runs: &'a [Run<'a>]) -> Shared<'a> {
        let addends = Addends { runs, layer };
        Shared {
            config: &self.config,
            attention: &self.attention[layer],
            rope: &self.rope,
            addends,
        }
    }

    /// The rotation of queries and keys.
    pub(crate) fn rope(&self) -> &Rope {
        &self.rope
    }

    /// The embedding, and the output matrix if that is another one.
    pub(crate) fn ends(&self) -> (&Matrix, Option<&Matrix>) {
        (&self.embedding, self.output.as_ref())
    }

    /// The weights of the last norm.
    pub(crate) fn norm(&self) -> &[f32] {
        &self.norm
    }

    /// The blocks.
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Logits from the output of the last layer.
    ///
    /// Shapes: `hidden` is `(tokens, dim)`, `logits` is `(tokens, vocab_size)`.
    ///
    /// # Errors
    ///
    /// - [`ModelError::Op`]: the shapes do not fit.
    /// - [`ModelError::Shape`]: more tokens than the scratch memory has room for.
    pub fn logits(
        &self,
        hidden: ArrayView2<'_, f32>,
        logits: ArrayViewMut2<'_, f32>,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        self.adapted_logits(&[], hidden, logits, scratch)
    }

    /// [`logits`](Self::logits) with the adapters of the rows at hand.
    pub(crate) fn adapted_logits(
        &self,
        runs: &[Run<'_>],
        hidden: ArrayView2<'_, f32>,
        mut logits: ArrayViewMut2<'_, f32>,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let mut normed = scratch.normed.rows(hidden.nrows())?;
        rms_norm(hidden, &self.norm, self.config.norm_eps, normed.view_mut())?;
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        matmul_with(&mut scratch.activations, normed.view(), output, logits.view_mut())?;
        low_rank::apply(runs, Target::Output, normed.view(), logits, &mut scratch.addends)
    }
}

/// The first row with a number that is none.
pub(crate) fn first_not_finite(x: ArrayView2<'_, f32>) -> Option<usize> {
    x.outer_iter().position(|row| row.iter().any(|value| !value.is_finite()))
}

fn out_of_bounds() -> ndarray::ShapeError {
    ndarray::ShapeError::from_kind(ndarray::ErrorKind::OutOfBounds)
}
