//! A model of one's own shape: shared by two threads, then taken apart and run in two halves.
//!
//! ```text
//! $ cargo run -p examples --example custom_model
//! 4 layers in 276736 bytes
//! two threads, chunks of 12 and of 5: the same bits
//! in two halves, by hand: the same bits
//! ```

use mistral_model::{
    Config, DType, ModelError, RollingKvCache, Scratch, Session, SessionOptions, Transformer,
    Window, half::f16, ndarray::Array2,
};

const TOKENS: [u32; 12] = [1, 40, 7, 99, 23, 5, 64, 81, 12, 3, 77, 50];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        dim: 64,
        n_layers: 4,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        hidden_dim: 96,
        vocab_size: 100,
        window: Window::last(8)?,
        ..Config::mistral_7b_v01()
    };
    let model = Transformer::random(&config, DType::BF16, 7)?;
    println!("{} layers in {} bytes", config.n_layers, model.bytes());

    // The model is immutable: any number of sessions borrow it, without a lock.
    let conversation = |max_chunk| -> Result<Vec<f32>, ModelError> {
        let options = SessionOptions { max_chunk, ..Default::default() };
        Ok(Session::new(&model, options)?.prefill(&TOKENS)?.to_vec())
    };
    let (whole, pieces) = std::thread::scope(|scope| {
        let pieces = scope.spawn(|| conversation(5));
        (conversation(12), pieces.join())
    });
    let whole = whole?;
    assert_eq!(whole, pieces.map_err(|_| "the thread panicked")??);
    println!("two threads, chunks of 12 and of 5: the same bits");

    // The same by hand. Each half has a cache of its own, as if it were on another machine.
    let mut scratch = Scratch::new(&config, TOKENS.len())?;
    let mut hidden = Array2::zeros((TOKENS.len(), config.dim));
    model.embed(&TOKENS, hidden.view_mut())?;
    for half in [0..2, 2..4] {
        let cache = Config { n_layers: half.len(), ..config.clone() }.cache();
        let mut cache = RollingKvCache::<f16>::new(cache.with_max_chunk(TOKENS.len()))?;
        let id = cache.add_sequence()?;
        model.forward_layers(half, hidden.view_mut(), &mut cache, id, &mut scratch)?;
    }
    let mut logits = Array2::zeros((TOKENS.len(), config.vocab_size));
    model.logits(hidden.view(), logits.view_mut(), &mut scratch)?;
    assert_eq!(logits.row(TOKENS.len() - 1).to_vec(), whole);
    println!("in two halves, by hand: the same bits");
    Ok(())
}
