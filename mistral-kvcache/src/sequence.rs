use std::collections::HashSet;
use std::fmt;

use mistral_core::kv::{KvElement, KvPage};

use crate::buffer::RingBuffer;
use crate::chunk::Chunk;
use crate::config::CacheConfig;
use crate::error::CacheError;
use crate::pages::expect_memory;

/// Names one sequence in a cache. Never used again after the sequence is removed, and unknown to
/// any other cache but clones that were made while it was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    pub(crate) number: u64,
    /// Which cache made it: a random number.
    pub(crate) cache: u64,
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sequence {}", self.number)
    }
}

/// How far a sequence has come: whole chunks, and the layers of the one under way.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// Tokens committed in every layer.
    position: usize,
    /// Layers in which the chunk under way is committed, always fewer than `n_layers`.
    layers_done: usize,
    /// Its tokens, once a layer has committed it.
    chunk_len: usize,
    n_layers: usize,
}

impl Progress {
    /// Takes note of a commit; the last layer's moves the sequence on.
    pub(crate) fn layer_done(&mut self, chunk_len: usize) {
        self.chunk_len = chunk_len;
        self.layers_done += 1;
        if self.layers_done == self.n_layers {
            self.position += chunk_len;
            self.layers_done = 0;
        }
    }
}

/// One sequence in all layers.
#[derive(Debug, Clone)]
pub(crate) struct Sequence<E: KvElement> {
    id: SequenceId,
    layers: Vec<RingBuffer<E>>,
    progress: Progress,
}

impl<E: KvElement> Sequence<E> {
    pub(crate) fn new(id: SequenceId, config: &CacheConfig) -> Result<Self, CacheError> {
        expect_memory(config.sequence_bytes(E::FORMAT, 0)?)?;
        let heads = (config.n_kv_heads(), config.head_dim());
        let mut layers = Vec::new();
        let bytes = config.n_layers().saturating_mul(size_of::<RingBuffer<E>>());
        expect_memory(bytes)?;
        let reserved = layers.try_reserve_exact(config.n_layers());
        reserved.map_err(|_| CacheError::OutOfMemory { bytes })?;
        for layer in 0..config.n_layers() {
            layers.push(RingBuffer::new(heads, config.layer_size(layer)?)?);
        }
        Ok(Self {
            id,
            progress: Progress {
                position: 0,
                layers_done: 0,
                chunk_len: 0,
                n_layers: layers.len(),
            },
            layers,
        })
    }

    pub(crate) fn id(&self) -> SequenceId {
        self.id
    }

    pub(crate) fn position(&self) -> usize {
        self.progress.position
    }

    pub(crate) fn layers_done(&self) -> usize {
        self.progress.layers_done
    }

    pub(crate) fn bytes(&self, counted: &mut HashSet<*const KvPage<E>>) -> usize {
        self.layers.iter().map(|layer| layer.bytes(counted)).sum()
    }

    /// The rings, without regard to whose turn it is.
    pub(crate) fn layers(&self) -> &[RingBuffer<E>] {
        &self.layers
    }

    /// As [`layers`](Self::layers), for filling a sequence that is restored.
    pub(crate) fn layers_mut(&mut self) -> &mut [RingBuffer<E>] {
        &mut self.layers
    }

    /// Stands at `position`, to which its layers were filled.
    pub(crate) fn resume_at(&mut self, position: usize) {
        self.progress.position = position;
    }

    /// The ring of `layer`, if that is the one whose turn it is.
    pub(crate) fn turn(
        &mut self,
        layer: usize,
        chunk_len: usize,
    ) -> Result<(&mut RingBuffer<E>, &mut Progress), CacheError> {
        let n_layers = self.layers.len();
        if layer == 0 {
            self.check_whole()?;
        }
        let progress = &mut self.progress;
        let Some(ring) = self.layers.get_mut(layer) else {
            return Err(CacheError::NoSuchLayer { found: layer, n_layers });
        };
        if layer != progress.layers_done {
            return Err(CacheError::LayerOutOfOrder {
                expected: progress.layers_done,
                found: layer,
            });
        }
        if layer > 0 && chunk_len != progress.chunk_len {
            return Err(CacheError::ChunkLengthDiffers {
                layer,
                expected: progress.chunk_len,
                found: chunk_len,
            });
        }
        Ok((ring, progress))
    }

