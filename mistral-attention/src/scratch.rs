//! Working memory that outlives a call.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mistral_core::kv::KvElement;

use crate::kernel::{Demand, PartsMemory, Task};

/// Working memory of attention, kept by the caller so that calls from inside a thread pool allocate
/// nothing, from the second call of a shape on. (Entering a pool from outside does: its queue takes
/// another piece of memory for every 63 jobs.)
///
/// It grows to what the largest call so far needed: a few hundred KB a thread at `head_dim` 128, and
/// where few heads share out their blocks an output for each head and 128 keys. So there it grows
/// with the history until the window is full, each time to twice the size.
/// One may serve calls of any shape, and calls at the same time.
///
/// ```
/// use mistral_attention::ndarray::Array3;
/// use mistral_attention::{Attention, AttentionConfig, KvView, Scratch};
///
/// let attention = Attention::new(AttentionConfig::new(4, 2, 8))?;
/// let scratch = Scratch::default();
/// let (q, k) = (Array3::ones((1, 4, 8)), Array3::<f32>::ones((6, 2, 8)));
/// let mut out = Array3::zeros(q.dim());
/// let kv = KvView::from_arrays(k.view(), k.view())?;
/// attention.call(q.view(), &kv).scratch(&scratch).run(out.view_mut())?;
/// assert_eq!(out, q);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Scratch {
    tasks: Shelf<Task>,
    parts: Shelf<PartsMemory>,
}

impl Scratch {
    /// Memory that no other task has, for as long as `work` runs.
    pub(crate) fn task<R>(&self, work: impl FnOnce(&mut Task) -> R) -> R {
        self.tasks.lend(work)
    }

    /// Memory that no other call has, for as long as `work` runs.
    pub(crate) fn parts<R>(&self, work: impl FnOnce(&mut PartsMemory) -> R) -> R {
        self.parts.lend(work)
    }

    /// Makes ready what a call, or a batch, may take.
    pub(crate) fn reserve<E: KvElement>(&self, demand: &Demand) {
        self.tasks.stock(demand.tasks, |task| task.reserve::<E>(demand));
        self.parts.stock(demand.parts, |parts| parts.reserve(demand));
    }
}

/// Pieces of memory of a kind, those that are not in use.
#[derive(Debug, Default)]
struct Shelf<T>(Mutex<Pieces<T>>);

#[derive(Debug, Default)]
struct Pieces<T> {
    idle: Vec<T>,
    /// How many there are, with those in use.
    made: usize,
}

impl<T: Default> Shelf<T> {
    fn lend<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut piece = self.pieces().take();
        let result = work(&mut piece);
        self.pieces().idle.push(piece);
        result
    }

    /// Sees to it that there are at least `n` pieces, and that those not in use are large enough.
    fn stock(&self, n: usize, reserve: impl FnMut(&mut T)) {
        let mut pieces = self.pieces();
        while pieces.made < n {
            let piece = T::default();
            pieces.idle.push(piece);
            pieces.made += 1;
        }
        pieces.idle.iter_mut().for_each(reserve);
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces<T>> {
        // What a panicking task leaves is only memory.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Pieces<T> {
    fn take(&mut self) -> T {
        self.idle.pop().unwrap_or_else(|| {
            self.made += 1;
            T::default()
        })
    }
}
