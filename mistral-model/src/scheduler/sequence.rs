//! One request that takes part in the passes.

use std::borrow::Borrow;
use std::mem;
use std::sync::Arc;

use super::request::{Finish, Request, RequestId};
use crate::batch::{LogitsOf, Turn};
use crate::error::ModelError;
use crate::session::{Session, SessionOptions};
use crate::transformer::Transformer;
use crate::weights::Adapter;

/// Common first tokens that are worth waiting for.
const WORTH_SHARING: usize = 16;

/// A request with its memory.
#[derive(Debug)]
pub(super) struct Sequence<M> {
    pub(super) id: RequestId,
    /// Without its prompt.
    request: Request,
    /// Whether it writes nothing, and stays for others to begin with.
    pub(super) held: bool,
    /// The prompt, and what was written.
    text: Vec<u32>,
    written: usize,
    /// `None` until it is known where the text begins: with another's first tokens or by itself.
    session: Option<Session<M>>,
    /// Bytes that its cache may grow to.
    pub(super) reserved: usize,
    /// How many of its tokens are in the next pass.
    pub(super) share: usize,
    /// Where another wants to branch off: a chunk must not go past it, for a window might forget
    /// what the other needs.
    pub(super) pause_at: usize,
}

/// Where a sequence can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// With nothing.
    Empty,
    /// With so many first tokens of the sequence at this index, which has them.
    Branch { donor: usize, len: usize },
    /// Later, when the sequence at this index has so many tokens.
    Wait { donor: usize, len: usize },
}

/// What comes of a pass.
#[derive(Debug, Default)]
pub(super) struct Advance {
    pub(super) token: Option<u32>,
    pub(super) finish: Option<Finish>,
}

impl<M: Borrow<Transformer> + Clone> Sequence<M> {
    pub(super) fn new(id: RequestId, mut request: Request, held: bool, reserved: usize) -> Self {
        let text = mem::take(&mut request.prompt);
        request.sampler.observe(&text);
        let (session, pause_at) = (None, usize::MAX);
        Self { id, request, held, text, written: 0, session, reserved, share: 0, pause_at }
    }

    pub(super) fn has_started(&self) -> bool {
        self.session.is_some()
    }

    /// Begins with nothing.
    pub(super) fn start_empty(
        &mut self,
        model: M,
        options: SessionOptions,
    ) -> Result<(), ModelError> {
        // A batch has the memory for passes.
        let session = Session::with_buffers(model, options, 1)?;
        self.session = Some(session.in_batches_with(&self.request.adapters));
        Ok(())
    }

    /// Begins with the first `len` tokens of another's text.
    pub(super) fn start_as(&mut self, donor: &Self, len: usize) -> Result<(), ModelError> {
        if let Some(session) = &donor.session {
            self.session = Some(session.fork_at(len)?);
        }
        Ok(())
    }

    /// Tokens of the text that are in the cache.
    pub(super) fn position(&self) -> usize {
        self.session.as_ref().map_or(0, Session::position)
    }

    /// Tokens of the text that are not in the cache yet: a piece of the prompt, or the token that
    /// was written last.
    pub(super) fn missing(&self) -> usize {
        self.text.len().saturating_sub(self.position())
    }

    /// Whether it is still reading its prompt.
    pub(super) fn is_reading(&self) -> bool {
        self.written == 0 && self.missing() > 0
    }

    /// Tokens of the prompt that it may read next.
    pub(super) fn readable(&self) -> usize {
        self.missing().min(self.pause_at.saturating_sub(self.position()))
    }

    /// Whether it is a prefix that is computed: it only waits for others.
    pub(super) fn is_at_rest(&self) -> bool {
        self.held && self.missing() == 0
    }

    /// Logits after the last token in the cache.
    pub(super) fn logits(&self) -> Option<&[f32]> {
        self.session.as_ref().filter(|_| self.written > 0).map(Session::logits)
    }

    pub(super) fn cache_bytes(&self) -> usize {
        self.session.as_ref().map_or(0, Session::cache_bytes)
    }

    /// Where a sequence that has not started can begin, given those that came before it.
    pub(super) fn start_among(&self, earlier: &[Self]) -> Start {
        // The last token is always computed, or there would be no logits.
        let prompt = &self.text[..self.text.len().saturating_sub(1)];
        let (mut longest, mut start) = (WORTH_SHARING - 1, Start::Empty);
        for (donor, other) in earlier.iter().enumerate() {
            if !same(&self.request.adapters, &other.request.adapters) {
                continue;
            }
            // What it has not written yet is faster read than waited for.
            let known = other.position().max(other.text.len() - other.written);
            let pairs = prompt.iter().zip(&other.text[..known]);
            let len = pairs.take_while(|(a, b)| a == b).count();
            let offer = match &other.session {
                Some(session) if session.position() < len => Start::Wait { donor, len },
                Some(session) if session.check_rewind(session.position() - len).is_ok() => {
                    Start::Branch { donor, len }
                }
                Some(_) => continue,
                None => Start::Wait { donor, len },
            };
            if len > longest {
                (longest, start) = (len, offer);
            }
        }
        start
    }

    /// What it does in the next pass.
    pub(super) fn turn(&mut self) -> Option<Turn<'_, M>> {
        let missing = self.missing();
        let session = self.session.as_mut()?;
        let tokens = self.text.get(session.position()..)?.get(..self.share)?;
        if tokens.is_empty() {
            return None;
        }
        let last = tokens.len() == missing && !self.held;
        let logits = if last { LogitsOf::Last } else { LogitsOf::Nothing };
        Some(Turn { session, tokens, logits })
    }

    /// Goes on after a pass that it took part in.
    pub(super) fn advance(&mut self) -> Result<Advance, ModelError> {
        if self.missing() > 0 {
            return Ok(Advance::default());
        }
        if self.held {
            return Ok(Advance { finish: Some(Finish::Held), token: None });
        }
        let Some(session) = &self.session else {
            return Ok(Advance::default());
        };
        let token = self.request.sampler.sample(session.logits())?;
        if self.request.stop_tokens.contains(&token) {
            return Ok(Advance { finish: Some(Finish::StopToken(token)), token: None });
        }
        let ends = session.model().config().eos_tokens.contains(&token);
        if ends && !self.request.ignore_eos {
            return Ok(Advance { finish: Some(Finish::EndOfSequence), token: None });
        }
        let full = session.remaining() == Some(0);
        self.text.push(token);
        self.written += 1;
        let finish = match () {
            () if self.written >= self.request.max_tokens => Some(Finish::MaxTokens),
            () if full => Some(Finish::ContextFull),
            () => None,
        };
        Ok(Advance { token: Some(token), finish })
    }
}

/// Whether these are the very same adapters, in the same order.
fn same(some: &[Arc<Adapter>], others: &[Arc<Adapter>]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(a, b)| Arc::ptr_eq(a, b))
}
