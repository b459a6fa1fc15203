//! How well a model predicts a text: bits per byte of a file, read as one unbroken stream.
//!
//! ```text
//! $ cargo run --release -p examples --example bits_per_byte -- mistral-cli/demo/corpus/valid.txt
//! 1.5303 bits per byte (102928 bytes, 29965 tokens)
//! ```
//!
//! A folder with another model may follow. Every token is predicted from those before it, the first
//! from `<s>`; the window rolls, however long the file is.

use std::error::Error;
use std::path::PathBuf;

use mistral_model::{DType, Session, SessionOptions, Tokenizer, Transformer};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let file = arguments.next().ok_or("usage: bits_per_byte FILE [MODEL_DIR]")?;
    let folder = arguments.next().map_or(PathBuf::from(DEMO), PathBuf::from);
    let text = std::fs::read_to_string(file)?;
    let tokens = Tokenizer::open(&folder)?.encode(&text)?;
    let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
    let model = Transformer::open(&folder)?;
    // f32 keys and values: the model is measured, not the cache.
    let options = SessionOptions { kv_dtype: DType::F32, ..Default::default() };
    let mut session = Session::new(&model, options)?;

    let mut bits = 0.0;
    session.logits_of_all(inputs, |first, logits| -> Result<(), Box<dyn Error>> {
        for (row, &target) in logits.outer_iter().zip(&targets[first..]) {
            bits -= log2_probability(row.as_slice().unwrap_or_default(), target as usize);
        }
        eprint!("\r{} of {} tokens", first + logits.nrows(), targets.len());
        Ok(())
    })?;
    eprintln!();
    let (bytes, n) = (text.len(), targets.len());
    println!("{:.4} bits per byte ({bytes} bytes, {n} tokens)", bits / bytes as f64);
    Ok(())
}

/// The logarithm of softmax for one token, in f64: the sum has thousands of terms.
fn log2_probability(logits: &[f32], target: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let above = |logit: f32| f64::from(logit) - f64::from(largest);
    let sum: f64 = logits.iter().map(|&logit| above(logit).exp()).sum();
    (above(logits[target]) - sum.ln()) / std::f64::consts::LN_2
}
