//! A model small enough for thousands of texts.

use mistral_model::{Config, DType, Transformer, Window};

pub(crate) const VOCAB: u32 = 40;

pub(crate) fn model(window: Window, context_len: usize) -> Transformer {
    let config = Config {
        dim: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        hidden_dim: 48,
        vocab_size: VOCAB as usize,
        window,
        context_len,
        ..Config::mistral_7b_v01()
    };
    Transformer::random(&config, DType::BF16, 3).unwrap()
}
