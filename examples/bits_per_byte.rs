//! How well a model predicts a text: bits per byte of a file, read as one unbroken stream.
//!
//! ```text
//! $ cargo run --release -p examples --example bits_per_byte -- mistral-cli/demo/corpus/valid.txt bf16 q8_0 q4_k
//!       bf16: 1.5303 bits per byte, 8270848 bytes of weights
//!       q8_0: 1.5303 bits per byte, 4400128 bytes of weights
//!       q4_k: 1.5310 bits per byte, 2538496 bytes of weights
//! ```
//!
//! Formats may follow that the weights are rounded to, and a folder with another model. Every token
//! is predicted from those before it, the first from `<s>`; the window rolls, however long the file.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;

use mistral_model::score::{Perplexity, Reading, TextTokens};
use mistral_model::{
    Checkpoint, KvFormat, OpenOptions, Session, SessionOptions, Tokenizer, WeightFormat,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: bits_per_byte FILE [FORMAT].. [MODEL_DIR]")?;
    let (mut formats, mut folder) = (Vec::new(), PathBuf::from(DEMO));
    for argument in arguments {
        match argument.parse::<WeightFormat>() {
            Ok(format) => formats.push((format.name(), OpenOptions::new().weights(format))),
            Err(_) => folder = argument.into(),
        }
    }
    if formats.is_empty() {
        formats.push(("own format", OpenOptions::new()));
    }
    let tokenizer = Tokenizer::open(&folder)?;
    // f32 keys and values: the model is measured, not the cache.
    let options = SessionOptions { kv_dtype: KvFormat::F32, ..Default::default() };
    for (name, open) in formats {
        let model = Checkpoint::open_with(&folder, open)?.load()?;
        let mut perplexity = Perplexity::new(Session::new(&model, options)?, Reading::Stream)?;
        let mut text = TextTokens::new(&tokenizer, File::open(&file)?)?;
        while let Some(tokens) = text.next() {
            perplexity.push(&tokens?)?;
            eprint!("\r{} bytes", text.bytes());
        }
        let bits = perplexity.finish()?.bits_per_byte(text.bytes());
        println!("\r{name:>10}: {bits:.4} bits per byte, {} bytes of weights", model.bytes());
    }
    Ok(())
}
