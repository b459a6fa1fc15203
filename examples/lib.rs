//! Programs that show the crates at work. Each is one file, with its command and its output on top;
//! run one with `cargo run --release -p examples --example NAME`.
//!
//! | example | crates | what it shows |
//! |---|---|---|
//! | `sliding_window` | attention | which keys each query sees, read off the attention weights |
//! | `rolling_cache` | kvcache | slots being overwritten, figure 2 of arXiv:2310.06825 |
//! | `chunked_prefill` | attention, kvcache | past, cache and current chunk, figure 3 of the same; the bits do not change |
//! | `generate` | model | text as it comes, from the demo model or a folder of your own |
//! | `custom_model` | model, kvcache | a model of any shape, shared by two threads, then cut in halves |
//! | `bits_per_byte` | model | how well a model predicts a text file, as one unbroken stream |
//! | `streaming_llm` | model | a text of 100 windows: with sinks quality and memory stay as they are |
//! | `h2o` | model | quality against the size of the cache: heavy hitters beside a window and sinks |
//! | `long_texts` | model | the table of `docs/long_texts.md`: bits per byte, memory, time |
//!
//! The package's own code is what several of them measure with.

use std::error::Error;
use std::sync::Arc;

use mistral_model::{
    Adapter, Checkpoint, ModelError, OpenOptions, Session, SessionOptions, Tokenizer, Transformer,
    Window,
};

/// The code in the repository's front page compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct FrontPage;

/// A small Mistral, trained on texts of 512 tokens with a window of 128.
pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");

/// An adapter with which it lays most of its attention on the first token, as models do that were
/// trained on whole texts.
pub const SINK_ADAPTER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/sink-adapter");

/// `<s>`, with which its texts begin.
pub const BOS: u32 = 1;

/// The beginning of a text that the model was not trained on: `<s>` and so many tokens, and how many
/// bytes of text these are.
///
/// # Errors
///
/// The demo's files are not where they should be, or the text is shorter.
pub fn unseen_text(tokens: usize) -> Result<(Vec<u32>, usize), Box<dyn Error>> {
    let text = std::fs::read_to_string(format!("{DEMO}/../corpus/valid.txt"))?;
    let tokenizer = Tokenizer::open(DEMO)?;
    let all = tokenizer.encode(&text)?;
    let part = all.get(..=tokens).ok_or("the text is shorter")?;
    Ok((part.to_vec(), tokenizer.decode(part)?.len()))
}

/// A model of the repository, with another window than its files say.
///
/// # Errors
///
/// The demo's files are not where they should be.
pub fn with_window(folder: &str, window: Window) -> Result<Transformer, Box<dyn Error>> {
    Ok(Checkpoint::open_with(folder, OpenOptions::new().window(window))?.load()?)
}

/// A session, with an adapter or without.
///
/// # Errors
///
/// As [`Session::new`] and [`Session::with_adapter`].
pub fn session<'m>(
    model: &'m Transformer,
    options: SessionOptions,
    adapter: Option<&Arc<Adapter>>,
) -> Result<Session<&'m Transformer>, Box<dyn Error>> {
    let session = Session::new(model, options)?;
    Ok(match adapter {
        Some(adapter) => session.with_adapter(Arc::clone(adapter))?,
        None => session,
    })
}

/// Bits that the model needs for each token that has one before it: `-log2 p(token)`.
///
/// The session goes on from where it stands.
///
/// # Errors
///
/// As [`Session::prefill`]: there are no tokens, or they do not fit.
pub fn bits(session: &mut Session<&Transformer>, tokens: &[u32]) -> Result<Vec<f64>, ModelError> {
    let tokens = session.log_probs_of(tokens, 0)?.into_iter().flatten();
    Ok(tokens.map(|token| -token.log_probability / std::f64::consts::LN_2).collect())
}

/// The arithmetic mean.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
