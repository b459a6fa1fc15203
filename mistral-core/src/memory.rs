//! Zeroed memory that is reserved at once and taken into use part by part.

use crate::simd::{Line, bytes_of, bytes_of_mut};

/// Bytes on a border of 64, zero until written.
pub(crate) struct Memory {
    lines: Vec<Line>,
    capacity: usize,
    len: usize,
}

impl Memory {
    /// Reserves `bytes`, none of which are in use. `None` if there is no memory.
    pub(crate) fn with_capacity(bytes: usize) -> Option<Self> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(bytes.div_ceil(size_of::<Line>())).ok()?;
        Some(Self { lines, capacity: bytes, len: 0 })
    }

    /// Takes `added` more bytes into use and returns them: as many as are left, if these are fewer.
    pub(crate) fn grow(&mut self, added: usize) -> &mut [u8] {
        let held = self.len;
        self.len = held.saturating_add(added).min(self.capacity);
        // The last line may be half full.
        self.lines.resize(self.len.div_ceil(size_of::<Line>()), Line([0; 64]));
        &mut bytes_of_mut(&mut self.lines)[held..self.len]
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &bytes_of(&self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_by_zeros_and_keeps_what_was_written() {
        let mut memory = Memory::with_capacity(160).unwrap();
        assert!(memory.as_ref().is_empty());
        let first = memory.grow(96);
        assert_eq!(first, [0; 96]);
        first.fill(7);
        let rest = memory.grow(64);
        assert_eq!(rest, [0; 64]);
        rest[0] = 9;
        assert!(memory.grow(1).is_empty(), "all is in use");
        let bytes = memory.as_ref();
        assert_eq!((bytes.len(), bytes[95], bytes[96], bytes[97]), (160, 7, 9, 0));
        assert!(bytes.as_ptr().addr().is_multiple_of(64));
    }

    #[test]
    fn memory_that_does_not_exist_is_refused() {
        assert!(Memory::with_capacity(isize::MAX as usize - 63).is_none());
    }
}
