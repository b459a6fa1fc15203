//! Tokens one after the other: draw, yield, decode.

use std::borrow::Borrow;
use std::iter::FusedIterator;

use super::Sampler;
use crate::error::ModelError;
use crate::session::Session;
use crate::transformer::Transformer;

/// An iterator over the tokens that a model writes.
///
/// It ends before a token that ends the sequence (`eos_tokens` of the configuration), unless told
/// to [`ignore_eos`](Self::ignore_eos), and after an error. The number of tokens is bounded with
/// `take`; dropping it cancels: nothing runs behind the caller's back. A token is appended to the
/// session when the next one is asked for, so the last one yielded is not yet part of it.
///
/// ```
/// # use mistral_model::{Config, DType, Sampler, Session, SessionOptions, Transformer};
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// # let model = Transformer::random(&config, DType::F32, 7)?;
/// let mut session = Session::new(&model, SessionOptions::default())?;
/// let tokens: Result<Vec<u32>, _> =
///     session.generate(&[1, 42], Sampler::greedy())?.ignore_eos().take(10).collect();
/// assert_eq!(tokens?.len(), 10);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
#[must_use = "an iterator does nothing until it is asked for the next item"]
pub struct Generator<'s, M> {
    session: &'s mut Session<M>,
    sampler: Sampler,
    /// Yielded, and not yet appended to the session.
    pending: Option<u32>,
    ignore_eos: bool,
    ended: bool,
}

impl<'s, M: Borrow<Transformer>> Generator<'s, M> {
    pub(crate) fn new(session: &'s mut Session<M>, sampler: Sampler) -> Self {
        Self { session, sampler, pending: None, ignore_eos: false, ended: false }
    }

    /// Goes on behind tokens that end a sequence.
    pub fn ignore_eos(mut self) -> Self {
        self.ignore_eos = true;
        self
    }

    /// The logits that the last token was drawn from.
    pub(super) fn logits(&self) -> &[f32] {
        self.session.logits()
    }

    fn step(&mut self) -> Result<Option<u32>, ModelError> {
        if let Some(token) = self.pending.take() {
            self.session.decode(token)?;
        }
        let token = self.sampler.sample(self.session.logits())?;
        let ends = self.session.model().config().eos_tokens.contains(&token);
        if ends && !self.ignore_eos {
            return Ok(None);
        }
        self.pending = Some(token);
        Ok(Some(token))
    }
}

impl<M: Borrow<Transformer>> Iterator for Generator<'_, M> {
    type Item = Result<u32, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step();
        self.ended = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

impl<M: Borrow<Transformer>> FusedIterator for Generator<'_, M> {}
