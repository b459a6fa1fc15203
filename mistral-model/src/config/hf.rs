//! `config.json` as the `transformers` library writes it. Its spellings stand only here.

use std::collections::BTreeMap;

use mistral_attention::Window;
use mistral_core::ops::RopeLayout;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::windows::SlidingWindow;
use super::{Config, ConfigError, ConfigProblem};

/// The library's default when the key is missing, which is not the same as `null`.
const DEFAULT_SLIDING_WINDOW: usize = 4096;
/// The library's default when the key is missing; the published 7B files all say 1e-5.
const DEFAULT_RMS_NORM_EPS: f32 = 1e-6;
/// A layer with the window.
const SLIDING: &str = "sliding_attention";
/// A layer without.
const FULL: &str = "full_attention";
const ARCHITECTURE: &str = "MistralForCausalLM";
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
const DEFAULT_CONTEXT_LEN: usize = 32_768;

#[derive(Deserialize)]
struct File {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    hidden_act: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<Value>,
    /// Outer `None`: the key is missing. Inner `None`: it is `null`.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<SlidingWindow>>,
    max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    layer_types: Option<Vec<String>>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    quantization_config: Option<Quantization>,
}

/// Where version 5 of the library keeps `rope_theta`.
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// The one kind of quantised file that is read: 8-bit integers with an f16 scale for each group
/// of 32, in the layout of the `compressed-tensors` library.
#[derive(Deserialize)]
struct Quantization {
    quant_method: Option<String>,
    format: Option<String>,
    #[serde(default)]
    config_groups: BTreeMap<String, QuantizedGroup>,
}

#[derive(Deserialize)]
struct QuantizedGroup {
    weights: Option<BTreeMap<String, Value>>,
}

/// What `weights` of every group must say.
const EIGHT_BIT: [(&str, &str); 5] = [
    ("num_bits", "8"),
    ("type", "\"int\""),
    ("symmetric", "true"),
    ("strategy", "\"group\""),
    ("group_size", "32"),
];

impl Quantization {
    fn unsupported(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        for (field, found, expected) in [
            ("quant_method", &self.quant_method, "compressed-tensors"),
            ("quantization format", &self.format, "int-quantized"),
        ] {
            let found = found.as_deref().unwrap_or("missing");
            if found != expected {
                problems.push(ConfigProblem::unfit(field, found, expected));
            }
        }
        for weights in self.config_groups.values().filter_map(|group| group.weights.as_ref()) {
            for (key, expected) in EIGHT_BIT {
                let found = weights.get(key).map_or("missing".to_owned(), Value::to_string);
                if found != expected {
                    problems.push(ConfigProblem::unfit(key, found, expected));
                }
            }
        }
        problems
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "eos_token_id is neither a token id nor a list of them")]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<SlidingWindow>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(super) fn parse(json: &str) -> Result<Config, ConfigError> {
    let file: File = serde_json::from_str(json)?;
    let mut problems = file.unsupported();
    let mut need = |key, value: Option<usize>| {
        value.unwrap_or_else(|| {
            problems.push(ConfigProblem::Missing { key });
            1
        })
    };
    let dim = need("hidden_size", file.hidden_size);
    let n_layers = need("num_hidden_layers", file.num_hidden_layers);
    let n_heads = need("num_attention_heads", file.num_attention_heads);
    let hidden_dim = need("intermediate_size", file.intermediate_size);
    let vocab_size = need("vocab_size", file.vocab_size);
    let head_dim = match file.head_dim {
        Some(head_dim) => head_dim,
        None if n_heads > 0 && dim.is_multiple_of(n_heads) => dim / n_heads,
        None => {
            let found =
                format!("missing, and hidden_size / num_attention_heads is {dim} / {n_heads}");
            problems.push(ConfigProblem::unfit("head_dim", found, "a whole number"));
            2
        }
    };
    let default = Some(SlidingWindow::One(DEFAULT_SLIDING_WINDOW));
    let sliding_window = file.sliding_window.unwrap_or(default);
    let windows = layer_windows(sliding_window, file.layer_types.as_deref(), n_layers);
    let (window, layer_windows) = windows.unwrap_or_else(|problem| {
        problems.push(problem);
        (Window::Full, Vec::new())
    });
    ConfigError::of(problems)?;
    let in_parameters = file.rope_parameters.and_then(|parameters| parameters.rope_theta);
    let config = Config {
        dim,
        n_layers,
        n_heads,
        n_kv_heads: file.num_key_value_heads.unwrap_or(n_heads),
        head_dim,
        hidden_dim,
        vocab_size,
        norm_eps: file.rms_norm_eps.unwrap_or(DEFAULT_RMS_NORM_EPS),
        rope_theta: file.rope_theta.or(in_parameters).unwrap_or(DEFAULT_ROPE_THETA),
        rope_layout: RopeLayout::HalfSplit,
        window,
        layer_windows,
        context_len: file.max_position_embeddings.unwrap_or(DEFAULT_CONTEXT_LEN),
        tied_embeddings: file.tie_word_embeddings.unwrap_or(false),
        bos_token: file.bos_token_id,
        eos_tokens: match file.eos_token_id {
            Some(OneOrMany::One(token)) => vec![token],
            Some(OneOrMany::Many(tokens)) => tokens,
            None => Vec::new(),
        },
    };
    config.validate()?;
    Ok(config)
}

