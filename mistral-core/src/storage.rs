//! The memory of a matrix: its own, or part of something that others share.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::simd::{Line, bytes_of, bytes_of_mut};

/// Bytes that several matrices may lie in, such as a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Borders on which panels lie in memory, in bytes.
pub(crate) const ALIGNMENT: usize = 32;

/// The panels of a matrix as bytes.
#[derive(Clone)]
pub(crate) enum Storage {
    /// `len` bytes in whole lines.
    Owned { lines: Vec<Line>, len: usize },
    /// A range that was checked to lie inside.
    Shared { owner: SharedBytes, range: Range<usize> },
}

impl Storage {
    /// Reserves `len` bytes, of which there are none yet: see [`grow`](Self::grow). `None` if there is no memory.
    pub(crate) fn with_capacity(len: usize) -> Option<Self> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(len.div_ceil(size_of::<Line>())).ok()?;
        Some(Self::Owned { lines, len: 0 })
    }

    /// Appends `added` zero bytes, a multiple of [`ALIGNMENT`], and returns them.
    pub(crate) fn grow(&mut self, added: usize) -> &mut [u8] {
        let Self::Owned { lines, len } = self else { return &mut [] };
        // The last line may be half full.
        let held = *len;
        *len += added;
        lines.resize(len.div_ceil(size_of::<Line>()), Line([0; 64]));
        &mut bytes_of_mut(lines)[held..*len]
    }

    /// Shares `range` of `owner`; `None` if it is not inside or not aligned.
    pub(crate) fn shared(owner: SharedBytes, range: Range<usize>) -> Option<Self> {
        let bytes = (*owner).as_ref().get(range.clone())?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(ALIGNMENT);
        aligned.then_some(Self::Shared { owner, range })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned { lines, len } => &bytes_of(lines)[..*len],
            Self::Shared { owner, range } => {
                (**owner).as_ref().get(range.clone()).unwrap_or_default()
            }
        }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Owned { .. } => "Owned",
            Self::Shared { .. } => "Shared",
        };
        f.debug_struct(kind).field("bytes", &self.bytes().len()).finish()
    }
}
