//! Texts that begin as the one before did.

use std::borrow::Borrow;

use super::Session;
use crate::error::ModelError;
use crate::transformer::Transformer;

impl<M: Borrow<Transformer>> Session<M> {
    /// Makes the sequence these `tokens`, whatever it was before, and computes only what is not
    /// there already. Returns how many of the first tokens were.
    ///
    /// This is for chats, whose whole text is made anew for each turn: what the turns have in
    /// common is kept, the rest taken back, and the new part appended. The bits are those of a
    /// fresh session. [`logits`](Self::logits) are those after the last token.
    ///
    /// Where the new text parts from the old one before the tokens that a
    /// [`rewind`](Self::rewind) can take back, all is computed again: a chat in a model with a
    /// window wants a [`rewind_slack`](super::SessionOptions::rewind_slack) of an answer's length,
    /// for answers may come back cut into other tokens. With heavy hitters nothing can be taken
    /// back, and only a longer text is cheaper; it is the result of two cuts then, not of one.
    ///
    /// ```
    /// # use mistral_model::{Config, DType, Session, SessionOptions, Transformer};
    /// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
    /// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
    /// # let model = Transformer::random(&config, DType::BF16, 7)?;
    /// let mut session = Session::new(&model, SessionOptions::default())?;
    /// assert_eq!(session.set_tokens(&[1, 2, 3, 4])?, 0);
    /// assert_eq!(session.set_tokens(&[1, 2, 3, 50, 60])?, 3);
    ///
    /// let mut fresh = Session::new(&model, SessionOptions::default())?;
    /// assert_eq!(session.logits(), fresh.prefill(&[1, 2, 3, 50, 60])?);
    /// # Ok::<(), mistral_model::ModelError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill); on those found before any work nothing is changed. A session
    /// that was [interrupted](ModelError::Interrupted) begins anew.
    ///
    /// # Cost
    ///
    /// That of the tokens which are not there, one at least unless nothing changes.
    pub fn set_tokens(&mut self, tokens: &[u32]) -> Result<usize, ModelError> {
        self.set_tokens_with(tokens, |_| {})
    }

    /// [`set_tokens`](Self::set_tokens), with a call after each chunk that gets the number of
    /// `tokens` that are there by then.
    ///
    /// # Errors
    ///
    /// As [`set_tokens`](Self::set_tokens).
    pub fn set_tokens_with(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize),
    ) -> Result<usize, ModelError> {
        self.check_after(0, tokens)?;
        if self.has_logits && self.tokens == tokens && !self.interrupted {
            return Ok(tokens.len());
        }
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last one is computed in any case, or there would be no logits.
        let there = common.min(tokens.len() - 1);
        let there = match self.rewind(self.tokens.len() - there) {
            Ok(()) => there,
            Err(_) => {
                self.reset()?;
                0
            }
        };
        self.prefill_with(&tokens[there..], |done| progress(there + done))?;
        Ok(there)
    }
}
