//! Many sequences, one pass over the weights.
//!
//! Decoding one token is bound by reading the weights; with a token of each of several sequences
//! they are read once for all. A pass takes any number of tokens of each: the next token of some, a
//! piece of the prompt of others, drafts of what may follow to be verified. A sequence's logits
//! have the same bits alone and in any company.
//!
//! [`Batch`] is one pass; who takes part in which pass is [`Scheduler`](crate::Scheduler)'s matter.

mod pass;

use std::borrow::Borrow;
use std::ops::Range;
use std::slice;

use mistral_core::ops::RopeAngles;
use mistral_core::threads;
use ndarray::ArrayView2;

use self::pass::{Buffers, Member, forward};
use crate::error::ModelError;
use crate::low_rank::Run;
use crate::scratch::{AttendScratch, Scratch};
use crate::session::Session;
use crate::transformer::Transformer;

/// What one session does in a pass.
#[derive(Debug)]
pub struct Turn<'s, M> {
    /// Whose turn it is.
    pub session: &'s mut Session<M>,
    /// The tokens to append, at least one and at most the session's `max_chunk`.
    pub tokens: &'s [u32],
    /// After which of them logits are wanted.
    pub logits: LogitsOf,
}

/// After which tokens of a turn logits are computed: each costs a row of the output matrix, and of
/// the last layer's feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogitsOf {
    /// None, within a prompt.
    Nothing,
    /// The last one.
    Last,
    /// All of them, to verify drafts or to score a text.
    All,
}

impl LogitsOf {
    fn rows(self, tokens: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Last => tokens.min(1),
            Self::All => tokens,
        }
    }
}

/// The memory for taking several sessions of one model through the layers together.
///
/// ```
/// # use mistral_model::{Config, WeightFormat, Session, SessionOptions, Transformer};
/// use mistral_model::{Batch, LogitsOf, Turn};
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// let model = Transformer::random(&config, WeightFormat::Q8_0, 7)?;
/// let mut writer = Session::new(&model, SessionOptions::default())?;
/// let mut reader = Session::new(&model, SessionOptions::default())?;
/// let mut alone = Session::new(&model, SessionOptions::default())?;
///
/// // One decodes a token while the other reads its prompt.
/// let mut batch = Batch::new(&model, 16)?;
/// let outcomes = batch.forward(&mut [
///     Turn { session: &mut writer, tokens: &[5], logits: LogitsOf::Last },
///     Turn { session: &mut reader, tokens: &[1, 2, 3], logits: LogitsOf::All },
/// ])?;
/// assert_eq!(outcomes[0].as_ref().unwrap().dim(), (1, 100));
/// assert_eq!(outcomes[1].as_ref().unwrap().dim(), (3, 100));
/// assert_eq!(writer.logits(), alone.decode(5)?);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Batch<M> {
    model: M,
    capacity: usize,
    scratch: Scratch,
    /// What each member needs for itself.
    own: Vec<Own>,
    tokens: Vec<u32>,
    /// `(rows, vocab_size)`: as many rows as were ever wanted in one pass.
    logits: Vec<f32>,
}

/// The memory of one member of a pass.
#[derive(Debug, Default)]
struct Own {
    /// The rotation of its tokens.
    angles: RopeAngles,
    attend: AttendScratch,
}

