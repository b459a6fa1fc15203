//! Guesses from a smaller model.

use std::borrow::Borrow;

use super::{Drafter, pace};
use crate::error::ModelError;
use crate::generate::Sampler;
use crate::session::{Session, SessionOptions};
use crate::transformer::Transformer;

/// Guesses what a smaller model with the same vocabulary would write (arXiv:2211.17192).
///
/// It draws with the random numbers that the sampler will draw with, so that the two agree as often
/// as their distributions let them.
///
/// ```
/// # use mistral_model::{Config, DType, Sampler, Session, SessionOptions, Transformer};
/// use mistral_model::generate::DraftModel;
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// # let model = Transformer::random(&config, DType::F32, 7)?;
/// # let small = Transformer::random(&Config { n_layers: 1, ..config }, DType::F32, 8)?;
/// let options = SessionOptions { rewind_slack: 8, ..Default::default() };
/// let mut session = Session::new(&model, options)?;
/// let draft = DraftModel::new(&small, options)?;
/// let tokens = session.generate_speculative(&[1, 42], Sampler::greedy(), draft)?;
/// assert_eq!(tokens.take(20).count(), 20);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct DraftModel<M> {
    session: Session<M>,
    /// What a token of a prompt costs, in passes of this model: found out once, for it is asked for
    /// at every pass.
    row_cost: f64,
    text: Vec<u32>,
    failure: Option<ModelError>,
}

impl<M: Borrow<Transformer>> DraftModel<M> {
    /// A draft model with a session of its own. Of the options, `rewind_slack` should be the most
    /// guesses in a pass: with less the session would be read again and again.
    ///
    /// # Errors
    ///
    /// As [`Session::new`].
    pub fn new(model: M, options: SessionOptions) -> Result<Self, ModelError> {
        let session = Session::new(model, options)?;
        let row_cost = pace::row_cost(session.model());
        Ok(Self { session, row_cost, text: Vec::new(), failure: None })
    }

    /// Why it guesses no more, if it does not: its context is full, or its logits are no numbers.
    pub fn failure(&self) -> Option<&ModelError> {
        self.failure.as_ref()
    }

    /// Brings the session to the end of the text, with the logits there.
    fn catch_up(&mut self) -> Result<(), ModelError> {
        let pairs = self.session.tokens().iter().zip(&self.text);
        // The last token is always read, for its logits.
        let common =
            pairs.take_while(|(a, b)| a == b).count().min(self.text.len().saturating_sub(1));
        let guessed = self.session.position() - common;
        match self.session.rewind(guessed) {
            Err(ModelError::RewindTooFar { .. }) => self.session.reset()?,
            done => done?,
        }
        let missing = self.text.get(self.session.position()..).unwrap_or_default();
        self.session.prefill(missing)?;
        Ok(())
    }

    fn guess(
        &mut self,
        most: usize,
        sampler: &Sampler,
        drafts: &mut Vec<u32>,
    ) -> Result<(), ModelError> {
        self.catch_up()?;
        let mut sampler = sampler.clone();
        for left in (0..most).rev() {
            let token = sampler.sample(self.session.logits())?;
            drafts.push(token);
            if left > 0 {
                self.session.decode(token)?;
            }
        }
        Ok(())
    }
}

impl<M: Borrow<Transformer>> Drafter for DraftModel<M> {
    fn observe(&mut self, tokens: &[u32]) {
        self.text.extend_from_slice(tokens);
    }

    fn confidence(&mut self) -> Option<usize> {
        // Made to agree with the model: surer than a lookup's first guess.
        (self.failure.is_none() && !self.text.is_empty()).then_some(2)
    }

    fn draft(&mut self, most: usize, sampler: &Sampler, drafts: &mut Vec<u32>) {
        self.failure = self.guess(most, sampler, drafts).err();
    }

    fn vocab_size(&self) -> Option<usize> {
        Some(self.session.model().config().vocab_size)
    }

    fn cost(&self, model: &Transformer) -> f64 {
        self.session.model().bytes_read() as f64 / model.bytes_read().max(1) as f64
    }

    fn debt(&self, model: &Transformer) -> f64 {
        // All but what is read for a guess anyway. After wrong guesses a little more is missing.
        let missing = self.text.len().saturating_sub(self.session.position() + 1);
        missing as f64 * self.row_cost * self.cost(model)
    }
}
