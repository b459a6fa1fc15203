//! Reads that never go beyond the file, and never allocate more than it has left.

use std::io::Read;

use super::error::GgufError;

/// A stream with a position and an end.
pub(super) struct Reader<R> {
    source: R,
    offset: u64,
    len: u64,
}

impl<R: Read> Reader<R> {
    /// Reads `source` from its start; it has `len` bytes.
    pub(super) fn new(source: R, len: u64) -> Self {
        Self { source, offset: 0, len }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Refuses `count` things of at least `each` bytes that the file has no room for.
    pub(super) fn expect(
        &self,
        what: &'static str,
        count: u64,
        each: u64,
    ) -> Result<usize, GgufError> {
        let (offset, len) = (self.offset, self.len);
        let needed = count.saturating_mul(each);
        let fits = needed <= len - offset;
        let count = usize::try_from(count).ok().filter(|_| fits);
        count.ok_or(GgufError::Truncated { what, offset, needed, len })
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, what: &'static str, count: u64) -> Result<Vec<u8>, GgufError> {
        let mut bytes = vec![0; self.expect(what, count, 1)?];
        self.source.read_exact(&mut bytes)?;
        self.offset += count;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        self.expect(what, N as u64, 1)?;
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        self.offset += N as u64;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length and as many bytes of text.
    pub(super) fn string(&mut self, what: &'static str) -> Result<String, GgufError> {
        let count = self.u64(what)?;
        let offset = self.offset;
        let bytes = self.bytes(what, count)?;
        String::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 { offset })
    }
}