impl<M: Borrow<Transformer>> Batch<M> {
    /// Memory for passes of up to `capacity` tokens of `model`, of all sessions together.
    ///
    /// Sessions with less than a `max_chunk` in a pass need nothing of their own but their cache.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`]: there is no memory for them.
    pub fn new(model: M, capacity: usize) -> Result<Self, ModelError> {
        let scratch = Scratch::new(model.borrow().config(), capacity)?;
        let (own, tokens, logits) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { model, capacity, scratch, own, tokens, logits })
    }

    /// Most tokens in a pass.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes each session's tokens through the layers; what comes of each, in the order of the
    /// turns.
    ///
    /// What is wrong with one session is told for that one, and the others go on. It is what
    /// [`Session::prefill`] would have said, and the session is as it would be then.
    /// [`Session::logits`] become those after the last token, unless [`LogitsOf::Nothing`] was
    /// wanted: then there are none.
    ///
    /// Shapes: an outcome is `(rows, vocab_size)`, a row for each of the logits wanted.
    ///
    /// # Errors
    ///
    /// For all of them, and nothing is appended:
    ///
    /// - [`ModelError::BatchFull`]: more tokens than there is memory for.
    /// - [`ModelError::OutOfMemory`]: none for the logits, or the addends of adapters. (In the
    ///   second case a session whose window has moved on may want a [`reset`](Session::reset).)
    ///
    /// For one session:
    ///
    /// - [`ModelError::ForeignSession`]: it has another model.
    /// - [`ModelError::Cache`]: more tokens than its `max_chunk`.
    /// - Whatever [`Session::prefill`] finds.
    ///
    /// # Cost
    ///
    /// The weights are read once. Attention of the sessions is spread over the threads.
    pub fn forward<N: Borrow<Transformer>>(
        &mut self,
        turns: &mut [Turn<'_, N>],
    ) -> Result<Vec<Result<ArrayView2<'_, f32>, ModelError>>, ModelError> {
        let model = self.model.borrow();
        let tokens = turns.iter().map(|turn| turn.tokens.len()).fold(0, usize::saturating_add);
        if tokens > self.capacity {
            return Err(ModelError::BatchFull { tokens, capacity: self.capacity });
        }
        let checked: Vec<_> = turns.iter().map(|turn| check(model, turn)).collect();
        self.own.resize_with(self.own.len().max(turns.len()), || Own {
            attend: self.scratch.attend.beside(),
            ..Own::default()
        });

        self.tokens.clear();
        let (mut members, mut runs) = (Vec::with_capacity(turns.len()), Vec::new());
        for ((turn, checked), own) in turns.iter_mut().zip(&checked).zip(&mut self.own) {
            if checked.is_err() {
                continue;
            }
            let (position, len) = (turn.session.position(), turn.tokens.len());
            model.rope().angles_into(position..position + len, &mut own.angles);
            let (cache, adapters) = turn.session.parts_mut();
            Run::push(&mut runs, self.tokens.len()..self.tokens.len() + len, adapters);
            self.tokens.extend_from_slice(turn.tokens);
            members.push(Member {
                cache,
                adapters,
                angles: &own.angles,
                scratch: &mut own.attend,
                tokens: len,
                position,
                work: work(model, position, len),
                wanted: turn.logits.rows(len),
                logits: 0..0,
                error: None,
            });
        }
        let buffers = Buffers { scratch: &mut self.scratch, logits: &mut self.logits };
        let model = (model, runs.as_slice());
        let done = threads::enter(|| forward(model, &self.tokens, &mut members, buffers));
        let ends: Vec<_> = members.into_iter().map(|member| member.end(done.is_ok())).collect();
        if let Err(error) = done {
            let took_part = turns.iter_mut().zip(&checked).filter(|(_, checked)| checked.is_ok());
            for ((turn, _), _) in took_part.zip(ends).filter(|(_, end)| end.half_done) {
                turn.session.interrupt();
            }
            return Err(error);
        }
        self.hand_out(turns, checked, ends)
    }

    /// Appends one token to each session; [`Session::logits`] are those after it.
    ///
    /// # Errors
    ///
    /// Found before any work, and nothing is appended:
    ///
    /// - [`ModelError::Batch`]: not one token for each session.
    /// - Whatever [`forward`](Self::forward) finds before any work, for any session.
    ///
    /// On the way, for the first session that has it; the others have their tokens:
    ///
    /// - [`ModelError::NotFinite`]: NaN or infinity.
    pub fn decode<N: Borrow<Transformer>>(
        &mut self,
        sessions: &mut [&mut Session<N>],
        tokens: &[u32],
    ) -> Result<(), ModelError> {
        if sessions.len() != tokens.len() {
            let (sessions, tokens) = (sessions.len(), tokens.len());
            return Err(ModelError::Batch { sessions, tokens });
        }
        let mut turns: Vec<_> = sessions
            .iter_mut()
            .zip(tokens)
            .map(|(session, token)| Turn {
                session,
                tokens: slice::from_ref(token),
                logits: LogitsOf::Last,
            })
            .collect();
        turns.iter().try_for_each(|turn| check(self.model.borrow(), turn))?;
        self.forward(&mut turns)?.into_iter().try_for_each(|outcome| outcome.map(|_| ()))
    }

    /// Gives the sessions their logits, and the caller everything.
    fn hand_out<N: Borrow<Transformer>>(
        &self,
        turns: &mut [Turn<'_, N>],
        checked: Vec<Result<(), ModelError>>,
        ends: Vec<End>,
    ) -> Result<Vec<Result<ArrayView2<'_, f32>, ModelError>>, ModelError> {
        let vocab_size = self.model.borrow().config().vocab_size;
        let mut ends = ends.into_iter();
        let mut outcomes = Vec::with_capacity(turns.len());
        for (turn, checked) in turns.iter_mut().zip(checked) {
            let end = match checked {
                Ok(()) => ends.next().unwrap_or_default(),
                Err(error) => {
                    outcomes.push(Err(error));
                    continue;
                }
            };
            if end.half_done {
                turn.session.interrupt();
            }
            if let Some(error) = end.error {
                outcomes.push(Err(error));
                continue;
            }
            let (n, rows) = (end.logits.len(), end.logits);
            let bounds = rows.start * vocab_size..rows.end * vocab_size;
            let logits = self.logits.get(bounds).unwrap_or_default();
            turn.session.note_appended(turn.tokens, logits.chunks_exact(vocab_size).next_back());
            outcomes.push(Ok(ArrayView2::from_shape((n, vocab_size), logits)?));
        }
        Ok(outcomes)
    }
}

/// How a pass ended for one of its members.
#[derive(Debug, Default)]
struct End {
    error: Option<ModelError>,
    /// Some layers have the tokens, and they could not be taken back.
    half_done: bool,
    /// Which rows of the logits are its own.
    logits: Range<usize>,
}

/// What attention of so many tokens has to do, in pairs of positions. A token is some work even
/// without a history.
fn work(model: &Transformer, position: usize, tokens: usize) -> usize {
    const TOKEN: usize = 64;
    let seen = model.config().window.size().map_or(position, |window| position.min(window.get()));
    seen.saturating_add(TOKEN).saturating_mul(tokens)
}

/// Everything that can be wrong with a turn before any work is done.
fn check<N: Borrow<Transformer>>(
    model: &Transformer,
    turn: &Turn<'_, N>,
) -> Result<(), ModelError> {
    if !std::ptr::eq(turn.session.model(), model) {
        return Err(ModelError::ForeignSession);
    }
    turn.session.check(turn.tokens)?;
    let (found, max_chunk) = (turn.tokens.len(), turn.session.options().max_chunk);
    if found > max_chunk {
        let source = mistral_kvcache::CacheError::ChunkTooLong { found, max_chunk };
        return Err(source.into());
    }
    Ok(())
}
