//! Several tokens a pass, where the next ones can be guessed (speculative decoding,
//! arXiv:2211.17192 and 2302.01318).
//!
//! A [`Drafter`] guesses what follows. One pass over the weights gives the logits after each guess,
//! hardly slower than one token alone where reading the weights is what takes time. Then tokens are
//! drawn as ever, from these logits, with the sampler of the request; as long as the token drawn is
//! the one that was guessed, the logits for the next one are there already. The rest is taken back.
//!
//! ```text
//! text so far        the king had a            guesses   daughter  and   she
//! one pass           logits after:       a     daughter  and       she
//! drawn from them    daughter ✓    and ✓    her ✗        three tokens, one pass
//! taken back         she and what followed
//! ```
//!
//! The papers accept a guess with a probability that keeps the distribution. Here a guess counts
//! only if it is what the sampler draws anyway: the same seed gives the same text, bit for bit, with
//! and without speculation, for any sampler.

mod draft_model;
mod lookup;
mod pace;

use std::borrow::Borrow;
use std::iter::FusedIterator;

pub use self::draft_model::DraftModel;
pub use self::lookup::PromptLookup;
use self::pace::Pace;
use super::Sampler;
use crate::error::ModelError;
use crate::session::Session;
use crate::transformer::Transformer;

/// Someone who guesses how a text goes on. Bad guesses cost time, and never change the text.
pub trait Drafter {
    /// Learns what was added to the text: its beginning first, then token by token.
    fn observe(&mut self, tokens: &[u32]);

    /// How much speaks for what it would guess here, from 0 to 3: experience is gathered for each
    /// by itself. `None` if it has nothing to say.
    fn confidence(&mut self) -> Option<usize>;

    /// Appends up to `most` guesses to `drafts`. `sampler` is the one that will draw: a clone of it
    /// draws with the same random numbers.
    fn draft(&mut self, most: usize, sampler: &Sampler, drafts: &mut Vec<u32>);

    /// The size of the vocabulary that guesses are from; `None` for any.
    fn vocab_size(&self) -> Option<usize> {
        None
    }

    /// What a guess costs, in passes of one token through `model`. Default: nothing.
    fn cost(&self, model: &Transformer) -> f64 {
        let _ = model;
        0.0
    }

    /// What has to be done before the next guess, in passes of one token through `model`: a draft
    /// model reads what was written without it. Default: nothing.
    fn debt(&self, model: &Transformer) -> f64 {
        let _ = model;
        0.0
    }
}

impl<D: Drafter + ?Sized> Drafter for Box<D> {
    fn observe(&mut self, tokens: &[u32]) {
        (**self).observe(tokens);
    }

    fn confidence(&mut self) -> Option<usize> {
        (**self).confidence()
    }

    fn draft(&mut self, most: usize, sampler: &Sampler, drafts: &mut Vec<u32>) {
        (**self).draft(most, sampler, drafts);
    }

    fn vocab_size(&self) -> Option<usize> {
        (**self).vocab_size()
    }

    fn cost(&self, model: &Transformer) -> f64 {
        (**self).cost(model)
    }

    fn debt(&self, model: &Transformer) -> f64 {
        (**self).debt(model)
    }
}

/// How far speculation goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeculationOptions {
    /// Most guesses in a pass. Default 8. There are never more than the session's `rewind_slack` if
    /// the model has a window, nor more than fit into its `max_chunk` beside another token.
    pub max_drafts: usize,
    /// What a guess adds to a pass of one token, in such passes, its making included; how many
    /// guesses are worth it is decided by that. Default `None`: a careful estimate from the format of
    /// the weights, between 0.2 for f32 and 0.4 for 4 bits, and [`Drafter::cost`]. It is not
    /// measured here, for then the passes, though not the text, would differ from run to run.
    pub draft_cost: Option<f64>,
    /// Most of a request's time that may be lost to guesses, as a share, if all are wrong. Default
    /// 0.03. A draft model reads the prompt before its first guess: it does not begin before that
    /// costs less than this share. With 1 a much smaller model begins at once.
    pub max_loss: f64,
}

impl Default for SpeculationOptions {
    fn default() -> Self {
        Self { max_drafts: 8, draft_cost: None, max_loss: 0.03 }
    }
}

