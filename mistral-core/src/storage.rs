//! Where a matrix lies: part of memory that others may share.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::memory::Memory;

/// Bytes that several matrices may lie in, such as a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Borders on which panels lie in memory, in bytes.
pub(crate) const ALIGNMENT: usize = 32;

/// The panels of a matrix as bytes. Clones share them.
#[derive(Clone)]
pub(crate) struct Storage {
    owner: SharedBytes,
    /// It was checked to lie inside.
    range: Range<usize>,
}

impl Storage {
    /// `range` of `owner`; `None` if it is not inside or not aligned.
    pub(crate) fn shared(owner: SharedBytes, range: Range<usize>) -> Option<Self> {
        let bytes = (*owner).as_ref().get(range.clone())?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(ALIGNMENT);
        aligned.then_some(Self { owner, range })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl From<Memory> for Storage {
    fn from(memory: Memory) -> Self {
        let range = 0..memory.as_ref().len();
        Self { owner: Arc::new(memory), range }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("bytes", &self.range.len()).finish()
    }
}
