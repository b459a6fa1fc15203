//! How well a model predicts a text: bits per byte of a file, read as one unbroken stream.
//!
//! ```text
//! $ cargo run --release -p examples --example bits_per_byte -- mistral-cli/demo/corpus/valid.txt bf16 q8_0 q4_k
//!       bf16: 1.5303 bits per byte, 8270848 bytes of weights
//!       q8_0: 1.5303 bits per byte, 4400128 bytes of weights
//!       q4_k: 1.5310 bits per byte, 2538496 bytes of weights
//! ```
//!
//! Formats may follow that the weights are rounded to, and a folder with another model. Every token is predicted from those before it, the first
//! from `<s>`; the window rolls, however long the file is.

use std::error::Error;
use std::path::PathBuf;

use mistral_model::{
    Checkpoint, KvFormat, OpenOptions, Session, SessionOptions, Tokenizer, Transformer,
    WeightFormat,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: bits_per_byte FILE [FORMAT].. [MODEL_DIR]")?;
    let (mut formats, mut folder) = (Vec::new(), PathBuf::from(DEMO));
    for argument in arguments {
        match argument.parse::<WeightFormat>() {
            Ok(format) => formats.push(Some(format)),
            Err(_) => folder = argument.into(),
        }
    }
    if formats.is_empty() {
        formats.push(None);
    }
    let text = std::fs::read_to_string(file)?;
    let tokens = Tokenizer::open(&folder)?.encode(&text)?;
    for format in formats {
        let options = match format {
            Some(format) => OpenOptions::new().weights(format),
            None => OpenOptions::new(),
        };
        let model = Checkpoint::open_with(&folder, options)?.load()?;
        let name = format.map_or("own format", WeightFormat::name);
        let (bits, weights) = (bits(&model, &tokens)? / text.len() as f64, model.bytes());
        println!("{name:>10}: {bits:.4} bits per byte, {weights} bytes of weights");
    }
    Ok(())
}

/// What the model needs to tell all tokens but the first.
fn bits(model: &Transformer, tokens: &[u32]) -> Result<f64, Box<dyn Error>> {
    let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
    // f32 keys and values: the model is measured, not the cache.
    let options = SessionOptions { kv_dtype: KvFormat::F32, ..Default::default() };
    let mut session = Session::new(model, options)?;
    let mut bits = 0.0;
    session.logits_of_all(inputs, |first, logits| -> Result<(), Box<dyn Error>> {
        for (row, &target) in logits.outer_iter().zip(&targets[first..]) {
            bits -= log2_probability(row.as_slice().unwrap_or_default(), target as usize);
        }
        eprint!("\r{} of {} tokens", first + logits.nrows(), targets.len());
        Ok(())
    })?;
    eprint!("\r");
    Ok(bits)
}

/// The logarithm of softmax for one token, in f64: the sum has thousands of terms.
fn log2_probability(logits: &[f32], target: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let above = |logit: f32| f64::from(logit) - f64::from(largest);
    let sum: f64 = logits.iter().map(|&logit| above(logit).exp()).sum();
    (above(logits[target]) - sum.ln()) / std::f64::consts::LN_2
}
