//! A cache of fixed size that keeps what is attended to: heavy hitters (H2O, arXiv:2306.14048).
//!
//! A few keys get most of the attention weight, and those that got much before get much again.
//! So each key/value head keeps its last `recent` positions and, of the older ones, the `heavy`
//! with the largest weight so far (section 4, algorithm 1). With `recent = 2` and `heavy = 1`, one
//! position at a time:
//!
//! ```text
//! kept            new   weights from its queries    accumulated             evicted
//! 0    1    2     3     .6   .1   .1   .2           1.9  .7  .3  .2         1: lightest of 0, 1
//! 0    3    2     4     .2   .1   .3   .4           2.1  .3  .6  .4         2: lightest of 0, 2
//! 0    3    4
//! ```
//!
//! A new position takes the slot of one that was evicted, so nothing moves. Slots of different
//! heads then hold different positions, and not in order. Softmax does not care: keys are rotated
//! before they are cached, and a chunk's queries see all that is kept.
//!
//! What this is not: the exact window of [`RollingKvCache`](crate::RollingKvCache). What was
//! evicted is gone, there is no rewind, and since eviction happens between chunks, the cut into
//! chunks changes what is kept. The paper evicts only after the whole prompt: one chunk.
//! Positions stay those of the text, so texts beyond the trained length want sinks instead.

mod config;
mod select;

use std::ops::Range;
use std::sync::Arc;

pub use config::HeavyHitterConfig;
use mistral_core::kv::{KvElement, KvError, KvPage, KvSegment, KvView, PAGE, PANEL};
use ndarray::{ArrayView2, ArrayView3, Axis};
pub use select::Kept;
use select::{lightest, placements};

use crate::error::CacheError;
use crate::pages::expect_memory;

/// The keys and values of one sequence in constant memory: recent positions and heavy hitters.
///
/// As in the rolling cache a chunk is staged beside what is kept, attended to, and only then
/// committed; the commit needs the weights that the chunk's queries gave to each key. Layers take
/// their turns in order, each once a chunk. A layer that fails keeps its turn;
/// [`reset`](Self::reset) begins anew at any point.
///
/// ```
/// use mistral_kvcache::{HeavyHitterCache, HeavyHitterConfig, ndarray::{Array3, array}};
///
/// let config = HeavyHitterConfig::new(1, 1, 8).with_recent(1).with_heavy(1);
/// let planned = config.bytes::<f32>()?;
/// let mut cache = HeavyHitterCache::<f32>::new(config)?;
/// let k = Array3::ones((3, 1, 8));
/// let step = cache.stage(0, k.view(), k.view())?;
/// // attention.call(q, &step.kv()?).key_sums(weights.view_mut()).run(out)?;
/// let weights = array![[0.5, 1.75, 0.75]]; // one key/value head, three keys
/// step.commit(weights.view())?;
/// let kept: Vec<_> = cache.kept(0, 0)?.iter().map(|kept| kept.position).collect();
/// assert_eq!(kept, [1, 2]); // 2 is recent, 1 was heavier than 0
/// assert_eq!(cache.bytes(), planned);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A clone shares the memory of keys and values with the original; a layer's is copied when one of
/// the two next stages it. [`bytes`](Self::bytes) counts it for both.
#[derive(Debug, Clone)]
pub struct HeavyHitterCache<E: KvElement> {
    config: HeavyHitterConfig,
    budget: usize,
    layers: Vec<Layer<E>>,
    /// The chunk, from slot `len % PANEL` on, so that its lanes go on where the kept ones end.
    staging: Vec<Arc<KvPage<E>>>,
    /// Room for indices of the view.
    candidates: Vec<usize>,
    /// Tokens committed in every layer.
    position: usize,
    next_layer: usize,
    /// Tokens of the chunk under way, once a layer has committed it.
    chunk_len: usize,
}

#[derive(Debug, Clone)]
struct Layer<E: KvElement> {
    pages: Vec<Arc<KvPage<E>>>,
    /// `(n_kv_heads, budget)`: what lies in each slot.
    kept: Vec<Kept>,
    /// Slots in use, the same number in each head.
    len: usize,
}

