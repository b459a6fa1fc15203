//! Working memory that outlives a call.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kernel::Task;

/// Working memory of attention, kept by the caller so that calls from inside a thread pool allocate
/// nothing. (Entering a pool from outside does, now and then.)
///
/// It grows to what the largest call so far needed: a few hundred KB a thread at `head_dim` 128, and
/// where few heads share out their blocks an output for each head and 128 keys.
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
pub struct Scratch(Mutex<Vec<Task>>);

impl Scratch {
    /// Memory that no other task has, for as long as `work` runs.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Task) -> R) -> R {
        let mut task = self.tasks().pop().unwrap_or_default();
        let result = work(&mut task);
        self.tasks().push(task);
        result
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Task>> {
        // What a panicking task leaves is only memory.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
