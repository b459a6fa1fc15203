//! What the values of a GGUF header say of the model.

use std::collections::BTreeMap;

use mistral_attention::Window;
use mistral_core::ops::RopeLayout;

use super::error::GgufError;
use super::header::Header;
use super::value::Value;
use crate::config::Config;

/// What files say that leave it out.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// The key/values of one architecture.
struct Keys<'a> {
    values: &'a BTreeMap<String, Value>,
    architecture: &'a str,
    problems: Vec<GgufError>,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(&self.full(key))
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A size, if it is there; a problem if it is anything else.
    fn size(&mut self, key: &str) -> Option<usize> {
        let value = self.get(key)?;
        let size = value.unsigned().and_then(|size| usize::try_from(size).ok());
        if size.is_none() {
            self.refuse(key, value, "a whole number");
        }
        size
    }

    /// A size that must be there; otherwise a problem, and 1.
    fn need(&mut self, key: &str) -> usize {
        if self.get(key).is_none() {
            self.problems.push(GgufError::MissingKey { key: self.full(key) });
        }
        self.size(key).unwrap_or(1)
    }

    fn float(&mut self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        let float = value.float();
        if float.is_none() {
            self.refuse(key, value, "a number");
        }
        float
    }

    /// The id of a token, if it is there; a problem if it is anything else.
    fn token(&mut self, key: &str) -> Option<u32> {
        token(self.values, key).unwrap_or_else(|problem| {
            self.problems.push(problem);
            None
        })
    }

    fn refuse(&mut self, key: &str, value: &Value, expected: &'static str) {
        let (key, found) = (self.full(key), value.describe());
        self.problems.push(GgufError::Value { key, found, expected });
    }

    /// Everything that would make the numbers other than those of a Mistral.
    fn refuse_others(&mut self, head_dim: usize) {
        for key in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            if let Some(value) = self.get(key).filter(|v| v.unsigned() != Some(head_dim as u64)) {
                self.refuse(key, value, "the same for keys, values and rotation");
            }
        }
        if let Some(value) = self.get("expert_count").filter(|v| v.unsigned() != Some(0)) {
            self.refuse("expert_count", value, "0: a model without experts");
        }
        if let Some(value) = self.get("rope.scaling.type").filter(|v| v.text() != Some("none")) {
            self.refuse("rope.scaling.type", value, "\"none\"");
        }
        // The second is what older converters wrote.
        for key in ["rope.scaling.factor", "rope.scale_linear"] {
            if let Some(value) = self.get(key).filter(|v| v.float() != Some(1.0)) {
                self.refuse(key, value, "1");
            }
        }
    }
}

/// The id that a key of the tokenizer names, if the key is there.
fn token(values: &BTreeMap<String, Value>, key: &str) -> Result<Option<u32>, GgufError> {
    let key = format!("tokenizer.ggml.{key}");
    let Some(value) = values.get(&key) else { return Ok(None) };
    let id = value.unsigned().and_then(|id| u32::try_from(id).ok());
    let expected = "the id of a token, a whole number below 2^32";
    id.map(Some).ok_or_else(|| GgufError::Value { key, found: value.describe(), expected })
}

