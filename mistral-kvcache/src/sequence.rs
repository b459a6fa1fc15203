use std::fmt;
use std::ops::Range;

use mistral_core::Element;

use crate::config::CacheConfig;
use crate::error::CacheError;
use crate::layer::LayerRing;

/// Names one sequence in a cache. Never used again after the sequence is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub(crate) u64);

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sequence {}", self.0)
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
pub(crate) struct Sequence<E> {
    id: SequenceId,
    layers: Vec<LayerRing<E>>,
    progress: Progress,
}

impl<E: Element> Sequence<E> {
    pub(crate) fn new(id: SequenceId, config: &CacheConfig) -> Result<Self, CacheError> {
        let capacity = config.checked_capacity()?;
        let heads = (config.n_kv_heads(), config.head_dim());
        let layers = (0..config.n_layers())
            .map(|_| LayerRing::new(heads, capacity, config.limit()))
            .collect::<Result<Vec<_>, _>>()?;
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

    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().map(LayerRing::bytes).sum()
    }

    /// The positions that a view of `layer` starts with.
    pub(crate) fn held(&self, layer: usize) -> Option<Range<usize>> {
        self.layers.get(layer).map(LayerRing::held)
    }

    /// The ring of `layer`, if that is the one whose turn it is.
    pub(crate) fn turn(
        &mut self,
        layer: usize,
        chunk_len: usize,
    ) -> Result<(&mut LayerRing<E>, &mut Progress), CacheError> {
        let progress = &mut self.progress;
        let n_layers = self.layers.len();
        let Some(ring) = self.layers.get_mut(layer) else {
            return Err(CacheError::NoSuchLayer { found: layer, n_layers });
        };
        if layer == 0 && progress.layers_done > 0 {
            return Err(CacheError::IncompleteChunk {
                id: self.id,
                committed: progress.layers_done,
                n_layers,
            });
        }
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

    /// Makes room in every layer for the positions below `end`.
    pub(crate) fn reserve(&mut self, end: usize) -> Result<(), CacheError> {
        self.layers.iter_mut().try_for_each(|layer| layer.reserve(end))
    }

    /// Makes room in every layer for `len` more tokens.
    pub(crate) fn reserve_more(&mut self, len: usize) -> Result<(), CacheError> {
        if self.progress.layers_done > 0 {
            return Err(CacheError::IncompleteChunk {
                id: self.id,
                committed: self.progress.layers_done,
                n_layers: self.layers.len(),
            });
        }
        // All layers stand at the same position here, so the first speaks for all.
        match self.layers.first() {
            Some(first) => self.reserve(first.end_of(len)?),
            None => Ok(()),
        }
    }

    /// Takes the chunk under way back in the layers that have committed it: in all or in none.
    pub(crate) fn abandon(&mut self) -> Result<(), CacheError> {
        let position = self.progress.position;
        let committed = &mut self.layers[..self.progress.layers_done];
        for layer in committed.iter() {
            if !layer.can_return_to(position) {
                return Err(CacheError::HistoryOverwritten {
                    id: self.id,
                    position,
                    oldest: layer.held().start,
                });
            }
        }
        for layer in committed {
            layer.return_to(position);
        }
        self.progress.layers_done = 0;
        Ok(())
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