    /// Writes a staged chunk into the ring of the layer whose turn it is.
    pub(crate) fn commit(&mut self, layer: usize, chunk: Chunk<'_, E>) -> Result<(), CacheError> {
        let (ring, progress) = self.turn(layer, chunk.len())?;
        ring.write(chunk)?;
        progress.layer_done(chunk.len());
        Ok(())
    }

    /// Makes room for a chunk that ends before `end`: in its first layer for all of them, so that
    /// no layer finds itself without memory when others have committed.
    pub(crate) fn reserve(&mut self, layer: usize, end: usize) -> Result<(), CacheError> {
        let layers = if layer == 0 { 0..self.layers.len() } else { layer..layer + 1 };
        self.layers[layers].iter_mut().try_for_each(|layer| layer.reserve(end))
    }

    /// Makes room in every layer for `len` more tokens.
    pub(crate) fn reserve_more(&mut self, len: usize) -> Result<(), CacheError> {
        self.check_whole()?;
        // All layers stand at the same position here, so the first speaks for all.
        match self.layers.first() {
            Some(first) => self.reserve(0, first.end_of(len)?),
            None => Ok(()),
        }
    }

    /// An error if only some layers have committed the last chunk.
    pub(crate) fn check_whole(&self) -> Result<(), CacheError> {
        match self.progress.layers_done {
            0 => Ok(()),
            committed => Err(CacheError::IncompleteChunk {
                id: self.id,
                committed,
                n_layers: self.layers.len(),
            }),
        }
    }

    /// Takes the chunk under way back in the layers that have committed it: in all or in none.
    pub(crate) fn abandon(&mut self) -> Result<(), CacheError> {
        let position = self.progress.position;
        let committed = &mut self.layers[..self.progress.layers_done];
        return_all(committed, position)?;
        self.progress.layers_done = 0;
        Ok(())
    }

    /// The oldest position, but for 0, that every layer can return to.
    pub(crate) fn reaches_back_to(&self) -> usize {
        reaches_back_to(&self.layers)
    }

    /// Takes back the tokens from `position` on: in all layers or in none.
    pub(crate) fn return_to(&mut self, position: usize) -> Result<(), CacheError> {
        self.check_whole()?;
        return_all(&mut self.layers, position)?;
        self.progress.position = position;
        Ok(())
    }

    /// The same sequence under another name, back at `position`. It shares all memory that it
    /// needs there.
    pub(crate) fn fork(&self, id: SequenceId, position: usize) -> Result<Self, CacheError> {
        self.check_whole()?;
        check_return(&self.layers, position)?;
        let mut fork = Self { id, ..self.clone() };
        fork.return_to(position)?;
        fork.layers.iter_mut().for_each(RingBuffer::shrink);
        Ok(fork)
    }

    /// Forgets every token and keeps the memory.
    pub(crate) fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.clear();
        }
        self.progress.position = 0;
        self.progress.layers_done = 0;
    }
}

/// The oldest position, but for 0, that each of the layers can return to.
fn reaches_back_to<E: KvElement>(layers: &[RingBuffer<E>]) -> usize {
    layers.iter().map(RingBuffer::reaches_back_to).max().unwrap_or(0)
}

fn check_return<E: KvElement>(layers: &[RingBuffer<E>], position: usize) -> Result<(), CacheError> {
    if layers.iter().all(|layer| layer.can_return_to(position)) {
        return Ok(());
    }
    let found = layers.first().map_or(0, |layer| layer.held().end);
    if position > found {
        return Err(CacheError::PositionAhead { found: position, position: found });
    }
    Err(CacheError::HistoryOverwritten { position, oldest: reaches_back_to(layers) })
}

fn return_all<E: KvElement>(
    layers: &mut [RingBuffer<E>],
    position: usize,
) -> Result<(), CacheError> {
    check_return(layers, position)?;
    for layer in layers {
        layer.return_to(position);
    }
    Ok(())
}
