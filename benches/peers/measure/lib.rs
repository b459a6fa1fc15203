//! What every peer is asked to do, and how it reports: the tokens, the order and the names of
//! `mistral bench --json`.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

/// An engine that holds one sequence.
pub trait Engine {
    /// Forgets the sequence.
    fn reset(&mut self);

    /// Appends at most `chunk` tokens to the sequence; the logits of the last.
    ///
    /// # Errors
    ///
    /// Whatever the engine says.
    fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Box<dyn Error>>;
}

/// What is known of a model once it is loaded.
#[derive(Debug, Clone, Serialize)]
pub struct Loaded {
    /// The engine, and the settings that make a difference.
    pub engine: String,
    pub layers: usize,
    #[serde(skip)]
    pub vocab_size: usize,
    pub weights: String,
    pub kv_dtype: &'static str,
}

/// The options of `mistral bench` that the peers share.
#[derive(Debug, Clone, Args)]
pub struct Work {
    /// GGUF file of a model with Mistral's architecture
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub prompt: usize,
    /// Tokens to decode
    #[arg(long = "gen", value_name = "N", default_value_t = 32)]
    pub generated: usize,
    /// Tokens that are in the cache before
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub depth: usize,
    /// Most prompt tokens that pass through the layers together
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub chunk: usize,
    /// Threads to compute with
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub threads: usize,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub repeat: usize,
    /// Write the logits after the prompt and after each decoded token: f32, little-endian
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    loaded: &'a Loaded,
    prompt: usize,
    #[serde(rename = "gen")]
    generated: usize,
    depth: usize,
    threads: usize,
    repeat: usize,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    load_seconds: f64,
}

impl Work {
    /// Positions that the cache needs.
    pub fn positions(&self) -> usize {
        self.depth + self.prompt + self.generated
    }

    /// Loads a model, measures it, and prints one JSON object with the medians.
    ///
    /// # Errors
    ///
    /// Whatever the engine says, and a file that cannot be written.
    pub fn run<E: Engine>(
        &self,
        load: impl FnOnce() -> Result<(E, Loaded), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        let (mut engine, loaded) = load()?;
        let load_seconds = start.elapsed().as_secs_f64();

        let text = tokens(self.depth + self.prompt, loaded.vocab_size);
        let (before, prompt) = text.split_at(self.depth);
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        let mut logits = Vec::new();
        for _ in 0..self.repeat {
            engine.reset();
            logits.clear();
            self.append(&mut engine, before)?;
            let start = Instant::now();
            let last = self.append(&mut engine, prompt)?;
            prefill.push(prompt.len() as f64 / start.elapsed().as_secs_f64());
            logits.extend(last);
            for token in tokens(self.generated, loaded.vocab_size) {
                let start = Instant::now();
                let last = engine.forward(&[token])?;
                decode.push(1.0 / start.elapsed().as_secs_f64());
                logits.extend(last);
            }
        }
        if let Some(path) = &self.logits {
            let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            fs::write(path, bytes)?;
        }
        let report = Report {
            loaded: &loaded,
            prompt: self.prompt,
            generated: self.generated,
            depth: self.depth,
            threads: self.threads,
            repeat: self.repeat,
            prefill_tokens_per_second: median(prefill),
            decode_tokens_per_second: median(decode),
            load_seconds,
        };
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    /// Appends tokens chunk by chunk; the logits of the last.
    fn append(&self, engine: &mut impl Engine, text: &[u32]) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut logits = Vec::new();
        for chunk in text.chunks(self.chunk) {
            logits = engine.forward(chunk)?;
        }
        Ok(logits)
    }
}

/// The token ids of `mistral bench`: without a pattern.
fn tokens(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % vocab_size as u32)
        .collect()
}

/// The middle value; of an even number, the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(&low), Some(&high)) => f64::midpoint(low, high),
        _ => f64::NAN,
    }
}

/// Both peers choose their kernels when they are compiled.
#[cfg(all(target_arch = "x86_64", not(target_feature = "avx2")))]
compile_error!(
    "build in this folder: its .cargo/config.toml asks for this machine's own instructions"
);