/// What `sliding_window` says, for the layers of which `layer_types` says that they have it.
fn layer_windows(
    sliding_window: Option<SlidingWindow>,
    layer_types: Option<&[String]>,
    n_layers: usize,
) -> Result<(Window, Vec<Window>), ConfigProblem> {
    let unfit =
        |found: String, expected: String| ConfigProblem::unfit("layer_types", found, expected);
    let size = match (sliding_window, layer_types) {
        (None, None) => return Ok((Window::Full, Vec::new())),
        (Some(windows), None) => return windows.of_layers(n_layers),
        (None, Some(_)) => None,
        (Some(SlidingWindow::One(size)), Some(_)) => Some(size),
        (Some(SlidingWindow::Each(_)), Some(_)) => {
            let expected = "missing where sliding_window is a list".to_owned();
            return Err(unfit("given".to_owned(), expected));
        }
    };
    let layer_types = layer_types.unwrap_or_default();
    if layer_types.len() != n_layers {
        let found = format!("a list of {}", layer_types.len());
        return Err(unfit(found, format!("one for each of {n_layers} layers")));
    }
    let of = |kind: &String| match (kind.as_str(), size) {
        (FULL, _) => Ok(None),
        (SLIDING, Some(size)) => Ok(Some(size)),
        (SLIDING, None) => Err(unfit(kind.clone(), format!("{FULL}, as sliding_window is null"))),
        _ => Err(unfit(kind.clone(), format!("{SLIDING} or {FULL}"))),
    };
    let sizes = layer_types.iter().map(of).collect::<Result<_, _>>()?;
    SlidingWindow::Each(sizes).of_layers(n_layers)
}

/// `sliding_window` and `layer_types` of a configuration: a list of sizes only where there are
/// several, for the library knows of one.
fn window_keys(config: &Config) -> (Value, Value) {
    let sizes: Vec<_> = config.layer_windows.iter().map(|window| window.size()).collect();
    let mut several = sizes.iter().flatten();
    match several.next() {
        None if sizes.is_empty() => (json!(config.window.size()), Value::Null),
        None => (Value::Null, Value::Null),
        Some(size) if several.all(|other| other == size) => {
            let kinds: Vec<_> =
                sizes.iter().map(|size| if size.is_some() { SLIDING } else { FULL }).collect();
            (json!(size), json!(kinds))
        }
        Some(_) => (json!(sizes), Value::Null),
    }
}

/// The configuration as the library would read it, with nothing left to its defaults.
pub(super) fn write(config: &Config) -> String {
    let eos = match config.eos_tokens.as_slice() {
        [] => Value::Null,
        [token] => json!(token),
        tokens => json!(tokens),
    };
    let (sliding_window, layer_types) = window_keys(config);
    let mut file = json!({
        "architectures": [ARCHITECTURE],
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "sliding_window": sliding_window,
        "max_position_embeddings": config.context_len,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": config.bos_token,
        "eos_token_id": eos,
    });
    if !layer_types.is_null() {
        file["layer_types"] = layer_types;
    }
    format!("{file:#}\n")
}

impl File {
    /// Everything that would make the numbers other than those of a Mistral.
    fn unsupported(&self) -> Vec<ConfigProblem> {
        let rope_type = self.rope_parameters.as_ref().and_then(|p| p.rope_type.as_deref());
        let foreign = self.architectures.iter().flatten().find(|name| *name != ARCHITECTURE);
        let mut problems = Vec::new();
        for (field, found, expected) in [
            ("architectures", foreign.map(String::as_str), ARCHITECTURE),
            ("model_type", self.model_type.as_deref(), "mistral"),
            ("hidden_act", self.hidden_act.as_deref(), "silu"),
            ("rope_type", rope_type, "default"),
            ("attention_bias", (self.attention_bias == Some(true)).then_some("true"), "false"),
            ("mlp_bias", (self.mlp_bias == Some(true)).then_some("true"), "false"),
        ] {
            if let Some(found) = found
                && found != expected
            {
                problems.push(ConfigProblem::unfit(field, found, expected));
            }
        }
        if let Some(scaling) = &self.rope_scaling {
            problems.push(ConfigProblem::unfit("rope_scaling", scaling, "null"));
        }
        problems.extend(self.quantization_config.iter().flat_map(Quantization::unsupported));
        problems
    }
}
