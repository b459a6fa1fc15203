//! A model small enough for thousands of passes.

use mistral_model::{Config, Window};

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
