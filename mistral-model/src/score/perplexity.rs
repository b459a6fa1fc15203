//! Perplexity of a text of any length.

use std::borrow::Borrow;

use super::error::ScoreError;
use crate::error::ModelError;
use crate::probability::{Distribution, TokenScore};
use crate::session::Session;
use crate::transformer::Transformer;

/// How a text that may be longer than a model's context is read.
///
/// Both score every token of the text but the first, once. They differ in what a token is
/// predicted from:
///
/// ```text
/// Stream                       0 1 2 3 4 5 6 7 8 9     one sequence: a token sees whatever the
///                                ^ ^ ^ ^ ^ ^ ^ ^ ^     model's window shows it
///
/// Windows, context 6, stride 2 0 1 2 3 4 5             each a sequence of its own, from position 0
///                                ^ ^ ^ ^ ^
///                                  2 3 4 5 6 7
///                                          ^ ^         (^: scored)
///                                      4 5 6 7 8 9
///                                              ^ ^
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// As one unbroken sequence, every token read once. What a model with a sliding window is made
    /// for: its rolling cache keeps memory constant, and no token lacks context because a window
    /// began just before it. A model without a window takes no text longer than its context.
    Stream,
    /// In overlapping windows, as models without a sliding window need it and as is usual for
    /// comparing them (Hugging Face's guide "Perplexity of fixed-length models").
    ///
    /// Every window is a sequence of its own. A token is predicted from at least
    /// `context - stride` others, apart from those in the first window. With
    /// `context = n + 1` and `stride = n` windows share one token, as in the rolling likelihood of
    /// EleutherAI's harness.
    Windows {
        /// Tokens of a window; the last one is only predicted, and not read.
        context: usize,
        /// Tokens from the start of a window to the start of the next, less than `context`. A
        /// small stride gives more context and takes longer: each token is read
        /// `context / stride` times.
        stride: usize,
    },
}

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextScore {
    /// The negative logarithm of the text's probability, in nats: the sum over all scored tokens,
    /// added in their order.
    pub nll: f64,
    /// Tokens scored: all but the first.
    pub tokens: u64,
}

impl TextScore {
    /// `exp(nll / tokens)`: between how many tokens the model seemed to choose each time.
    pub fn perplexity(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }

    /// Bits that a token takes on average.
    pub fn bits_per_token(&self) -> f64 {
        self.bits() / self.tokens as f64
    }

    /// Bits that a byte of the text takes on average. Unlike the others it compares models with
    /// different vocabularies.
    ///
    /// `bytes` are those of the text in UTF-8. If its first token begins a sequence (`<s>`), every
    /// byte belongs to a scored token.
    pub fn bits_per_byte(&self, bytes: u64) -> f64 {
        self.bits() / bytes as f64
    }

    fn bits(&self) -> f64 {
        self.nll / std::f64::consts::LN_2
    }

    fn push(&mut self, score: TokenScore) {
        self.nll -= score.log_probability;
        self.tokens += 1;
    }
}

/// Scores a text that comes in pieces.
///
/// Between two pieces the caller may look at [`so_far`](Self::so_far) or stop. How the text is cut
/// into pieces, the session's `max_chunk` and the number of threads change no bit.
///
/// Memory: the session's, which in a stream has 4 bytes for each token; a logit for each token of a
/// chunk and id of the vocabulary; and the tokens of a chunk or a window.
///
/// ```
/// # use mistral_model::{Config, DType, Session, SessionOptions, Transformer};
/// use mistral_model::score::{Perplexity, Reading};
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// let model = Transformer::random(&config, DType::F32, 7)?;
/// let session = Session::new(&model, SessionOptions::default())?;
/// let reading = Reading::Windows { context: 6, stride: 2 };
/// let mut perplexity = Perplexity::new(session, reading)?;
/// for piece in [&[1, 9, 8][..], &[7, 6, 5, 4, 3]] {
///     perplexity.push(piece)?;
/// }
/// let score = perplexity.finish()?;
/// assert_eq!(score.tokens, 7);
/// assert!((score.perplexity().log2() - score.bits_per_token()).abs() < 1e-12);
/// # Ok::<(), mistral_model::score::ScoreError>(())
/// ```
#[derive(Debug)]
pub struct Perplexity<M> {
    session: Session<M>,
    reading: Reading,
    /// Tokens that are still needed: of the next chunk, or of the next window.
    held: Vec<u32>,
    /// How many of `held` are not to be scored: context, or the text's first token.
    known: usize,
    /// Tokens pushed.
    tokens: usize,
    score: TextScore,
    /// An error came in between.
    broken: bool,
}