impl<E: KvElement> HeavyHitterCache<E> {
    /// An empty cache. Everything is allocated here, and nothing later.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: a size is 0.
    /// - [`CacheError::SizeOverflow`], [`CacheError::OutOfMemory`], [`CacheError::View`]: too
    ///   large.
    pub fn new(config: HeavyHitterConfig) -> Result<Self, CacheError> {
        expect_memory(config.bytes::<E>()?)?;
        let budget = config.checked_budget()?;
        let heads = (config.n_kv_heads, config.head_dim);
        let layer = |_| {
            Ok(Layer {
                pages: pages(heads, budget)?,
                kept: filled(config.n_kv_heads * budget)?,
                len: 0,
            })
        };
        let layers = (0..config.n_layers).map(layer).collect::<Result<_, CacheError>>()?;
        let staging = pages(heads, config.staging_slots().ok_or(CacheError::SizeOverflow)?)?;
        let candidates = filled(budget + config.max_chunk)?;
        let (position, next_layer, chunk_len) = (0, 0, 0);
        Ok(Self { config, budget, layers, staging, candidates, position, next_layer, chunk_len })
    }

    /// The sizes it was made with.
    pub fn config(&self) -> &HeavyHitterConfig {
        &self.config
    }

    /// The position of the next token: how many were committed in every layer.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The layer whose turn it is; 0 between two chunks.
    pub fn next_layer(&self) -> usize {
        self.next_layer
    }

    /// What a head keeps, in the order of the view, which is not that of the positions.
    ///
    /// # Errors
    ///
    /// - [`CacheError::NoSuchLayer`], [`CacheError::View`]: no such layer or head.
    pub fn kept(&self, layer: usize, head: usize) -> Result<&[Kept], CacheError> {
        let n_kv_heads = self.config.n_kv_heads;
        let state = self.layers.get(layer).ok_or(self.no_such_layer(layer))?;
        if head >= n_kv_heads {
            return Err(KvError::NoSuchHead { found: head, n_kv_heads }.into());
        }
        Ok(&state.kept[head * self.budget..][..state.len])
    }

    /// Bytes of keys, values and everything that goes with them; never changes.
    pub fn bytes(&self) -> usize {
        let pages = self.layers.iter().flat_map(|layer| &layer.pages).chain(&self.staging);
        let kept: usize = self.layers.iter().map(|layer| layer.kept.len()).sum();
        pages.map(|page| page.bytes()).sum::<usize>()
            + kept * size_of::<Kept>()
            + (self.budget + self.config.max_chunk) * size_of::<usize>()
    }

    /// Forgets every token, at any point, and keeps the memory.
    pub fn reset(&mut self) {
        for layer in &mut self.layers {
            layer.len = 0;
        }
        (self.position, self.next_layer, self.chunk_len) = (0, 0, 0);
    }

