//! `mistral perplexity`: how well a model predicts a text.

use mistral_model::SessionOptions;
use mistral_model::score::{Perplexity, Reading, TextScore, TextTokens};
use serde::Serialize;

use super::{print, print_json};
use crate::args::PerplexityArgs;
use crate::failure::Failure;
use crate::input::Stream;
use crate::model::{self, ModelSource};
use crate::progress::Progress;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    nll: f64,
    tokens: u64,
    bytes: u64,
    perplexity: f64,
    bits_per_token: f64,
    bits_per_byte: f64,
    context: Option<usize>,
    stride: Option<usize>,
}

pub(crate) fn run(args: &PerplexityArgs) -> Result<(), Failure> {
    let text = Stream::open(&args.file)?;
    let source = ModelSource::new(args.model.as_deref());
    let tokenizer = source.tokenizer(args.tokenizer.format())?;
    let checkpoint = source.checkpoint(args.compute.open.options())?;
    let reading = args.reading(checkpoint.config());
    let adapter = args.adapter.open(checkpoint.config())?;
    let model = model::load(&checkpoint)?;
    let options = SessionOptions {
        kv_dtype: args.kv_dtype,
        max_chunk: args.compute.chunk.get(),
        ..Default::default()
    };
    let mut perplexity = Perplexity::new(model::session(&model, options, adapter)?, reading)?;

    let progress = text.bytes.map(Progress::scoring);
    let name = text.name;
    let failure = |source| Failure::TextRead { name: name.clone(), source };
    let mut pieces = TextTokens::new(&tokenizer, text.reader).map_err(failure)?;
    while let Some(tokens) = pieces.next() {
        let tokens = tokens.map_err(failure)?;
        perplexity.push(&tokens)?;
        if let Some(progress) = &progress {
            progress.reached(pieces.bytes());
        }
    }
    let score = perplexity.finish()?;
    drop(progress);
    Report::new(score, pieces.bytes(), reading).show(args.json)
}

impl Report {
    fn new(score: TextScore, bytes: u64, reading: Reading) -> Self {
        let (context, stride) = match reading {
            Reading::Windows { context, stride } => (Some(context), Some(stride)),
            _ => (None, None),
        };
        Self {
            nll: score.nll,
            tokens: score.tokens,
            bytes,
            perplexity: score.perplexity(),
            bits_per_token: score.bits_per_token(),
            bits_per_byte: score.bits_per_byte(bytes),
            context,
            stride,
        }
    }

    fn show(&self, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(self);
        }
        let Self { tokens, bytes, perplexity, bits_per_token, bits_per_byte, .. } = self;
        print(&format!(
            "{tokens} tokens, {bytes} bytes\n\
             perplexity {perplexity:.4}\n\
             {bits_per_token:.4} bits per token\n\
             {bits_per_byte:.4} bits per byte\n"
        ))
    }
}