impl<M: Borrow<Transformer>> Perplexity<M> {
    /// Nothing read yet. The session's tokens are forgotten.
    ///
    /// # Errors
    ///
    /// - [`ScoreError::Stride`]: no stride, or one that would leave out tokens.
    /// - [`ScoreError::WindowTooLong`]: more than a model without a window can take.
    pub fn new(mut session: Session<M>, reading: Reading) -> Result<Self, ScoreError> {
        session.reset()?;
        if let Reading::Windows { context, stride } = reading {
            if stride == 0 || stride >= context {
                return Err(ScoreError::Stride { context, stride });
            }
            let longest = session.remaining().map(|room| room.saturating_add(1));
            if let Some(longest) = longest.filter(|longest| context > *longest) {
                return Err(ScoreError::WindowTooLong { context, longest });
            }
        }
        let score = TextScore { nll: 0.0, tokens: 0 };
        Ok(Self { session, reading, held: Vec::new(), known: 1, tokens: 0, score, broken: false })
    }

    /// Reads on, and scores what can be scored already.
    ///
    /// # Errors
    ///
    /// - [`ScoreError::Model`]: a token that the model does not have, before any work; or NaN or
    ///   infinity.
    /// - [`ScoreError::StreamTooLong`]: one stream, and no room for it.
    /// - [`ScoreError::Broken`]: an earlier call failed.
    pub fn push(&mut self, mut tokens: &[u32]) -> Result<(), ScoreError> {
        if self.broken {
            return Err(ScoreError::Broken);
        }
        self.session.model().check_tokens(tokens)?;
        self.tokens = self.tokens.saturating_add(tokens.len());
        let full = self.full();
        while !tokens.is_empty() {
            let room = full.saturating_sub(self.held.len()).min(tokens.len());
            let (now, later) = tokens.split_at(room);
            self.held.extend_from_slice(now);
            tokens = later;
            if self.held.len() == full {
                self.score_held()?;
            }
        }
        Ok(())
    }

    /// What is scored so far: some tokens less than were pushed.
    pub fn so_far(&self) -> TextScore {
        self.score
    }

    /// The text has ended: scores the rest.
    ///
    /// # Errors
    ///
    /// - [`ScoreError::TextTooShort`]: not two tokens in all.
    /// - All of [`push`](Self::push).
    pub fn finish(mut self) -> Result<TextScore, ScoreError> {
        if self.broken {
            return Err(ScoreError::Broken);
        }
        if self.tokens < 2 {
            return Err(ScoreError::TextTooShort { tokens: self.tokens });
        }
        if self.held.len() > self.known {
            self.score_held()?;
        }
        Ok(self.score)
    }

    /// Tokens that are scored in one go.
    fn full(&self) -> usize {
        match self.reading {
            // A chunk, and the token that comes after it.
            Reading::Stream => self.session.options().max_chunk.saturating_add(1),
            Reading::Windows { context, .. } => context,
        }
    }

    /// Scores the tokens held but those known, and keeps what the next ones need.
    fn score_held(&mut self) -> Result<(), ScoreError> {
        self.broken = true;
        let inputs = self.held.len() - 1;
        let (session, score) = (&mut self.session, &mut self.score);
        let kept = match self.reading {
            Reading::Stream => {
                if session.remaining().is_some_and(|room| inputs > room) {
                    let longest = session.model().config().context_len.saturating_add(1);
                    return Err(ScoreError::StreamTooLong { longest });
                }
                1
            }
            Reading::Windows { context, stride } => {
                session.reset()?;
                context - stride
            }
        };
        // The last known token is read together with those to score: after it comes the first.
        let (context, rest) = self.held.split_at(self.known - 1);
        if !context.is_empty() {
            session.prefill(context)?;
        }
        let targets = &rest[1..];
        session.logits_of_all(&rest[..targets.len()], |first, logits| {
            for (row, &target) in logits.outer_iter().zip(&targets[first..]) {
                score.push(Distribution::of(row.to_slice().unwrap_or_default()).score(target));
            }
            Ok::<(), ModelError>(())
        })?;
        self.held.drain(..self.held.len().saturating_sub(kept));
        self.known = kept;
        self.broken = false;
        Ok(())
    }
}
