//! What a model is: sizes, window, rotation. Read from either form of `config.json`, from
//! `params.json`, or named by a preset.

mod error;
mod hf;
mod params;
mod windows;

use mistral_attention::{AttentionConfig, Window};
use mistral_core::DType;
use mistral_core::kv::KvFormat;
use mistral_core::ops::RopeLayout;
use mistral_kvcache::{CacheConfig, CacheError};

pub(crate) use error::list;
pub use error::{ConfigError, ConfigProblem};

/// Most layers a configuration may ask for: far beyond any model, and small enough that a hostile
/// file cannot make us list tensors for ever.
const MOST_LAYERS: usize = 4096;

/// The sizes and constants of a model. Plain data: build one by hand for a model of your own.
///
/// ```
/// use mistral_model::{Config, DType};
///
/// let config = Config::mistral_7b_v01();
/// assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim), (32, 8, 128));
/// // The rolling buffer of section 2 of the paper: 8 times less than a full cache at 32k tokens.
/// let rolling = config.cache_bytes(DType::F16, 32768)?;
/// let full = Config { window: mistral_model::Window::Full, ..config }.cache_bytes(DType::F16, 32768)?;
/// assert_eq!(full, 8 * rolling);
/// # Ok::<(), mistral_model::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub dim: usize,
    /// Number of transformer blocks.
    pub n_layers: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements in one head. `n_heads * head_dim` need not be `dim`.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub hidden_dim: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Base of the rotation frequencies.
    pub rope_theta: f64,
    /// The order of the rows of `q_proj` and `k_proj`: it belongs to the weights.
    pub rope_layout: RopeLayout,
    /// Which positions a token sees, if all layers see the same.
    pub window: Window,
    /// Which positions a token sees in each layer in turn, where they differ. Empty: in all of them
    /// what `window` says, which otherwise is not used.
    pub layer_windows: Vec<Window>,
    /// Most tokens in a sequence without a window, or with one that is longer than this.
    pub context_len: usize,
    /// Whether the output matrix is the embedding.
    pub tied_embeddings: bool,
    /// The token that begins a sequence.
    pub bos_token: Option<u32>,
    /// Tokens that end a generated text.
    pub eos_tokens: Vec<u32>,
}

impl Config {
    /// Mistral 7B v0.1 (arXiv:2310.06825, table 1): a window of 4096 tokens, vocabulary 32000.
    pub fn mistral_7b_v01() -> Self {
        Self {
            dim: 4096,
            n_layers: 32,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            hidden_dim: 14336,
            vocab_size: 32000,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_layout: RopeLayout::HalfSplit,
            window: Window::from_flash_left(4095),
            layer_windows: Vec::new(),
            context_len: 32768,
            tied_embeddings: false,
            bos_token: Some(1),
            eos_tokens: vec![2],
        }
    }

    /// Mistral 7B v0.2: no window, 32k tokens, theta 10^6.
    pub fn mistral_7b_v02() -> Self {
        Self { rope_theta: 1e6, window: Window::Full, ..Self::mistral_7b_v01() }
    }

    /// Mistral 7B v0.3: as v0.2, with a vocabulary of 32768 (control pieces for tools).
    pub fn mistral_7b_v03() -> Self {
        Self { vocab_size: 32768, ..Self::mistral_7b_v02() }
    }

    /// Reads a `config.json` of the `transformers` library: the form of the published 7B files or
    /// that of its version 5.
    ///
    /// A missing `sliding_window` means 4096, the library's default; `null` means none. With
    /// `layer_types` it is that of the layers with `sliding_attention`. It may be a list, too. A missing
    /// `rms_norm_eps` means 1e-6, a missing or null `head_dim` `hidden_size / num_attention_heads`.
    ///
    /// # Errors
    ///
    /// - [`ConfigError::Json`]: not JSON, or a value of the wrong type.
    /// - [`ConfigError::Invalid`]: everything that is missing, contradictory or not supported.
    pub fn from_hf_json(json: &str) -> Result<Self, ConfigError> {
        hf::parse(json)
    }

