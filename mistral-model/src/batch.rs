//! Many sequences, one pass over the weights.
//!
//! Decoding one token is bound by reading the weights; with a token of each of several sequences
//! they are read once for all. A sequence's logits have the same bits alone and in any company.

use std::borrow::Borrow;

use mistral_core::ops::RopeAngles;
use mistral_core::threads;
use ndarray::{ArrayViewMut2, Axis, Slice};

use crate::error::ModelError;
use crate::history::{Heads, History, SequenceCache};
use crate::layer::Shared;
use crate::scratch::{Scratch, rows};
use crate::session::{Cache, Session};
use crate::transformer::{Transformer, first_not_finite};

/// The memory for decoding several sessions of one model together.
///
/// ```
/// # use mistral_model::{Config, WeightFormat, Session, SessionOptions, Transformer};
/// use mistral_model::Batch;
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// let model = Transformer::random(&config, WeightFormat::Q8_0, 7)?;
/// let mut alone = Session::new(&model, SessionOptions::default())?;
/// let mut other = Session::new(&model, SessionOptions::default())?;
/// let mut first = Session::new(&model, SessionOptions::default())?;
/// other.prefill(&[1, 2, 3])?;
///
/// let mut batch = Batch::new(&model, 2)?;
/// batch.decode(&mut [&mut first, &mut other], &[5, 6])?;
/// assert_eq!(first.logits(), alone.decode(5)?);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Batch<M> {
    model: M,
    capacity: usize,
    scratch: Scratch,
    /// The rotation of each session's token.
    angles: Vec<RopeAngles>,
    /// `(sessions, vocab_size)`
    logits: Vec<f32>,
}

impl<M: Borrow<Transformer>> Batch<M> {
    /// Memory for up to `capacity` sessions of `model`.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`]: there is no memory for them.
    pub fn new(model: M, capacity: usize) -> Result<Self, ModelError> {
        let config = model.borrow().config();
        let scratch = Scratch::new(config, capacity)?;
        let logits = vec![0.0; config.vocab_size * capacity];
        Ok(Self { capacity, scratch, angles: vec![RopeAngles::default(); capacity], logits, model })
    }

    /// Appends one token to each session; [`Session::logits`] are those after it.
    ///
    /// # Errors
    ///
    /// Found before any work, and nothing is appended:
    ///
    /// - [`ModelError::Batch`]: not one token for each session, more sessions than there is memory
    ///   for, or a session of another model.
    /// - Whatever [`Session::prefill`] finds before any work, for any session.
    ///
    /// On the way:
    ///
    /// - [`ModelError::NotFinite`]: NaN or infinity in some session. All of them want a
    ///   [`reset`](Session::reset).
    pub fn decode<N: Borrow<Transformer>>(
        &mut self,
        sessions: &mut [&mut Session<N>],
        tokens: &[u32],
    ) -> Result<(), ModelError> {
        let model = self.model.borrow();
        let n = sessions.len();
        let ours = sessions.iter().all(|session| std::ptr::eq(session.model(), model));
        if n != tokens.len() || n > self.capacity || !ours {
            let (tokens, capacity) = (tokens.len(), self.capacity);
            return Err(ModelError::Batch { sessions: n, tokens, capacity });
        }
        for (session, token) in sessions.iter().zip(tokens) {
            session.check(&[*token])?;
        }
        if n == 0 {
            return Ok(());
        }
        for (session, angles) in sessions.iter().zip(&mut self.angles) {
            let position = session.position();
            model.rope().angles_into(position..position + 1, angles);
        }
        let caches = sessions.iter_mut().map(|session| session.cache_mut()).collect();
        let mut pass = Pass { caches, angles: &self.angles, layer: 0 };
        let (scratch, logits) = (&mut self.scratch, &mut self.logits);
        let done = threads::enter(|| forward(model, tokens, &mut pass, scratch, logits));
        let logits = self.logits.chunks_exact(model.config().vocab_size);
        for ((session, token), logits) in sessions.iter_mut().zip(tokens).zip(logits) {
            match done {
                Ok(()) => session.note_appended(&[*token], Some(logits)),
                Err(_) => session.interrupt(),
            }
        }
        done
    }
}

/// One token of each session on its way through the layers.
struct Pass<'a> {
    caches: Vec<&'a mut Cache>,
    angles: &'a [RopeAngles],
    layer: usize,
}

impl History for Pass<'_> {
    fn attend(&mut self, shared: Shared<'_>, heads: Heads<'_>) -> Result<(), ModelError> {
        let Heads { mut q, mut k, v, mut out, scratch } = heads;
        for (i, (cache, angles)) in self.caches.iter_mut().zip(self.angles).enumerate() {
            let row = Slice::from(i..i + 1);
            let heads = Heads {
                q: q.slice_axis_mut(Axis(0), row),
                k: k.slice_axis_mut(Axis(0), row),
                v: v.slice_axis(Axis(0), row),
                out: out.slice_axis_mut(Axis(0), row),
                scratch: &mut *scratch,
            };
            cache.attend(self.layer, angles, shared, heads)?;
        }
        Ok(())
    }
}

fn forward(
    model: &Transformer,
    tokens: &[u32],
    pass: &mut Pass<'_>,
    scratch: &mut Scratch,
    logits: &mut [f32],
) -> Result<(), ModelError> {
    let config = model.config();
    let finite = |hidden: &ArrayViewMut2<'_, f32>, layer, pass: &Pass<'_>| match first_not_finite(
        hidden.view(),
    ) {
        Some(row) => Err(ModelError::NotFinite { layer, position: pass.caches[row].position() }),
        None => Ok(()),
    };
    // Taken out, so that the layers can borrow the other buffers beside it.
    let mut buffer = std::mem::take(&mut scratch.hidden);
    let mut run = || {
        let mut hidden = rows(&mut buffer, tokens.len(), config.dim)?;
        model.embed(tokens, hidden.view_mut())?;
        for (index, layer) in model.layers().iter().enumerate() {
            pass.layer = index;
            layer.forward(model.shared(index), hidden.view_mut(), pass, scratch)?;
            finite(&hidden, index, pass)?;
        }
        let mut logits = rows(logits, tokens.len(), config.vocab_size)?;
        model.logits(hidden.view(), logits.view_mut(), scratch)?;
        finite(&logits, config.n_layers, pass)
    };
    let result = run();
    scratch.hidden = buffer;
    result
}
