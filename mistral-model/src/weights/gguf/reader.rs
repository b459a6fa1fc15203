//! Reads that never go beyond the file, and never allocate more than a header may have.

use std::io::{self, Read};

use super::error::GgufError;

/// Longest header that is read. That of a 7B model has less than 1 MB, most of it vocabulary.
const LONGEST_HEADER: u64 = 64 << 20;
/// Longest key or name of a tensor, as the format has it.
const LONGEST_NAME: u64 = (1 << 16) - 1;

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

    /// Refuses `count` things of at least `each` bytes that the file has no room for, or that no
    /// header has.
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
        let count = count.ok_or(GgufError::Truncated { what, offset, needed, len })?;
        let limit = LONGEST_HEADER;
        if needed > limit.saturating_sub(offset) {
            return Err(GgufError::HeaderTooLong { what, offset, needed, limit });
        }
        Ok(count)
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, what: &'static str, count: u64) -> Result<Vec<u8>, GgufError> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.expect(what, count, 1)?).map_err(io::Error::from)?;
        self.source.by_ref().take(count).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != count {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
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
        self.text(what, count)
    }

    /// A string that is a key or the name of a tensor.
    pub(super) fn name(&mut self, what: &'static str) -> Result<String, GgufError> {
        let found = self.u64(what)?;
        self.expect(what, found, 1)?;
        if found > LONGEST_NAME {
            let (offset, limit) = (self.offset, LONGEST_NAME);
            return Err(GgufError::NameTooLong { what, offset, found, limit });
        }
        self.text(what, found)
    }

    fn text(&mut self, what: &'static str, count: u64) -> Result<String, GgufError> {
        let offset = self.offset;
        let bytes = self.bytes(what, count)?;
        String::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 { offset })
    }
}
