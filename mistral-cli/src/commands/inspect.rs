//! `mistral inspect`: what a model is, and what it needs.

use std::fmt::{self, Display};

use indicatif::BinaryBytes;
use mistral_model::{Config, ConfigError, ModelError, SessionOptions, WeightFormat, Window};
use serde::Serialize;

use super::{print, print_json};
use crate::args::InspectArgs;
use crate::failure::Failure;
use crate::memory;
use crate::model::ModelSource;

/// Everything that is shown, and the JSON of it.
#[derive(Serialize)]
struct Report {
    config: Sizes,
    tensors: Vec<Tensor>,
    memory: Memory,
}

/// A [`Config`], field by field.
#[derive(Serialize)]
struct Sizes {
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    hidden_dim: usize,
    vocab_size: usize,
    norm_eps: f32,
    rope_theta: f64,
    rope_layout: String,
    /// `null`: no window.
    window: Option<usize>,
    /// Of each layer, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer_windows: Option<Vec<Option<usize>>>,
    context_len: usize,
    tied_embeddings: bool,
    bos_token: Option<u32>,
    eos_tokens: Vec<u32>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    format: String,
    shape: Vec<usize>,
    offset: u64,
    bytes: u64,
}

/// Bytes.
#[derive(Serialize)]
struct Memory {
    weights: u64,
    cache: u64,
    cache_tokens: usize,
    kv_dtype: &'static str,
    total: u64,
    /// `null` where the system does not tell.
    available: Option<u64>,
    fits: Option<bool>,
}

pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let report = report(args)?;
    if args.json { print_json(&report) } else { print(&report.to_string()) }
}

fn report(args: &InspectArgs) -> Result<Report, Failure> {
    if let Some(preset) = args.preset {
        let config = preset.config();
        let config = match args.open.window {
            Some(window) => Config { window: window.0, ..config },
            None => config,
        };
        let format = args.open.weights.unwrap_or(WeightFormat::BF16);
        let weights = config.weight_bytes(format).unwrap_or(usize::MAX);
        let memory = memory(args, &config, weights)?;
        return Ok(Report { config: sizes(config), tensors: Vec::new(), memory });
    }
    let source = ModelSource::new(args.model.as_deref());
    let checkpoint = source.checkpoint(args.open.options())?;
    let config = checkpoint.config().clone();
    let memory = memory(args, &config, checkpoint.weight_bytes().unwrap_or(usize::MAX))?;
    let tensors = checkpoint.tensors().map(|(name, info)| Tensor {
        name: name.to_owned(),
        format: info.stored.to_string(),
        shape: info.shape.clone(),
        offset: info.offset,
        bytes: info.bytes,
    });
    Ok(Report { config: sizes(config), tensors: tensors.collect(), memory })
}

fn sizes(config: Config) -> Sizes {
    let size = |window: Window| window.size().map(usize::from);
    Sizes {
        dim: config.dim,
        n_layers: config.n_layers,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        hidden_dim: config.hidden_dim,
        vocab_size: config.vocab_size,
        norm_eps: config.norm_eps,
        rope_theta: config.rope_theta,
        rope_layout: format!("{:?}", config.rope_layout),
        window: size(config.window),
        layer_windows: Some(config.layer_windows)
            .filter(|windows| !windows.is_empty())
            .map(|windows| windows.into_iter().map(size).collect()),
        context_len: config.context_len,
        tied_embeddings: config.tied_embeddings,
        bos_token: config.bos_token,
        eos_tokens: config.eos_tokens,
    }
}

fn memory(args: &InspectArgs, config: &Config, weights: usize) -> Result<Memory, Failure> {
    let cache_tokens = args.length.unwrap_or(config.context_len);
    let options = SessionOptions {
        kv_dtype: args.kv_dtype,
        max_chunk: args.chunk.get().min(cache_tokens.max(1)),
        sinks: args.sinks,
        ..SessionOptions::default()
    };
    let cache = options.cache_bytes(config, cache_tokens).map_err(|error| match error {
        // A length that the model does not have was asked for.
        ModelError::Cache { source } => Failure::from(ConfigError::Cache { source }),
        other => other.into(),
    })? as u64;
    let weights = weights as u64;
    let total = weights.saturating_add(cache);
    let available = memory::available();
    Ok(Memory {
        weights,
        cache,
        cache_tokens,
        kv_dtype: args.kv_dtype.name(),
        total,
        available,
        fits: available.map(|available| total <= available),
    })
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "configuration\n{}", self.config)?;
        if !self.tensors.is_empty() {
            let count = self.tensors.len();
            writeln!(f, "{count} tensors: format, shape, first byte in the file, name")?;
            for Tensor { name, format, shape, offset, .. } in &self.tensors {
                let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
                writeln!(f, "  {format:<12}{shape:>14}{offset:>14}  {name}")?;
            }
            writeln!(f)?;
        }
        let Memory { cache_tokens, kv_dtype, .. } = self.memory;
        writeln!(f, "memory in bytes, with a cache for {cache_tokens} tokens in {kv_dtype}")?;
        self.memory.fmt(f)
    }
}

impl Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn Display| writeln!(f, "  {name:<17}{value}");
        line("dim", &self.dim)?;
        line("n_layers", &self.n_layers)?;
        line("n_heads", &self.n_heads)?;
        line("n_kv_heads", &self.n_kv_heads)?;
        line("head_dim", &self.head_dim)?;
        line("hidden_dim", &self.hidden_dim)?;
        line("vocab_size", &self.vocab_size)?;
        line("norm_eps", &self.norm_eps)?;
        line("rope_theta", &self.rope_theta)?;
        line("rope_layout", &self.rope_layout)?;
        let name = |window: &Option<usize>| {
            window.map_or_else(|| "none".to_owned(), |window| window.to_string())
        };
        match &self.layer_windows {
            None => line("window", &name(&self.window))?,
            Some(each) => {
                let each: Vec<String> = each.iter().map(name).collect();
                line("windows", &each.join(", "))?;
            }
        }
        line("context_len", &self.context_len)?;
        line("tied_embeddings", &self.tied_embeddings)?;
        match self.bos_token {
            Some(token) => line("bos_token", &token)?,
            None => line("bos_token", &"none")?,
        }
        line("eos_tokens", &format!("{:?}", self.eos_tokens))
    }
}

impl Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line =
            |name: &str, bytes: u64| writeln!(f, "  {name:<19}{bytes:>16}  {}", BinaryBytes(bytes));
        line("weights", self.weights)?;
        line("cache", self.cache)?;
        line("total", self.total)?;
        match self.available {
            Some(available) => line("available", available)?,
            None => writeln!(f, "  {:<19}{:>16}", "available", "unknown")?,
        }
        let fits = match self.fits {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        writeln!(f, "  {:<19}{fits:>16}", "fits")
    }
}
