//! Mistral's own `params.json`.

use mistral_attention::Window;
use mistral_core::ops::RopeLayout;
use serde::Deserialize;
use serde_json::Value;

use super::windows::SlidingWindow;
use super::{Config, ConfigError, ConfigProblem};

const DEFAULT_CONTEXT_LEN: usize = 32_768;

#[derive(Deserialize)]
struct File {
    dim: Option<usize>,
    n_layers: Option<usize>,
    head_dim: Option<usize>,
    hidden_dim: Option<usize>,
    n_heads: Option<usize>,
    n_kv_heads: Option<usize>,
    norm_eps: Option<f32>,
    vocab_size: Option<usize>,
    rope_theta: Option<f64>,
    sliding_window: Option<SlidingWindow>,
    #[serde(rename = "_sliding_window")]
    private_sliding_window: Option<SlidingWindow>,
    max_seq_len: Option<usize>,
    tied_embeddings: Option<bool>,
    moe: Option<Value>,
    quantization: Option<Value>,
    vision_encoder: Option<Value>,
}

pub(super) fn parse(json: &str) -> Result<Config, ConfigError> {
    let file: File = serde_json::from_str(json)?;
    let mut problems = Vec::new();
    for (key, value) in [
        ("moe", &file.moe),
        ("quantization", &file.quantization),
        ("vision_encoder", &file.vision_encoder),
    ] {
        if let Some(found) = value {
            problems.push(ConfigProblem::unfit(key, found, "nothing: it is not supported"));
        }
    }
    let mut need = |key, value: Option<usize>| {
        value.unwrap_or_else(|| {
            problems.push(ConfigProblem::Missing { key });
            2
        })
    };
    let dim = need("dim", file.dim);
    let n_layers = need("n_layers", file.n_layers);
    let n_heads = need("n_heads", file.n_heads);
    let n_kv_heads = need("n_kv_heads", file.n_kv_heads);
    let head_dim = need("head_dim", file.head_dim);
    let hidden_dim = need("hidden_dim", file.hidden_dim);
    let vocab_size = need("vocab_size", file.vocab_size);
    if file.norm_eps.is_none() {
        problems.push(ConfigProblem::Missing { key: "norm_eps" });
    }
    let windows = file.sliding_window.or(file.private_sliding_window);
    let windows = windows.map_or(Ok((Window::Full, Vec::new())), |w| w.of_layers(n_layers));
    let (window, layer_windows) = windows.unwrap_or_else(|problem| {
        problems.push(problem);
        (Window::Full, Vec::new())
    });
    ConfigError::of(problems)?;
    let full = window == Window::Full && layer_windows.is_empty();
    let default_theta = if full { 1e6 } else { 1e4 };
    let config = Config {
        dim,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        hidden_dim,
        vocab_size,
        norm_eps: file.norm_eps.unwrap_or_default(),
        rope_theta: file.rope_theta.unwrap_or(default_theta),
        rope_layout: RopeLayout::Interleaved,
        window,
        layer_windows,
        context_len: file.max_seq_len.unwrap_or(DEFAULT_CONTEXT_LEN),
        tied_embeddings: file.tied_embeddings.unwrap_or(false),
        // The file names no tokens: these are those of every tokenizer that Mistral has published.
        bos_token: Some(1),
        eos_tokens: vec![2],
    };
    config.validate()?;
    Ok(config)
}
