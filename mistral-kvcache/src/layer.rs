use std::num::NonZeroUsize;
use std::ops::Range;

use mistral_core::Element;
use mistral_core::kv::KvView;
use ndarray::ArrayView3;

use crate::config::rows_for;
use crate::error::CacheError;
use crate::ring::Ring;
use crate::rows::KvRows;
use crate::staged::{Chunk, Staged};

/// The rows of one layer of one sequence, without the chunk beside it.
#[derive(Debug, Clone)]
pub(crate) struct LayerRing<E> {
    ring: Ring,
    rows: KvRows<E>,
    /// The positions whose rows are intact. They always end with the last one committed.
    held: Range<usize>,
    /// Most positions, where none may be overwritten.
    limit: Option<usize>,
}

impl<E: Element> LayerRing<E> {
    /// A ring that forgets has all its slots from the start; one that does not (`limit`) grows.
    pub(crate) fn new(
        (n_kv_heads, head_dim): (usize, usize),
        capacity: NonZeroUsize,
        limit: Option<usize>,
    ) -> Result<Self, CacheError> {
        let rows = rows_for(0, capacity.get(), limit);
        Ok(Self {
            ring: Ring::new(capacity),
            rows: KvRows::new(n_kv_heads, rows, head_dim)?,
            held: 0..0,
            limit,
        })
    }

    pub(crate) fn held(&self) -> Range<usize> {
        self.held.clone()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// Checks a chunk's shape and length; the position after its last token.
    pub(crate) fn admit(
        &self,
        keys: &ArrayView3<f32>,
        values: &ArrayView3<f32>,
    ) -> Result<usize, CacheError> {
        if keys.dim() != values.dim() {
            return Err(CacheError::ShapeMismatch { keys: keys.dim(), values: values.dim() });
        }
        let (len, n_kv_heads, head_dim) = keys.dim();
        if (n_kv_heads, head_dim) != self.rows.heads() {
            return Err(CacheError::HeadsDiffer {
                expected: self.rows.heads(),
                found: (n_kv_heads, head_dim),
            });
        }
        if len == 0 {
            return Err(CacheError::EmptyChunk);
        }
        self.end_of(len)
    }

    /// The position after `len` more tokens, if there may be so many.
    pub(crate) fn end_of(&self, len: usize) -> Result<usize, CacheError> {
        let position = self.held.end;
        let end =
            position.checked_add(len).ok_or(CacheError::PositionOverflow { position, len })?;
        match self.limit {
            Some(context_len) if end > context_len => {
                Err(CacheError::ContextFull { position, len, context_len })
            }
            _ => Ok(end),
        }
    }

    /// Makes room for the positions below `end`, so that a commit allocates nothing.
    pub(crate) fn reserve(&mut self, end: usize) -> Result<(), CacheError> {
        let rows = rows_for(end, self.ring.capacity(), self.limit);
        self.rows.grow(rows)
    }

    /// The held positions and the chunk after them.
    pub(crate) fn view<'a>(&'a self, chunk: &'a Chunk<E>) -> Result<KvView<'a, E>, CacheError> {
        let [tail, head] = self.ring.runs(self.held());
        Ok(KvView::new([
            self.rows.segment(tail.start, tail.slots)?,
            self.rows.segment(head.start, head.slots)?,
            chunk.rows().segment(self.held.end, 0..chunk.len())?,
        ])?)
    }

    /// Writes the chunk over the oldest rows; of one longer than the ring only its last rows.
    pub(crate) fn write(&mut self, chunk: &Chunk<E>) {
        let start = self.held.end;
        let end = start + chunk.len();
        for run in self.ring.runs(start..end) {
            let from = run.start - start;
            let rows = from..from + run.slots.len();
            self.rows.copy(run.slots.start, chunk.rows(), rows);
        }
        self.held = self.ring.survivors(self.held.start..end);
    }

    /// Whether the tokens from `position` on can be taken back without missing history.
    pub(crate) fn can_return_to(&self, position: usize) -> bool {
        position <= self.held.end && self.ring.reaches_back(&self.held, position)
    }

    /// Forgets the tokens from `position` on. Only if [`can_return_to`](Self::can_return_to).
    pub(crate) fn return_to(&mut self, position: usize) {
        self.held.end = position;
    }

    /// Forgets everything and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.held = 0..0;
    }
}

