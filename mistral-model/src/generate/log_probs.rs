//! Log-probabilities: how likely each token was, and which were the likeliest.
//!
//! `ln p(t) = l_t - ln Σ_j e^(l_j)`, of the logits `l` as the model gave them: no temperature, no
//! penalty, no filter. So they say what the model holds for likely, and not how it was sampled.

use std::borrow::Borrow;
use std::iter::FusedIterator;

use super::error::SamplerError;
use super::generator::Generator;
use crate::error::ModelError;
use crate::probability::Distribution;
use crate::session::Session;
use crate::transformer::Transformer;

/// A token with its log-probability and those of the likeliest tokens in its place.
///
/// ```
/// use mistral_model::generate::TokenLogProbs;
///
/// // Odds of 1 : 3 : 4.
/// let logits = [0.0, 3f32.ln(), 4f32.ln()];
/// let found = TokenLogProbs::new(&logits, 1, 2)?;
/// assert!((found.log_probability - (3.0f64 / 8.0).ln()).abs() < 1e-6);
/// assert_eq!(found.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 1]);
/// # Ok::<(), mistral_model::generate::SamplerError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TokenLogProbs {
    /// The token.
    pub token: u32,
    /// Its natural logarithm of probability: 0 is certain.
    pub log_probability: f64,
    /// The likeliest tokens with their log-probabilities, likeliest first; of equal ones the lower
    /// id first. The token itself is among them only if it belongs there.
    pub top: Vec<(u32, f64)>,
}

impl TokenLogProbs {
    /// The log-probability of `token`, and of the `top` likeliest tokens, after logits as the model
    /// gave them. `top` may be 0, or more than there are tokens.
    ///
    /// The sum runs in f64, in the order of ids, with the largest logit taken out of the exponents:
    /// no logit overflows or loses another.
    ///
    /// # Errors
    ///
    /// - [`SamplerError::NoLogits`], [`SamplerError::TooManyLogits`], [`SamplerError::NotFinite`]:
    ///   as in [`Sampler::sample`](super::Sampler::sample).
    /// - [`SamplerError::UnknownToken`]: the token has no logit.
    ///
    /// # Cost
    ///
    /// An exponential for each token of the vocabulary; with alternatives, 4 bytes for each as well.
    pub fn new(logits: &[f32], token: u32, top: usize) -> Result<Self, SamplerError> {
        super::sampler::likeliest(logits)?;
        if token as usize >= logits.len() {
            return Err(SamplerError::UnknownToken { token, vocab_size: logits.len() });
        }
        let all = Distribution::of(logits);
        let log_probability = |token| all.score(token).log_probability;
        let top = likeliest_ids(logits, top).into_iter().map(|id| (id, log_probability(id)));
        Ok(Self { token, log_probability: log_probability(token), top: top.collect() })
    }
}

/// The ids of the `n` largest logits, largest first, of equal ones the lower id first.
fn likeliest_ids(logits: &[f32], n: usize) -> Vec<u32> {
    if n == 0 {
        return Vec::new();
    }
    // With zero added, -0 becomes 0 and the total order the numeric one.
    let key = |id: &u32| logits[*id as usize] + 0.0;
    let order = |a: &u32, b: &u32| key(b).total_cmp(&key(a)).then(a.cmp(b));
    let mut ids: Vec<u32> = (0u32..).zip(logits).map(|(id, _)| id).collect();
    if n < ids.len() {
        ids.select_nth_unstable_by(n, order);
        ids.truncate(n);
    }
    ids.sort_unstable_by(order);
    ids
}

/// A [`Generator`] that tells how likely each of its tokens was.
///
/// ```
/// # use mistral_model::{Config, DType, Sampler, Session, SessionOptions, Transformer};
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// # let model = Transformer::random(&config, DType::F32, 7)?;
/// let mut session = Session::new(&model, SessionOptions::default())?;
/// let tokens = session.generate(&[1, 42], Sampler::greedy())?.ignore_eos().log_probs(5);
/// for token in tokens.take(3) {
///     let token = token?;
///     assert_eq!(token.top.len(), 5);
///     assert_eq!(token.top[0], (token.token, token.log_probability)); // greedy: the likeliest
/// }
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
#[must_use = "an iterator does nothing until it is asked for the next item"]
pub struct WithLogProbs<'s, M> {
    generator: Generator<'s, M>,
    top: usize,
}

impl<'s, M: Borrow<Transformer>> Generator<'s, M> {
    /// Yields each token with its log-probability and those of the `top` likeliest. Without a call
    /// of this, none of it is computed.
    pub fn log_probs(self, top: usize) -> WithLogProbs<'s, M> {
        WithLogProbs { generator: self, top }
    }
}

impl<M: Borrow<Transformer>> Iterator for WithLogProbs<'_, M> {
    type Item = Result<TokenLogProbs, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        let token = self.generator.next()?;
        // The token is appended with the next one: these are still the logits it was drawn from.
        Some(
            token.and_then(|token| {
                Ok(TokenLogProbs::new(self.generator.logits(), token, self.top)?)
            }),
        )
    }
}

impl<M: Borrow<Transformer>> FusedIterator for WithLogProbs<'_, M> {}

impl<M: Borrow<Transformer>> Session<M> {
    /// Appends tokens, as [`prefill`](Self::prefill), and tells how likely each of them was, with
    /// the `top` likeliest in its place.
    ///
    /// The first token of a sequence has nothing before it: `None`. Where the session holds tokens
    /// already, all have a log-probability.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    ///
    /// # Cost
    ///
    /// The logits of every token, one chunk of them in memory: `max_chunk * vocab_size` numbers.
    pub fn log_probs_of(
        &mut self,
        tokens: &[u32],
        top: usize,
    ) -> Result<Vec<Option<TokenLogProbs>>, ModelError> {
        self.check(tokens)?;
        let first = match self.position() {
            0 => None,
            _ => Some(TokenLogProbs::new(self.refresh_logits()?, tokens[0], top)?),
        };
        let mut all = vec![first];
        self.logits_of_all(tokens, |start, logits| -> Result<(), ModelError> {
            // The logits after a token are those that the next one is judged by.
            for (row, &next) in logits.rows().into_iter().zip(&tokens[start + 1..]) {
                let row = row.to_slice().unwrap_or_default();
                all.push(Some(TokenLogProbs::new(row, next, top)?));
            }
            Ok(())
        })?;
        Ok(all)
    }
}
