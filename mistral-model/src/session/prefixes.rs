//! Sessions kept for texts that begin as they do.

use std::borrow::Borrow;

use mistral_kvcache::PrefixIndex;

use super::{Session, SessionOptions};
use crate::error::ModelError;
use crate::transformer::Transformer;

/// A number of sessions whose beginnings are not computed again: system prompts, conversations.
///
/// What is kept are [forks](Session::fork), so a session goes on after it was kept, and a new one
/// shares the memory of what it has in common with an old one. Above the capacity the one that was
/// not used for longest is dropped.
///
/// ```
/// # use mistral_model::{Config, DType, SessionOptions, Transformer};
/// use mistral_model::PrefixCache;
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// # let model = Transformer::random(&config, DType::BF16, 7)?;
///
/// let mut prefixes = PrefixCache::new(&model, SessionOptions::default(), 8)?;
/// let (session, there) = prefixes.start(&[1, 30, 31, 32, 5, 6])?;
/// assert_eq!(there, 0);
/// prefixes.keep(&session)?;
/// let (session, there) = prefixes.start(&[1, 30, 31, 32, 7])?;
/// assert_eq!((session.tokens().len(), there), (5, 4)); // one token was computed
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct PrefixCache<M> {
    /// What every session begins as.
    empty: Session<M>,
    capacity: usize,
    /// The one used last stands last. Keys rise, and are never used again.
    kept: Vec<(u64, Session<M>)>,
    index: PrefixIndex<u64>,
    next_key: u64,
}

impl<M: Borrow<Transformer> + Clone> PrefixCache<M> {
    /// No sessions yet, and at most `capacity`, all of one model and with the same options.
    ///
    /// # Errors
    ///
    /// As [`Session::new`].
    pub fn new(model: M, options: SessionOptions, capacity: usize) -> Result<Self, ModelError> {
        let empty = Session::with_buffers(model, options, 1)?;
        Ok(Self { empty, capacity, kept: Vec::new(), index: PrefixIndex::new(), next_key: 0 })
    }

    /// Sessions that are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// A session with these tokens, and how many of the first ones were taken over from a session
    /// that is kept. The bits are those of a fresh session.
    ///
    /// Sessions that can no longer go back to where the texts part are passed over: with a window
    /// that is further than [`Session::rewind`] goes, with heavy hitters before their end. (Those
    /// depend on how a text is cut: the result is then that of the cuts that were made.)
    ///
    /// # Errors
    ///
    /// As [`Session::prefill`].
    ///
    /// # Cost
    ///
    /// That of the tokens which are not taken over, one at least.
    pub fn start(&mut self, tokens: &[u32]) -> Result<(Session<M>, usize), ModelError> {
        self.empty.check(tokens)?;
        let can_fork = |key: &u64, len| {
            let kept = self.kept.iter().find(|(other, _)| other == key);
            kept.is_some_and(|(_, session)| session.check_rewind(session.position() - len).is_ok())
        };
        let known = self.index.longest_with(tokens, can_fork).and_then(|known| {
            let at = self.kept.iter().position(|(key, _)| *key == known.key)?;
            // Used, so it goes to the end.
            self.kept[at..].rotate_left(1);
            Some((self.kept.last()?, known.len))
        });
        let (mut session, there) = match known {
            Some(((_, kept), len)) => (kept.fork_at(len)?, len),
            None => (self.empty.fork()?, 0),
        };
        session.prefill(&tokens[there..])?;
        Ok((session, there))
    }

    /// Keeps what a session has by now. One that is kept already gives way to it if this one could
    /// go back to all that it has.
    ///
    /// # Errors
    ///
    /// - [`ModelError::ForeignSession`], [`ModelError::OtherOptions`], [`ModelError::Adapter`]: it is
    ///   not as the others.
    ///
    /// And as [`Session::fork`].
    pub fn keep(&mut self, session: &Session<M>) -> Result<(), ModelError> {
        if !std::ptr::eq(session.model(), self.empty.model()) {
            return Err(ModelError::ForeignSession);
        }
        session.check_no_adapters("a place among those that others begin as")?;
        let (found, expected) = (session.options(), self.empty.options());
        if found != expected {
            return Err(ModelError::OtherOptions { found, expected });
        }
        let fork = session.fork()?;
        self.drop_where(|kept| {
            fork.tokens().starts_with(kept.tokens())
                && fork.check_rewind(fork.position() - kept.position()).is_ok()
        });
        self.index.insert(self.next_key, fork.tokens());
        self.kept.push((self.next_key, fork));
        self.next_key += 1;
        while self.kept.len() > self.capacity {
            let (key, _) = self.kept.remove(0);
            self.index.remove(&key);
        }
        Ok(())
    }

    /// Drops all sessions that are kept.
    pub fn clear(&mut self) {
        self.drop_where(|_| true);
    }

    fn drop_where(&mut self, goes: impl Fn(&Session<M>) -> bool) {
        self.kept.retain(|(key, session)| {
            let goes = goes(session);
            if goes {
                self.index.remove(key);
            }
            !goes
        });
    }
}
