//! The way of several sequences' tokens through the layers, one member a sequence.

use std::ops::Range;
use std::sync::Arc;

use mistral_core::ops::RopeAngles;
use mistral_core::threads;
use ndarray::{ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis, Slice};

use super::End;
use crate::error::ModelError;
use crate::history::{Heads, History, SequenceCache};
use crate::layer::Shared;
use crate::low_rank::Run;
use crate::scratch::{AttendScratch, Scratch, rows};
use crate::session::Cache;
use crate::transformer::{Transformer, first_not_finite};
use crate::weights::Adapter;

/// One sequence in a pass. Its rows lie behind those of the members before it.
pub(super) struct Member<'a> {
    pub(super) cache: &'a mut Cache,
    pub(super) adapters: &'a [Arc<Adapter>],
    /// The rotation of its tokens.
    pub(super) angles: &'a RopeAngles,
    pub(super) scratch: &'a mut AttendScratch,
    /// How many tokens it has in this pass.
    pub(super) tokens: usize,
    /// Where the first of them stands.
    pub(super) position: usize,
    /// How much its attention has to do, in pairs of positions.
    pub(super) work: usize,
    /// After how many of the last ones logits are wanted.
    pub(super) wanted: usize,
    /// Which rows of the logits are its own.
    pub(super) logits: Range<usize>,
    /// What went wrong: its rows are zeros from there on, and its cache is left alone.
    pub(super) error: Option<ModelError>,
}

impl Member<'_> {
    /// Takes back what was begun, if it or the pass went wrong.
    pub(super) fn end(self, pass_went_well: bool) -> End {
        let whole = pass_went_well && self.error.is_none();
        let half_done = !whole && !self.cache.undo_chunk(self.position);
        End { error: self.error, half_done, logits: self.logits }
    }

    fn attend(&mut self, layer: usize, shared: Shared<'_>, heads: Parts<'_>) {
        let Parts { q, k, v, mut out } = heads;
        if self.error.is_none() {
            let out = out.view_mut();
            let heads = Heads { q, k, v, out, scratch: &mut *self.scratch };
            self.error = self.cache.attend(layer, self.angles, shared, heads).err();
        }
        if self.error.is_some() {
            out.fill(0.0);
        }
    }
}

/// The memory that a pass writes to.
pub(super) struct Buffers<'a> {
    pub(super) scratch: &'a mut Scratch,
    pub(super) logits: &'a mut Vec<f32>,
}

/// The members on their way through one layer after the other.
struct Pass<'p, 'a> {
    members: &'p mut [Member<'a>],
    layer: usize,
}

impl History for Pass<'_, '_> {
    fn attend(&mut self, shared: Shared<'_>, heads: Heads<'_>) -> Result<(), ModelError> {
        let Heads { q, k, v, out, .. } = heads;
        attend_together(self.members, self.layer, shared, Parts { q, k, v, out });
        Ok(())
    }
}

/// [`Heads`] of some members.
struct Parts<'a> {
    q: ArrayViewMut3<'a, f32>,
    k: ArrayViewMut3<'a, f32>,
    v: ArrayView3<'a, f32>,
    out: ArrayViewMut3<'a, f32>,
}

impl Parts<'_> {
    fn split(self, row: usize) -> (Self, Self) {
        let (q, later_q) = self.q.split_at(Axis(0), row);
        let (k, later_k) = self.k.split_at(Axis(0), row);
        let (v, later_v) = self.v.split_at(Axis(0), row);
        let (out, later_out) = self.out.split_at(Axis(0), row);
        (Self { q, k, v, out }, Self { q: later_q, k: later_k, v: later_v, out: later_out })
    }
}

