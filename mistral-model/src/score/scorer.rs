//! The likelihoods of many continuations, batched, with what they share computed once.

use std::borrow::Borrow;

use super::error::{RequestError, ScoreError};
use super::likelihood::LogLikelihood;
use super::pair::TokenPair;
use super::tree::{Line, Tree};
use crate::batch::Batch;
use crate::session::Session;
use crate::transformer::Transformer;

/// Sequences that are read together unless [`Scorer::at_once`] says otherwise.
const AT_ONCE: usize = 16;

/// Gives the log-likelihood of continuations.
///
/// Requests are put in the order of their tokens, and read as a tree: whatever several begin with
/// (the examples before a question, the question before its choices) passes through the model once,
/// then the sequence forks. Choices of a single token cost nothing beyond their question. Branches
/// are read together, up to [`at_once`](Self::at_once) of them and the session's `max_chunk` tokens
/// in each pass over the weights.
///
/// ```text
///     requests             read as
///     <s> a b | c d        <s> a b ──┬── c      d: scored with what comes after c
///     <s> a b | c e                  │          e: the same
///     <s> a b | f g                  └── f      g
/// ```
///
/// No figure depends, in any bit, on the other requests, on the size of chunks or on threads.
///
/// ```
/// # use mistral_model::{Config, DType, Session, SessionOptions, Transformer};
/// use mistral_model::score::{Scorer, TokenPair};
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// let model = Transformer::random(&config, DType::F32, 7)?;
/// let pair = |continuation: &[u32]| TokenPair {
///     context: vec![1, 9, 8],
///     continuation: continuation.to_vec(),
/// };
/// let mut scorer = Scorer::new(Session::new(&model, SessionOptions::default())?)?;
/// let scores = scorer.log_likelihoods(&[pair(&[5, 6]), pair(&[5]), pair(&[7, 6, 5])])?;
/// assert_eq!(scores[0].per_token[0], scores[1].sum);
/// assert_eq!(scores[2], scorer.log_likelihoods(&[pair(&[7, 6, 5])])?[0]);
/// # Ok::<(), mistral_model::score::ScoreError>(())
/// ```
#[derive(Debug)]
pub struct Scorer<M> {
    /// Without a token: every sequence begins as a fork of it.
    root: Session<M>,
    at_once: usize,
}

impl<M: Borrow<Transformer> + Clone> Scorer<M> {
    /// Scores with sessions like this one, whose tokens are forgotten.
    ///
    /// # Errors
    ///
    /// [`ScoreError::Model`]: all of [`Session::reset`].
    pub fn new(mut session: Session<M>) -> Result<Self, ScoreError> {
        session.reset()?;
        Ok(Self { root: session, at_once: AT_ONCE })
    }

    /// Reads at most so many sequences together; at least 1, by default 16. More are faster where
    /// they are short; each takes the memory of its keys and values. It changes no bit.
    #[must_use]
    pub fn at_once(self, sequences: usize) -> Self {
        Self { at_once: sequences.max(1), ..self }
    }

    /// The log-likelihood of each continuation after its context, in the order of the requests.
    ///
    /// # Errors
    ///
    /// - [`ScoreError::Request`]: what [`check`](Self::check) finds, before any work; or NaN or
    ///   infinity.
    /// - [`ScoreError::Model`]: no memory; or sessions that cannot be forked.
    ///
    /// # Cost
    ///
    /// A prefill of the tokens in the tree of all requests.
    pub fn log_likelihoods(
        &mut self,
        requests: &[TokenPair],
    ) -> Result<Vec<LogLikelihood>, ScoreError> {
        let lines = self.lines(requests)?;
        let mut tree = Tree::new(&lines, self.root.fork_at(0)?);
        let mut batch = Batch::new(self.root.model(), self.root.options().max_chunk)?;
        while tree.grow(self.at_once)? {
            tree.pass(&mut batch)?;
        }
        Ok(tree.into_scores())
    }

    /// Most tokens of context and continuation together; `None` for a model with a window.
    ///
    /// One more than the context of the model, for the last token is scored and not read.
    pub fn longest(&self) -> Option<usize> {
        self.root.remaining().map(|room| room.saturating_add(1))
    }

    /// Finds everything that can be wrong with a request before any work is done.
    ///
    /// # Errors
    ///
    /// - [`RequestError::EmptyContext`], [`RequestError::EmptyContinuation`]: nothing before, or
    ///   nothing to score.
    /// - [`RequestError::TooLong`]: more than a model without a window can take.
    /// - [`RequestError::Model`]: a token that the model does not have.
    pub fn check(&self, request: &TokenPair) -> Result<(), RequestError> {
        if request.context.is_empty() {
            return Err(RequestError::EmptyContext);
        }
        if request.continuation.is_empty() {
            return Err(RequestError::EmptyContinuation);
        }
        let tokens = request.len();
        if let Some(longest) = self.longest().filter(|longest| tokens > *longest) {
            return Err(RequestError::TooLong { tokens, longest });
        }
        let model = self.root.model();
        model.check_tokens(&request.context)?;
        Ok(model.check_tokens(&request.continuation)?)
    }

    /// The requests in the order of their tokens, checked.
    fn lines(&self, requests: &[TokenPair]) -> Result<Vec<Line>, ScoreError> {
        let mut lines = Vec::with_capacity(requests.len());
        for (index, pair) in requests.iter().enumerate() {
            self.check(pair).map_err(|source| ScoreError::Request { index, source })?;
            let tokens = [pair.context.as_slice(), &pair.continuation].concat();
            lines.push(Line { tokens, context: pair.context.len(), index });
        }
        lines.sort_by(|a, b| a.inputs().cmp(b.inputs()));
        Ok(lines)
    }
}