    /// Puts a chunk beside what a layer keeps, rounded to cache precision, ready to be attended to.
    ///
    /// Shapes
    ///
    /// | argument | shape |
    /// |---|---|
    /// | keys (already rotated) | `(tokens, n_kv_heads, head_dim)`, any strides |
    /// | values | `(tokens, n_kv_heads, head_dim)`, any strides |
    ///
    /// # Errors
    ///
    /// - [`CacheError::NoSuchLayer`]: no such layer.
    /// - [`CacheError::LayerOutOfOrder`]: another layer is next.
    /// - [`CacheError::ShapeMismatch`], [`CacheError::HeadsDiffer`], [`CacheError::EmptyChunk`]:
    ///   a chunk of the wrong shape.
    /// - [`CacheError::ChunkTooLong`]: more than `max_chunk` tokens; the budget is no bound.
    /// - [`CacheError::ChunkLengthDiffers`]: not as many tokens as in layer 0.
    /// - [`CacheError::PositionOverflow`]: the sequence is too long.
    /// - [`CacheError::View`]: no memory to copy what is shared with a clone.
    ///
    /// # Cost
    ///
    /// One pass over the chunk. Allocates only after a clone.
    pub fn stage(
        &mut self,
        layer: usize,
        keys: ArrayView3<'_, f32>,
        values: ArrayView3<'_, f32>,
    ) -> Result<HeavyHitterStep<'_, E>, CacheError> {
        self.admit(layer, keys.dim(), values.dim())?;
        let Some(state) = self.layers.get_mut(layer) else {
            return Err(self.no_such_layer(layer));
        };
        for page in state.pages.iter_mut().chain(&mut self.staging) {
            own(page)?;
        }
        let first = state.len % PANEL;
        for (slot, (key, value)) in (first..).zip(keys.outer_iter().zip(values.outer_iter())) {
            Arc::make_mut(&mut self.staging[slot / PAGE]).write(slot % PAGE, key, value)?;
        }
        Ok(HeavyHitterStep { cache: self, layer, len: keys.dim().0 })
    }

    /// Checks a chunk and whose turn it is.
    fn admit(
        &self,
        layer: usize,
        keys: (usize, usize, usize),
        values: (usize, usize, usize),
    ) -> Result<(), CacheError> {
        let (len, n_kv_heads, head_dim) = keys;
        let expected = (self.config.n_kv_heads, self.config.head_dim);
        let (position, max_chunk) = (self.position, self.config.max_chunk);
        if layer >= self.config.n_layers {
            return Err(self.no_such_layer(layer));
        }
        if layer != self.next_layer {
            return Err(CacheError::LayerOutOfOrder { expected: self.next_layer, found: layer });
        }
        if keys != values {
            return Err(CacheError::ShapeMismatch { keys, values });
        }
        if (n_kv_heads, head_dim) != expected {
            return Err(CacheError::HeadsDiffer { expected, found: (n_kv_heads, head_dim) });
        }
        if len == 0 {
            return Err(CacheError::EmptyChunk);
        }
        if len > max_chunk {
            return Err(CacheError::ChunkTooLong { found: len, max_chunk });
        }
        if layer > 0 && len != self.chunk_len {
            let expected = self.chunk_len;
            return Err(CacheError::ChunkLengthDiffers { layer, expected, found: len });
        }
        position.checked_add(len).map(|_| ()).ok_or(CacheError::PositionOverflow { position, len })
    }

    fn no_such_layer(&self, found: usize) -> CacheError {
        CacheError::NoSuchLayer { found, n_layers: self.config.n_layers }
    }
}

/// One chunk in one layer between staging and commit: what attention reads.
///
/// Dropping it instead leaves the layer as it was.
#[derive(Debug)]
#[must_use = "dropping a staged chunk rolls it back: attend to `kv()`, then `commit(weights)`"]
pub struct HeavyHitterStep<'a, E: KvElement> {
    cache: &'a mut HeavyHitterCache<E>,
    layer: usize,
    len: usize,
}