    /// Writes a `config.json` that [`from_hf_json`](Self::from_hf_json) reads back to the same
    /// configuration, but for [`rope_layout`](Self::rope_layout), which belongs to the weights, and
    /// for a [`window`](Self::window) that is not used.
    pub fn to_hf_json(&self) -> String {
        hf::write(self)
    }

    /// Reads Mistral's own `params.json`.
    ///
    /// A missing `rope_theta` means 10^4 if there is a window and 10^6 if there is none: that is
    /// what the published files that lack it need. `sliding_window` may be a list with a window for
    /// each layer, `null` for none, that begins anew where it ends.
    ///
    /// # Errors
    ///
    /// As [`from_hf_json`](Self::from_hf_json).
    pub fn from_params_json(json: &str) -> Result<Self, ConfigError> {
        params::parse(json)
    }

    /// Checks that the sizes fit each other.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] lists everything that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        for (field, value) in [
            ("dim", self.dim),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("hidden_dim", self.hidden_dim),
            ("vocab_size", self.vocab_size),
            ("context_len", self.context_len),
        ] {
            if value == 0 {
                problems.push(ConfigProblem::unfit(field, "0", "at least 1"));
            }
        }
        if self.n_kv_heads > 0 && !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let found = format!("{} query heads over {}", self.n_heads, self.n_kv_heads);
            problems.push(ConfigProblem::unfit("n_kv_heads", found, "a divisor of n_heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            problems.push(ConfigProblem::unfit("head_dim", self.head_dim, "an even number"));
        }
        if self.n_layers > MOST_LAYERS {
            let expected = format!("at most {MOST_LAYERS}");
            problems.push(ConfigProblem::unfit("n_layers", self.n_layers, expected));
        }
        if !(self.layer_windows.is_empty() || self.layer_windows.len() == self.n_layers) {
            let expected = format!("none, or one for each of {} layers", self.n_layers);
            let found = format!("a list of {}", self.layer_windows.len());
            problems.push(ConfigProblem::unfit("layer_windows", found, expected));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            let found = self.norm_eps;
            problems.push(ConfigProblem::unfit("norm_eps", found, "a finite number, at least 0"));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            let found = self.rope_theta;
            problems.push(ConfigProblem::unfit("rope_theta", found, "a finite number above 0"));
        }
        for (field, token) in self
            .bos_token
            .iter()
            .map(|token| ("bos_token", *token))
            .chain(self.eos_tokens.iter().map(|token| ("eos_tokens", *token)))
        {
            if token as usize >= self.vocab_size {
                let expected = format!("below vocab_size, {}", self.vocab_size);
                problems.push(ConfigProblem::unfit(field, token, expected));
            }
        }
        if problems.is_empty() && self.weight_bytes(DType::F32).is_none() {
            problems.push(ConfigProblem::unfit("sizes", "weights beyond usize", "less"));
        }
        ConfigError::of(problems)
    }

    /// Bytes of the keys and values of one sequence of `tokens`, stored in a format.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Cache`]: such a cache cannot be; a windowless model has too short a context.
    pub fn cache_bytes(
        &self,
        format: impl Into<KvFormat>,
        tokens: usize,
    ) -> Result<usize, ConfigError> {
        self.cache()
            .sequence_bytes(format, tokens)
            .map_err(|source: CacheError| ConfigError::Cache { source })
    }

    /// The cache that this model needs.
    pub fn cache(&self) -> CacheConfig {
        let cache = CacheConfig::new(self.n_layers, self.n_kv_heads, self.head_dim)
            .with_context_len(self.context_len);
        let size = |window: Window| window.size().map(usize::from);
        match size(self.window) {
            _ if !self.layer_windows.is_empty() => {
                cache.with_windows(self.layer_windows.iter().copied().map(size).collect())
            }
            Some(window) => cache.with_window(window),
            None => cache,
        }
    }

    /// Which positions a token sees in a layer.
    pub fn window_of(&self, layer: usize) -> Window {
        self.layer_windows.get(layer).copied().unwrap_or(self.window)
    }

    /// The attention that a layer of this model needs.
    pub fn attention(&self, layer: usize) -> AttentionConfig {
        let window = self.window_of(layer);
        AttentionConfig::new(self.n_heads, self.n_kv_heads, self.head_dim).with_window(window)
    }
}

#[cfg(test)]
mod tests;
