//! Tokens with their log-probabilities, as JSON.

use mistral_model::Tokenizer;
use mistral_model::generate::TokenLogProbs;
use serde::Serialize;

/// A token, how likely it was, and what else was likely.
#[derive(Debug, Serialize)]
pub(super) struct TokenReport {
    #[serde(flatten)]
    token: Likely,
    top: Vec<Likely>,
}

#[derive(Debug, Serialize)]
struct Likely {
    token: u32,
    /// As the vocabulary writes it.
    piece: Option<String>,
    /// `null` where nothing comes before.
    logprob: Option<f64>,
}

impl Likely {
    fn new(tokenizer: &Tokenizer, token: u32, logprob: Option<f64>) -> Self {
        Self { token, piece: tokenizer.piece(token).map(str::to_owned), logprob }
    }
}

impl TokenReport {
    pub(super) fn new(tokenizer: &Tokenizer, found: &TokenLogProbs) -> Self {
        let top = found.top.iter().map(|(id, log)| Likely::new(tokenizer, *id, Some(*log)));
        let token = Likely::new(tokenizer, found.token, Some(found.log_probability));
        Self { token, top: top.collect() }
    }

    /// The first token of a sequence.
    pub(super) fn first(tokenizer: &Tokenizer, token: u32) -> Self {
        Self { token: Likely::new(tokenizer, token, None), top: Vec::new() }
    }
}