/// What speculation has brought so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SpeculationStats {
    /// Passes over the weights.
    pub passes: usize,
    /// Guesses that were in them.
    pub drafted: usize,
    /// Guesses that were right.
    pub accepted: usize,
}

/// An iterator over the tokens that a model writes, several of them a pass where they can be
/// guessed.
///
/// Tokens, and the session afterwards, are those of a [`Generator`](super::Generator). It takes
/// care of what guesses cost: how many there are depends on how many were right so far, and if none
/// ever is, all of them together cost at most [`SpeculationOptions::max_loss`] of the time (as far as
/// [`SpeculationOptions::draft_cost`] is true).
///
/// ```
/// # use mistral_model::{Config, DType, Sampler, Session, SessionOptions, Transformer};
/// use mistral_model::generate::PromptLookup;
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// # let model = Transformer::random(&config, DType::F32, 7)?;
/// let options = SessionOptions { rewind_slack: 8, ..Default::default() };
/// let mut session = Session::new(&model, options)?;
/// let mut plain = Session::new(&model, options)?;
/// let (prompt, sampler) = ([1, 42, 5, 42, 5, 42], Sampler::greedy());
/// let tokens = session.generate_speculative(&prompt, sampler.clone(), PromptLookup::new())?;
/// let expected = plain.generate(&prompt, sampler)?;
/// assert!(tokens.take(20).map(Result::unwrap).eq(expected.take(20).map(Result::unwrap)));
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
#[must_use = "an iterator does nothing until it is asked for the next item"]
pub struct SpeculativeGenerator<'s, M: Borrow<Transformer>, D> {
    session: &'s mut Session<M>,
    sampler: Sampler,
    drafter: D,
    pace: Pace,
    max_drafts: usize,
    /// Yielded, and not yet appended to the session.
    pending: Option<u32>,
    /// Guesses at the end of the session, of which `right` were yielded.
    drafts: Vec<u32>,
    right: usize,
    /// How sure the drafter was of them.
    confidence: usize,
    /// `(1 + drafts, vocab_size)`: the logits before each guess, and after the last one.
    logits: Vec<f32>,
    stats: SpeculationStats,
    ignore_eos: bool,
    ended: bool,
}

impl<'s, M: Borrow<Transformer>, D: Drafter> SpeculativeGenerator<'s, M, D> {
    /// Goes on from where a session stands.
    ///
    /// # Errors
    ///
    /// - [`ModelError::EmptyPrompt`]: there is no token.
    /// - [`ModelError::NoRewindSlack`]: a model with a window, and a session that cannot take back
    ///   a single token.
    /// - [`ModelError::HeavyHitters`]: a session that can take back nothing.
    /// - [`ModelError::DraftVocabulary`]: a draft model with another vocabulary.
    /// - As [`Session::refresh_logits`].
    pub fn new(
        session: &'s mut Session<M>,
        sampler: Sampler,
        mut drafter: D,
        options: SpeculationOptions,
    ) -> Result<Self, ModelError> {
        session.refresh_logits()?;
        let has = session.options();
        if has.heavy_hitters.is_some() {
            return Err(ModelError::HeavyHitters { what: "speculation" });
        }
        let expected = session.model().config().vocab_size;
        if let Some(found) = drafter.vocab_size().filter(|found| *found != expected) {
            return Err(ModelError::DraftVocabulary { found, expected });
        }
        // So many that a chunk can be taken back whole, whatever goes wrong in it.
        let slack = if session.remaining().is_some() { usize::MAX } else { has.rewind_slack };
        if slack == 0 && options.max_drafts > 0 {
            return Err(ModelError::NoRewindSlack { wanted: options.max_drafts });
        }
        let max_drafts = options.max_drafts.min(slack).min(has.max_chunk.saturating_sub(1));
        drafter.observe(session.tokens());
        let model = session.model();
        let row = pace::row_cost(model);
        let draft_cost = options.draft_cost.unwrap_or_else(|| row + drafter.cost(model));
        let pace = Pace::new(draft_cost, options.max_loss, row * session.position() as f64);
        Ok(Self {
            session,
            sampler,
            drafter,
            pace,
            max_drafts,
            pending: None,
            drafts: Vec::new(),
            right: 0,
            confidence: 0,
            logits: Vec::new(),
            stats: SpeculationStats::default(),
            ignore_eos: false,
            ended: false,
        })
    }