impl<E: KvElement> HeavyHitterStep<'_, E> {
    /// What the layer keeps and the chunk after it, for attention without a window.
    ///
    /// The view counts from 0: slots, not positions of the text. Index `i` is, in each head,
    /// entry `i` of [`HeavyHitterCache::kept`]; after these comes the chunk in order.
    ///
    /// # Errors
    ///
    /// - [`CacheError::View`]: passed on from the view's constructor. Staging has checked all that
    ///   it checks, so this does not happen.
    ///
    /// # Cost
    ///
    /// Constant, nothing is copied.
    pub fn kv(&self) -> Result<KvView<'_, E>, CacheError> {
        let layer = &self.cache.layers[self.layer];
        let first = layer.len % PANEL;
        Ok(KvView::new([
            KvSegment::from_pages(0, &layer.pages, 0..layer.len)?,
            KvSegment::from_pages(layer.len, &self.cache.staging, first..first + self.len)?,
        ])?)
    }

    /// The positions of the chunk's tokens: what rotary embedding rotated the keys by.
    pub fn positions(&self) -> Range<usize> {
        self.cache.position..self.cache.position + self.len
    }

    /// Adds the weights to what each key has got, evicts down to the budget, and keeps the chunk's
    /// survivors.
    ///
    /// Shapes: `weights` is `(n_kv_heads, positions of the view)`, any strides: the sum of the
    /// attention weights that a key got from the chunk's queries.
    ///
    /// # Errors
    ///
    /// Nothing is changed; the layer may stage the chunk again.
    ///
    /// - [`CacheError::WeightsShape`]: another shape.
    /// - [`CacheError::BadWeight`]: a weight is negative, infinite or not a number.
    ///
    /// # Cost
    ///
    /// A pass over the weights, another over the candidates for eviction if there is one, and a
    /// copy of at most `min(tokens, budget)` rows in each head. Allocates nothing.
    pub fn commit(self, weights: ArrayView2<'_, f32>) -> Result<(), CacheError> {
        let Self { cache, layer, len } = self;
        let n_layers = cache.layers.len();
        let state = &mut cache.layers[layer];
        let expected = (cache.config.n_kv_heads, state.len + len);
        if weights.dim() != expected {
            return Err(CacheError::WeightsShape { found: weights.dim(), expected });
        }
        let bad = |weight: &f32| !(weight.is_finite() && *weight >= 0.0);
        if let Some(((head, index), _)) = weights.indexed_iter().find(|(_, weight)| bad(weight)) {
            return Err(CacheError::BadWeight { head, index });
        }
        let chunk = cache.position..cache.position + len;
        for (head, weights) in weights.axis_iter(Axis(0)).enumerate() {
            let kept = &mut state.kept[head * cache.budget..][..cache.budget];
            let (old, new) = weights.split_at(Axis(0), state.len);
            for (kept, weight) in kept.iter_mut().zip(old) {
                kept.weight += f64::from(*weight);
            }
            lightest(&mut cache.candidates, (&kept[..state.len], new, &chunk), &cache.config);
            let slots = (state.len, state.len % PANEL);
            for (slot, index) in placements(&cache.candidates, slots.0, len, kept.len()) {
                let from = slots.1 + index;
                let page = Arc::make_mut(&mut state.pages[slot / PAGE]);
                page.copy_head(head, slot % PAGE, &cache.staging[from / PAGE], from % PAGE)?;
                kept[slot] = Kept { position: chunk.start + index, weight: f64::from(new[index]) };
            }
        }
        state.len = expected.1.min(cache.budget);
        cache.chunk_len = len;
        cache.next_layer = (layer + 1) % n_layers;
        if cache.next_layer == 0 {
            cache.position = chunk.end;
        }
        Ok(())
    }
}

/// Pages with `slots` slots in all.
fn pages<E: KvElement>(
    (n_kv_heads, head_dim): (usize, usize),
    slots: usize,
) -> Result<Vec<Arc<KvPage<E>>>, CacheError> {
    let page = |first| Ok(Arc::new(KvPage::new(n_kv_heads, PAGE.min(slots - first), head_dim)?));
    (0..slots).step_by(PAGE).map(page).collect()
}

/// Default values, or an error instead of an abort.
fn filled<T: Clone + Default>(len: usize) -> Result<Vec<T>, CacheError> {
    let bytes = len.saturating_mul(size_of::<T>());
    let mut items = Vec::new();
    items.try_reserve_exact(len).map_err(|_| CacheError::OutOfMemory { bytes })?;
    items.resize(len, T::default());
    Ok(items)
}

/// Makes a page nobody else's.
fn own<E: KvElement>(page: &mut Arc<KvPage<E>>) -> Result<(), CacheError> {
    if Arc::get_mut(page).is_none() {
        let mut copy = KvPage::new(page.n_kv_heads(), page.slots(), page.head_dim())?;
        copy.as_bytes_mut().copy_from_slice(page.as_bytes());
        *page = Arc::new(copy);
    }
    Ok(())
}