/// The keys and values of one layer of one sequence, in a rolling buffer.
///
/// The slots before, while and after a chunk of 3 meets a ring of capacity 4 at position 4:
///
/// ```text
/// slot        0   1   2   3        beside the ring
///           ┌───┬───┬───┬───┐      ┌───┬───┬───┐
/// stage     │ 0 │ 1 │ 2 │ 3 │      │ 4 │ 5 │ 6 │    token 4 still sees 1, 2 and 3
///           ├───┼───┼───┼───┤      └───┴───┴───┘
/// commit    │ 4 │ 5 │ 6 │ 3 │                       now 0, 1 and 2 are gone
///           └───┴───┴───┴───┘
/// ```
///
/// Writing first and attending afterwards would have robbed tokens 4 and 5 of positions 1 and 2.
///
/// ```
/// use mistral_kvcache::LayerCache;
/// use mistral_kvcache::half::f16;
/// use mistral_kvcache::ndarray::Array3;
///
/// let mut layer = LayerCache::<f16>::new(2, 8, 4)?; // n_kv_heads, head_dim, window
/// for chunk in [4, 3] {
///     let k = Array3::<f32>::ones((chunk, 2, 8));
///     let step = layer.stage(k.view(), k.view())?;
///     assert!(step.kv()?.positions().contains(&0)); // nothing is evicted yet
///     step.commit();
/// }
/// assert_eq!(layer.held(), 3..7);
/// let slots: Vec<_> = layer.slots().collect();
/// assert_eq!(slots, [Some(4), Some(5), Some(6), Some(3)]);
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
///
/// Source: arXiv:2310.06825, section 2 and figure 2. A whole model's cache, with one staging
/// buffer for all layers, is [`RollingKvCache`](crate::RollingKvCache).
#[derive(Debug, Clone)]
pub struct LayerCache<E: Element> {
    ring: LayerRing<E>,
    chunk: Chunk<E>,
}

impl<E: Element> LayerCache<E> {
    /// A cache that keeps the last `window` tokens, for a sequence of any length.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: an argument is 0.
    /// - [`CacheError::SizeOverflow`], [`CacheError::OutOfMemory`]: too large.
    pub fn new(n_kv_heads: usize, head_dim: usize, window: usize) -> Result<Self, CacheError> {
        let capacity = NonZeroUsize::new(window).ok_or(CacheError::Zero { field: "window" })?;
        Self::with_ring(n_kv_heads, head_dim, capacity, None)
    }

    /// A cache that keeps every token, up to `context_len` of them. It grows as they come.
    ///
    /// # Errors
    ///
    /// As [`LayerCache::new`].
    pub fn full(
        n_kv_heads: usize,
        head_dim: usize,
        context_len: usize,
    ) -> Result<Self, CacheError> {
        let capacity =
            NonZeroUsize::new(context_len).ok_or(CacheError::Zero { field: "context_len" })?;
        Self::with_ring(n_kv_heads, head_dim, capacity, Some(context_len))
    }

    fn with_ring(
        n_kv_heads: usize,
        head_dim: usize,
        capacity: NonZeroUsize,
        limit: Option<usize>,
    ) -> Result<Self, CacheError> {
        for (field, value) in [("n_kv_heads", n_kv_heads), ("head_dim", head_dim)] {
            if value == 0 {
                return Err(CacheError::Zero { field });
            }
        }
        Ok(Self {
            ring: LayerRing::new((n_kv_heads, head_dim), capacity, limit)?,
            chunk: Chunk::new(n_kv_heads, 0, head_dim)?,
        })
    }

    /// Puts a chunk beside the ring, rounded to cache precision, ready to be attended to.
    ///
    /// The chunk's first token stands at [`position`](Self::position). It may be of any length:
    /// one token, or several windows. Rounding happens here, before anything is attended to, so
    /// that a row is the same number whether it is read from the chunk or, later, from the ring.
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
    /// - [`CacheError::ShapeMismatch`]: keys and values differ in shape.
    /// - [`CacheError::HeadsDiffer`]: other heads than the cache's.
    /// - [`CacheError::EmptyChunk`]: no tokens.
    /// - [`CacheError::ContextFull`]: the sequence would exceed `context_len`.
    /// - [`CacheError::PositionOverflow`], [`CacheError::SizeOverflow`],
    ///   [`CacheError::OutOfMemory`]: too large.
    ///
    /// # Cost
    ///
    /// One pass over the chunk. Allocates only when the chunk is the longest so far, or, in a
    /// [`full`](Self::full) cache, for each [`BLOCK`](crate::BLOCK) tokens.
    pub fn stage(
        &mut self,
        keys: ArrayView3<f32>,
        values: ArrayView3<f32>,
    ) -> Result<Staged<'_, E>, CacheError> {
        let end = self.ring.admit(&keys, &values)?;
        self.ring.reserve(end)?;
        self.chunk.grow(keys.dim().0)?;
        self.chunk.fill(keys, values);
        Ok(Staged::new(&mut self.ring, &self.chunk, None))
    }

    /// The position of the next token: how many were committed.
    pub fn position(&self) -> usize {
        self.ring.held.end
    }

    /// The positions whose keys and values are in the ring.
    pub fn held(&self) -> Range<usize> {
        self.ring.held()
    }

    /// Most positions in the ring.
    pub fn capacity(&self) -> usize {
        self.ring.ring.capacity()
    }

    /// The position in each slot, `None` where there is none yet.
    pub fn slots(&self) -> impl Iterator<Item = Option<usize>> {
        let [tail, head] = self.ring.ring.runs(self.held());
        (0..self.capacity()).map(move |slot| {
            [&tail, &head]
                .into_iter()
                .find(|run| run.slots.contains(&slot))
                .map(|run| run.start + (slot - run.slots.start))
        })
    }

    /// Bytes of keys and values, the chunk's buffer included.
    pub fn bytes(&self) -> usize {
        self.ring.bytes() + self.chunk.bytes()
    }

    /// Forgets every token and keeps the memory.
    pub fn clear(&mut self) {
        self.ring.clear();
    }
}
