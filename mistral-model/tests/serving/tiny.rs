//! Models small enough for thousands of passes.

use std::fs;
use std::path::Path;

use mistral_model::{Config, Transformer, Window};

pub(crate) const VOCAB: u32 = 96;

/// Two layers, four heads over two; tests choose the rest.
pub(crate) fn config(window: Window) -> Config {
    Config {
        dim: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        hidden_dim: 96,
        vocab_size: VOCAB as usize,
        window,
        ..Config::mistral_7b_v01()
    }
}

/// The golden data's model, with an embedding of one token that is no number.
pub(crate) fn with_a_bad_token(token: usize) -> Transformer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/v01");
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let mut bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize + 8;
    let entries: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let entry = &entries["model.embed_tokens.weight"];
    assert_eq!(entry["dtype"], "F32");
    let row = 4 * entry["shape"][1].as_u64().unwrap() as usize;
    let at = header + entry["data_offsets"][0].as_u64().unwrap() as usize + token * row;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    Transformer::from_bytes(&config, &bytes).unwrap()
}