/// The configuration. The window is `None` where the file says nothing of it.
pub(in crate::weights) fn config(header: &Header) -> Result<(Config, Option<Window>), GgufError> {
    let values = &header.values;
    let key = "general.architecture";
    let value = values.get(key).ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })?;
    let architecture = value.text().filter(|name| ["llama", "mistral"].contains(name));
    let architecture = architecture.ok_or_else(|| GgufError::Value {
        key: key.to_owned(),
        found: value.describe(),
        expected: "\"llama\", which Mistral 7B is converted to",
    })?;
    let mut keys = Keys { values, architecture, problems: Vec::new() };
    let dim = keys.need("embedding_length");
    let n_heads = keys.need("attention.head_count");
    let head_dim = match keys.size("attention.key_length") {
        Some(head_dim) => head_dim,
        None => dim / n_heads.max(1),
    };
    keys.refuse_others(head_dim);
    let tokens = values.get("tokenizer.ggml.tokens").and_then(Value::texts).map(|all| all.len());
    let embedding = header.tensors.get("token_embd.weight").and_then(|info| info.shape.first());
    let vocab_size = keys.size("vocab_size").or(embedding.copied()).or(tokens);
    let window = keys.size("attention.sliding_window");
    let config = Config {
        dim,
        n_layers: keys.need("block_count"),
        n_heads,
        n_kv_heads: keys.size("attention.head_count_kv").unwrap_or(n_heads),
        head_dim,
        hidden_dim: keys.need("feed_forward_length"),
        vocab_size: vocab_size.unwrap_or(1),
        norm_eps: match keys.float("attention.layer_norm_rms_epsilon") {
            Some(eps) => eps as f32,
            None => {
                let key = keys.full("attention.layer_norm_rms_epsilon");
                keys.problems.push(GgufError::MissingKey { key });
                1.0
            }
        },
        rope_theta: keys.float("rope.freq_base").unwrap_or(DEFAULT_ROPE_THETA),
        // Converters bring the rows of q and k into the order of Mistral's own files.
        rope_layout: RopeLayout::Interleaved,
        window: Window::Full,
        layer_windows: Vec::new(),
        context_len: keys.need("context_length"),
        tied_embeddings: !header.tensors.contains_key("output.weight"),
        bos_token: keys.token("bos_token_id"),
        eos_tokens: keys.token("eos_token_id").into_iter().collect(),
    };
    GgufError::all(keys.problems)?;
    // A size of 0 says that there is none.
    let window = window.map(|size| Window::last(size).unwrap_or(Window::Full));
    Ok((config, window))
}

/// The vocabulary of a SentencePiece tokenizer.
#[cfg(feature = "tokenizer")]
pub(crate) fn pieces(header: &Header) -> Result<crate::tokenizer::SentencePieces, GgufError> {
    use crate::tokenizer::{PieceType, SentencePieces};

    let key = |key: &str| format!("tokenizer.ggml.{key}");
    let value = |name: &str| {
        let key = key(name);
        header.values.get(&key).ok_or(GgufError::MissingKey { key })
    };
    let wrong = |name: &str, found: String, expected| {
        Err(GgufError::Value { key: key(name), found, expected })
    };
    let model = header.values.get(&key("model"));
    if model.and_then(Value::text) != Some("llama") {
        return Err(GgufError::OtherTokenizer { found: model.map(Value::describe) });
    }
    let (tokens, scores, types) = (value("tokens")?, value("scores")?, value("token_type")?);
    let Some(texts) = tokens.texts() else {
        return wrong("tokens", tokens.describe(), "an array of texts");
    };
    let n = texts.len();
    let Some(numbers) = scores.numbers().filter(|scores| scores.len() == n) else {
        return wrong("scores", scores.describe(), "a number for each token");
    };
    let Some(kinds) = types.numbers().filter(|types| types.len() == n) else {
        return wrong("token_type", types.describe(), "a number for each token");
    };
    let mut pieces = Vec::new();
    for ((text, score), kind) in texts.zip(numbers).zip(kinds) {
        let known = kind.unsigned().and_then(PieceType::from_number);
        let Some(kind) = known else { return wrong("token_type", kind.describe(), "1 to 6") };
        let Some(score) = score.float().filter(|score| !score.is_nan()) else {
            return wrong("scores", score.describe(), "numbers");
        };
        pieces.push((text.to_owned(), score as f32, kind));
    }
    let flag = |name: &str, default| match header.values.get(&key(name)) {
        Some(Value::Bool(flag)) => *flag,
        _ => default,
    };
    Ok(SentencePieces {
        pieces,
        bos: token(&header.values, "bos_token_id")?,
        space_before_text: flag("add_space_prefix", true),
    })
}