    /// Goes on behind tokens that end a sequence.
    pub fn ignore_eos(mut self) -> Self {
        self.ignore_eos = true;
        self
    }

    /// What speculation has brought so far.
    pub fn stats(&self) -> SpeculationStats {
        self.stats
    }

    fn step(&mut self) -> Result<Option<u32>, ModelError> {
        if let Some(token) = self.pending.take() {
            self.pass(token)?;
        }
        let logits = if self.drafts.is_empty() {
            self.session.logits()
        } else {
            row(&self.logits, self.session, self.right)
        };
        let token = match self.sampler.sample(logits) {
            Ok(token) => token,
            Err(error) => {
                self.take_back(self.right)?;
                return Err(error.into());
            }
        };
        let ends = self.session.model().config().eos_tokens.contains(&token);
        if ends && !self.ignore_eos {
            self.take_back(self.right)?;
            return Ok(None);
        }
        self.drafter.observe(&[token]);
        if self.drafts.get(self.right) == Some(&token) {
            self.right += 1;
        } else {
            self.take_back(self.right)?;
            self.pending = Some(token);
        }
        Ok(Some(token))
    }

    /// Appends the pending token, and guesses behind it.
    fn pass(&mut self, token: u32) -> Result<(), ModelError> {
        self.stats.passes += 1;
        self.guess();
        if self.drafts.is_empty() {
            self.pace.note_plain();
            self.session.decode(token)?;
            return Ok(());
        }
        self.drafts.insert(0, token);
        let done = self.session.verify(&self.drafts, &mut self.logits);
        self.drafts.remove(0);
        self.stats.drafted += self.drafts.len();
        if done.is_err() {
            // A guess may be what is wrong. Alone the token tells.
            self.pace.note_drafts(self.confidence, self.drafts.len(), 0);
            self.drafts.clear();
            self.session.decode(token)?;
        }
        Ok(())
    }

    /// Asks for as many guesses as are worth it and fit.
    fn guess(&mut self) {
        let room = self.session.remaining().unwrap_or(usize::MAX).saturating_sub(1);
        let most = self.max_drafts.min(room);
        if most == 0 {
            return;
        }
        let Some(confidence) = self.drafter.confidence() else {
            return;
        };
        self.confidence = confidence;
        let debt = self.drafter.debt(self.session.model());
        let most = self.pace.drafts(confidence, most, debt);
        if most > 0 {
            self.drafter.draft(most, &self.sampler, &mut self.drafts);
            self.drafts.truncate(most);
            let vocab_size = self.session.model().config().vocab_size;
            let known = self.drafts.iter().take_while(|token| (**token as usize) < vocab_size);
            self.drafts.truncate(known.count());
        }
    }
}

impl<M: Borrow<Transformer>, D> SpeculativeGenerator<'_, M, D> {
    /// Leaves `kept` of the guesses in the session, with the logits after them.
    fn take_back(&mut self, kept: usize) -> Result<(), ModelError> {
        if self.drafts.is_empty() {
            return Ok(());
        }
        let (drafted, right) = (self.drafts.len(), self.right);
        self.stats.accepted += right;
        self.pace.note_drafts(self.confidence, drafted, right);
        self.drafts.clear();
        self.right = 0;
        self.session.rewind(drafted - kept)?;
        let logits = row(&self.logits, self.session, kept);
        self.session.note_appended(&[], Some(logits));
        Ok(())
    }
}

impl<M: Borrow<Transformer>, D: Drafter> Iterator for SpeculativeGenerator<'_, M, D> {
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

impl<M: Borrow<Transformer>, D: Drafter> FusedIterator for SpeculativeGenerator<'_, M, D> {}

impl<M: Borrow<Transformer>, D> Drop for SpeculativeGenerator<'_, M, D> {
    fn drop(&mut self) {
        // The last token yielded is no part of the session, even if it was guessed.
        if self.take_back(self.right.saturating_sub(1)).is_err() {
            self.session.interrupt();
        }
    }
}

/// One row of logits.
fn row<'l, M: Borrow<Transformer>>(
    logits: &'l [f32],
    session: &Session<M>,
    row: usize,
) -> &'l [f32] {
    let vocab_size = session.model().config().vocab_size;
    logits.chunks_exact(vocab_size).nth(row).unwrap_or_default()
}
