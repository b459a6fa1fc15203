//! Zeroed memory that is reserved at once and used part by part.

use crate::simd::{Line, bytes_of, bytes_of_mut};

#[cfg(all(feature = "huge-pages", target_os = "linux"))]
use memmap2::{Advice, MmapMut};

/// From how many bytes on memory is asked for in huge pages: less than one of them gains nothing.
#[cfg(all(feature = "huge-pages", target_os = "linux"))]
const HUGE: usize = 4 << 20;

/// Bytes on a border of 64, zero until written.
///
/// What is not in use yet need not exist: the system gives pages when they are first written.
pub(crate) struct Memory {
    reserved: Reserved,
    capacity: usize,
    len: usize,
}

enum Reserved {
    Lines(Vec<Line>),
    /// Weights are written once and read for ever. With pages of 4 kB half of the time of reading
    /// them from a file goes into getting the pages, and a walk over them looks up an address
    /// every hundred nanoseconds.
    #[cfg(all(feature = "huge-pages", target_os = "linux"))]
    Pages(MmapMut),
}

impl Memory {
    /// Reserves `bytes`, none of which are in use. `None` if there is no memory.
    pub(crate) fn with_capacity(bytes: usize) -> Option<Self> {
        #[cfg(all(feature = "huge-pages", target_os = "linux"))]
        if bytes >= HUGE {
            let pages = MmapMut::map_anon(bytes).ok()?;
            // A system without huge pages says no, and gives others.
            let _ = pages.advise(Advice::HugePage);
            return Some(Self { reserved: Reserved::Pages(pages), capacity: bytes, len: 0 });
        }
        let mut lines = Vec::new();
        lines.try_reserve_exact(bytes.div_ceil(size_of::<Line>())).ok()?;
        Some(Self { reserved: Reserved::Lines(lines), capacity: bytes, len: 0 })
    }

    /// Takes `added` more bytes into use and returns them: as many as are left, if these are fewer.
    pub(crate) fn grow(&mut self, added: usize) -> &mut [u8] {
        let held = self.len;
        self.len = held.saturating_add(added).min(self.capacity);
        match &mut self.reserved {
            Reserved::Lines(lines) => {
                // The last line may be half full.
                lines.resize(self.len.div_ceil(size_of::<Line>()), Line([0; 64]));
                &mut bytes_of_mut(lines)[held..self.len]
            }
            #[cfg(all(feature = "huge-pages", target_os = "linux"))]
            Reserved::Pages(pages) => &mut pages[held..self.len],
        }
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        let bytes = match &self.reserved {
            Reserved::Lines(lines) => bytes_of(lines),
            #[cfg(all(feature = "huge-pages", target_os = "linux"))]
            Reserved::Pages(pages) => pages,
        };
        &bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_by_zeros_and_keeps_what_was_written() {
        // Small memory is a vector, large memory may be pages: both behave alike.
        for total in [160, 5 << 20] {
            let mut memory = Memory::with_capacity(total).unwrap();
            assert!(memory.as_ref().is_empty());
            let first = memory.grow(96);
            assert_eq!(first, [0; 96]);
            first.fill(7);
            let rest = memory.grow(total - 96);
            assert!(rest.iter().all(|&byte| byte == 0));
            rest[0] = 9;
            assert!(memory.grow(1).is_empty(), "all is in use");
            let bytes = memory.as_ref();
            assert_eq!(bytes.len(), total);
            assert_eq!((bytes[95], bytes[96], bytes[97]), (7, 9, 0));
            assert!(bytes.as_ptr().addr().is_multiple_of(64));
        }
    }

    #[test]
    fn memory_that_does_not_exist_is_refused() {
        assert!(Memory::with_capacity(isize::MAX as usize - 63).is_none());
    }
}