/// Attention of all members: two halves of about the same work at once, and so on. A member alone
/// spreads over what threads are left.
fn attend_together(members: &mut [Member<'_>], layer: usize, shared: Shared<'_>, heads: Parts<'_>) {
    match members {
        [] => return,
        [member] => return member.attend(layer, shared, heads),
        _ => {}
    }
    let total = members.iter().map(|member| member.work).fold(0, usize::saturating_add);
    let (mut middle, mut rows, mut work) = (0, 0, 0usize);
    for member in &members[..members.len() - 1] {
        // The one in the middle goes where the halves come out more alike.
        if middle > 0 && work.saturating_add(member.work / 2) > total / 2 {
            break;
        }
        middle += 1;
        rows += member.tokens;
        work = work.saturating_add(member.work);
    }
    let (first, second) = members.split_at_mut(middle);
    let (heads, later) = heads.split(rows);
    threads::join(
        || attend_together(first, layer, shared, heads),
        || attend_together(second, layer, shared, later),
    );
}

/// The life of a pass: embedding, layers, logits.
///
/// What is wrong with one member is noted there. An error is one of all: buffers too short.
pub(super) fn forward(
    (model, runs): (&Transformer, &[Run<'_>]),
    tokens: &[u32],
    members: &mut [Member<'_>],
    buffers: Buffers<'_>,
) -> Result<(), ModelError> {
    let Buffers { scratch, logits } = buffers;
    if members.is_empty() {
        return Ok(());
    }
    // Before the caches are written to, so that nothing has to be taken back.
    let wanted = members.iter().map(|member| member.wanted).sum();
    make_room(logits, wanted, model.config().vocab_size)?;
    // Taken out, so that the layers can borrow the other buffers beside it.
    let mut buffer = std::mem::take(&mut scratch.hidden);
    let model = (model, runs);
    let result = layers_and_logits(model, tokens, members, &mut buffer, (scratch, logits));
    scratch.hidden = buffer;
    result
}

fn layers_and_logits(
    (model, runs): (&Transformer, &[Run<'_>]),
    tokens: &[u32],
    members: &mut [Member<'_>],
    buffer: &mut [f32],
    (scratch, logits): (&mut Scratch, &mut [f32]),
) -> Result<(), ModelError> {
    let config = model.config();
    let mut hidden = rows(buffer, tokens.len(), config.dim)?;
    model.embed(tokens, hidden.view_mut())?;
    let Some((last, blocks)) = model.layers().split_last() else { return Ok(()) };
    for (layer, block) in blocks.iter().enumerate() {
        let mut pass = Pass { members: &mut *members, layer };
        block.forward(model.shared(layer, runs), hidden.view_mut(), &mut pass, scratch)?;
        note_not_finite(members, hidden.view_mut(), layer, |member| member.tokens);
    }
    // Of the last layer's outputs only those are read that become logits.
    let layer = blocks.len();
    let mut pass = Pass { members: &mut *members, layer };
    last.attend(model.shared(layer, runs), hidden.view(), &mut pass, scratch)?;
    let wanted = gather(members, buffer, scratch, config.dim);
    if wanted == 0 {
        return Ok(());
    }
    let mut hidden = rows(buffer, wanted, config.dim)?;
    let mut runs = Vec::new();
    for member in &*members {
        Run::push(&mut runs, member.logits.clone(), member.adapters);
    }
    last.complete(model.shared(layer, &runs), hidden.view_mut(), 0, scratch)?;
    note_not_finite(members, hidden.view_mut(), layer, |member| member.wanted);
    let mut logits = rows(logits, wanted, config.vocab_size)?;
    model.adapted_logits(&runs, hidden.view(), logits.view_mut(), scratch)?;
    for member in members.iter_mut().filter(|member| member.error.is_none()) {
        let own = logits.slice_axis(Axis(0), Slice::from(member.logits.clone()));
        if let Some(row) = first_not_finite(own) {
            let position = member.position + member.tokens - member.wanted + row;
            member.error = Some(ModelError::NotFinite { layer: config.n_layers, position });
        }
    }
    Ok(())
}

/// Notes who has numbers that are none, and puts zeros in their place: whatever passes through the
/// other layers with the rest shall be finite. A member's rows are its last ones, so many.
fn note_not_finite(
    members: &mut [Member<'_>],
    mut hidden: ArrayViewMut2<'_, f32>,
    layer: usize,
    rows_of: impl Fn(&Member<'_>) -> usize,
) {
    let mut end = 0;
    for member in members {
        let n = rows_of(member);
        let mut own = hidden.slice_axis_mut(Axis(0), Slice::from(end..end + n));
        end += n;
        if member.error.is_none() {
            member.error = first_not_finite(own.view()).map(|row| {
                let position = member.position + member.tokens - n + row;
                ModelError::NotFinite { layer, position }
            });
        }
        if member.error.is_some() {
            own.fill(0.0);
        }
    }
}

/// Moves the rows whose logits are wanted to the front, before the last layer and behind its
/// attention, and counts them.
fn gather(
    members: &mut [Member<'_>],
    hidden: &mut [f32],
    scratch: &mut Scratch,
    dim: usize,
) -> usize {
    let (mut end, mut gathered) = (0, 0);
    for member in members {
        end += member.tokens;
        let first = end - member.wanted;
        hidden.copy_within(first * dim..end * dim, gathered * dim);
        scratch.attended.move_rows(first..end, gathered);
        member.logits = gathered..gathered + member.wanted;
        gathered += member.wanted;
    }
    gathered
}

/// Makes the logits' memory at least `rows` long.
fn make_room(logits: &mut Vec<f32>, rows: usize, vocab_size: usize) -> Result<(), ModelError> {
    let out_of_memory = || ModelError::OutOfMemory { tokens: rows, features: vocab_size };
    let needed = rows.checked_mul(vocab_size).ok_or_else(out_of_memory)?;
    if let Some(more) = needed.checked_sub(logits.len()) {
        logits.try_reserve_exact(more).map_err(|_| out_of_memory())?;
        logits.resize(needed, 0.0);
    }
    Ok(())
}
