//! Models of three layers, and the bits that their texts have.

use mistral_model::{
    Config, DType, KvFormat, ModelError, Session, SessionOptions, Transformer, Window,
};
use proptest::prelude::*;

/// The window of [`windowed`].
pub(crate) const W: usize = 5;
pub(crate) const VOCAB: usize = 96;

pub(crate) fn config(window: Window) -> Config {
    Config {
        dim: 48,
        n_layers: 3,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 16,
        hidden_dim: 80,
        vocab_size: VOCAB,
        window,
        context_len: 400,
        ..Config::mistral_7b_v01()
    }
}

pub(crate) fn model(window: Window) -> Transformer {
    Transformer::random(&config(window), DType::BF16, 11).unwrap()
}

pub(crate) fn windowed() -> Transformer {
    model(Window::last(W).unwrap())
}

pub(crate) fn full() -> Transformer {
    model(Window::Full)
}

/// A model whose layers see 5 tokens, all, and 9.
pub(crate) fn mixed() -> Transformer {
    let windows = [Some(W), None, Some(9)].map(|size| Window::from_hf(size).unwrap());
    let config = Config { layer_windows: windows.to_vec(), ..config(Window::Full) };
    Transformer::random(&config, DType::BF16, 11).unwrap()
}

/// One of each kind.
pub(crate) fn models() -> impl Strategy<Value = fn() -> Transformer> {
    prop::sample::select(vec![windowed as fn() -> Transformer, full, mixed])
}

/// Tokens that repeat no pattern; another `salt` gives others.
pub(crate) fn tokens(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + i * 13 + salt * 31 + 1) % VOCAB as u32).collect()
}

pub(crate) fn options(kv_dtype: KvFormat) -> SessionOptions {
    SessionOptions { kv_dtype, max_chunk: 7, ..Default::default() }
}

pub(crate) fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// The bits after the last of some tokens, in a session that never did anything else.
pub(crate) fn fresh(model: &Transformer, tokens: &[u32], options: SessionOptions) -> Vec<u32> {
    bits(Session::new(model, options).unwrap().prefill(tokens).unwrap())
}

/// Logits after each token, row by row.
pub(crate) fn all_logits(model: &Transformer, tokens: &[u32], options: SessionOptions) -> Vec<f32> {
    let mut all = Vec::new();
    let mut session = Session::new(model, options).unwrap();
    session
        .logits_of_all(tokens, |_, logits| {
            all.extend(logits.iter());
            Ok::<(), ModelError>(())
        })
        .unwrap();
    all
}
