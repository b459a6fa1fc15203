use std::ops::Range;

use mistral_core::kv::{KvElement, KvView};

use crate::buffer::RingBuffer;
use crate::chunk::Chunk;
use crate::error::CacheError;
use crate::sequence::Progress;

/// One chunk in one layer between staging and commit: what attention reads.
///
/// The ring still holds everything it held before, so the first queries of the chunk see the
/// positions that its last ones will push out. Only [`commit`](Self::commit) overwrites; dropping
/// this value instead leaves the cache as it was.
///
/// The cache is borrowed meanwhile and `commit` consumes this value, so the mistakes do not
/// compile. Attention after the oldest rows are gone:
///
/// ```compile_fail,E0382
/// # use mistral_kvcache::{LayerCache, ndarray::Array3};
/// # let mut layer = LayerCache::<f32>::new(2, 8, 4)?;
/// # let k = Array3::<f32>::ones((3, 2, 8));
/// let step = layer.stage(k.view(), k.view())?;
/// step.commit();
/// let view = step.kv()?; // error: borrow of moved value
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
///
/// A view that outlives the commit, and so would show newer rows as older ones:
///
/// ```compile_fail,E0505
/// # use mistral_kvcache::{LayerCache, ndarray::Array3};
/// # let mut layer = LayerCache::<f32>::new(2, 8, 4)?;
/// # let k = Array3::<f32>::ones((3, 2, 8));
/// let step = layer.stage(k.view(), k.view())?;
/// let view = step.kv()?;
/// step.commit(); // error: cannot move out of `step` because it is borrowed
/// assert_eq!(view.positions(), 0..3);
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
///
/// A chunk committed twice:
///
/// ```compile_fail,E0382
/// # use mistral_kvcache::{LayerCache, ndarray::Array3};
/// # let mut layer = LayerCache::<f32>::new(2, 8, 4)?;
/// # let k = Array3::<f32>::ones((3, 2, 8));
/// let step = layer.stage(k.view(), k.view())?;
/// step.commit();
/// step.commit(); // error: use of moved value
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
///
/// A second chunk staged over the first:
///
/// ```compile_fail,E0499
/// # use mistral_kvcache::{LayerCache, ndarray::Array3};
/// # let mut layer = LayerCache::<f32>::new(2, 8, 4)?;
/// # let k = Array3::<f32>::ones((3, 2, 8));
/// let first = layer.stage(k.view(), k.view())?;
/// let second = layer.stage(k.view(), k.view())?; // error: `layer` is borrowed already
/// first.commit();
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a staged chunk rolls it back: attend to `kv()`, then `commit()`"]
pub struct Staged<'a, E: KvElement> {
    ring: &'a mut RingBuffer<E>,
    chunk: Chunk<'a, E>,
    /// Which layers of the sequence are done; a lone layer has no others to wait for.
    progress: Option<&'a mut Progress>,
}

impl<'a, E: KvElement> Staged<'a, E> {
    pub(crate) fn new(
        ring: &'a mut RingBuffer<E>,
        chunk: Chunk<'a, E>,
        progress: Option<&'a mut Progress>,
    ) -> Self {
        Self { ring, chunk, progress }
    }

    /// Everything that the chunk may attend to: the ring's tail, the ring's head, the chunk, and
    /// the sinks that the ring has forgotten.
    ///
    /// It may reach further back than the first query sees; which positions each query does see
    /// is for attention to say. It always reaches far enough, and never shows a row that was
    /// overwritten.
    ///
    /// # Errors
    ///
    /// - [`CacheError::View`]: passed on from the constructor of the view. Staging has checked
    ///   all that it checks, so this does not happen.
    ///
    /// # Cost
    ///
    /// Constant, nothing is copied.
    pub fn kv(&self) -> Result<KvView<'_, E>, CacheError> {
        Ok(self.ring.view(Some(self.chunk))?)
    }

    /// The positions of the chunk's tokens: what rotary embedding rotated the keys by.
    pub fn positions(&self) -> Range<usize> {
        let start = self.ring.held().end;
        start..start + self.chunk.len()
    }

    /// Writes the chunk into the ring, over the oldest rows, and pins those that are sinks.
    ///
    /// # Cost
    ///
    /// Copies `min(tokens, capacity)` rows of keys and of values. Allocates nothing.
    pub fn commit(self) {
        // Staging has made the room and checked the shapes: nothing is left that could fail.
        let written = self.ring.write(self.chunk);
        debug_assert!(written.is_ok(), "{written:?}");
        if let Some(progress) = self.progress {
            progress.layer_done(self.chunk.len());
        }
    }
}
