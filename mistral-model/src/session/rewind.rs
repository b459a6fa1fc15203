//! Tokens taken back.

use std::borrow::Borrow;

use super::Session;
use crate::error::ModelError;
use crate::transformer::Transformer;

impl<M: Borrow<Transformer>> Session<M> {
    /// Takes back the last `tokens` tokens: the session is as if they had never been appended, and
    /// what is appended next has the same bits.
    ///
    /// A text that has not outgrown the window, or has none, can return to every position. Later
    /// it can for as many tokens as [`rewind_slack`](super::SessionOptions::rewind_slack), and one
    /// more, steps back counted together; and always for all of them.
    ///
    /// There are no [`logits`](Self::logits) afterwards, until the next token is appended. That is
    /// what a speculative decoder does anyway; who wants those of the last token that is left asks
    /// [`refresh_logits`](Self::refresh_logits). Taking back nothing changes nothing.
    ///
    /// ```
    /// # use mistral_model::{Config, DType, Session, SessionOptions, Transformer};
    /// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
    /// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
    /// # let model = Transformer::random(&config, DType::BF16, 7)?;
    /// let options = SessionOptions { rewind_slack: 4, ..Default::default() };
    /// let mut session = Session::new(&model, options)?;
    /// session.prefill(&[1, 2, 3, 90, 91])?; // 90 and 91 were guessed
    /// session.rewind(2)?;
    /// assert_eq!(session.tokens(), [1, 2, 3]);
    ///
    /// let mut other = Session::new(&model, options)?;
    /// assert_eq!(session.decode(4)?, other.prefill(&[1, 2, 3, 4])?);
    /// # Ok::<(), mistral_model::ModelError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Nothing is changed then.
    ///
    /// - [`ModelError::RewindTooFar`]: the window has forgotten what the tokens that are left would
    ///   see, or there are not so many.
    /// - [`ModelError::HeavyHitters`]: a session that forgets what gets little attention.
    /// - [`ModelError::Interrupted`]: an earlier error left a chunk half done.
    ///
    /// # Cost
    ///
    /// A few numbers a layer; nothing is copied.
    pub fn rewind(&mut self, tokens: usize) -> Result<(), ModelError> {
        self.check_rewind(tokens)?;
        if tokens > 0 {
            self.cache.rewind(tokens)?;
            self.tokens.truncate(self.tokens.len() - tokens);
            self.has_logits = false;
        }
        Ok(())
    }

    /// An error if so many tokens cannot be taken back.
    pub(super) fn check_rewind(&self, tokens: usize) -> Result<(), ModelError> {
        self.check_whole()?;
        if tokens == 0 {
            return Ok(());
        }
        let position = self.position();
        let most = position.saturating_sub(self.cache.reaches_back_to()?);
        if tokens > most && tokens != position {
            return Err(ModelError::RewindTooFar { tokens, position, most });
        }
        Ok(())
    }

    /// The logits after the last token, computed again if a rewind has dropped them.
    ///
    /// # Errors
    ///
    /// - [`ModelError::EmptyPrompt`]: there is no token.
    ///
    /// And as [`rewind`](Self::rewind) and [`decode`](Self::decode), for the last token is taken
    /// back and appended again. After a rewind by `rewind_slack` tokens or fewer that can be done.
    ///
    /// # Cost
    ///
    /// A token's, if they are not there.
    pub fn refresh_logits(&mut self) -> Result<&[f32], ModelError> {
        self.check_whole()?;
        let last = *self.tokens.last().ok_or(ModelError::EmptyPrompt)?;
        if !self.has_logits {
            self.rewind(1)?;
            self.decode(last)?;
        }
        Ok(&self.logits)
    }
}
