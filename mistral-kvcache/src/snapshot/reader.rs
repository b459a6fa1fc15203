//! Reading what a stranger may have written: in pieces, adding up as it goes.

use std::io::{ErrorKind, Read};

use super::checksum::Checksum;
use super::error::SnapshotError;
use crate::error::CacheError;

/// Items of a list that are read at once: no length is believed for more than these.
const PIECE: usize = 1024;

/// A reader that counts and adds up bytes.
pub(super) struct SnapshotReader<R> {
    inner: R,
    sum: Checksum,
    at: u64,
}

impl<R: Read> SnapshotReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, sum: Checksum::new(), at: 0 }
    }

    /// Fills `bytes`, which belong to `part`.
    pub(super) fn fill(
        &mut self,
        part: &'static str,
        bytes: &mut [u8],
    ) -> Result<(), SnapshotError> {
        self.inner.read_exact(bytes).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => SnapshotError::Truncated { part, at: self.at },
            _ => SnapshotError::Io { source },
        })?;
        self.sum.add(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        part: &'static str,
    ) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.fill(part, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, part: &'static str) -> Result<u32, SnapshotError> {
        Ok(u32::from_le_bytes(self.array(part)?))
    }

    pub(super) fn u64(&mut self, part: &'static str) -> Result<u64, SnapshotError> {
        Ok(u64::from_le_bytes(self.array(part)?))
    }

    /// As many items of `N` bytes as the snapshot says and really has.
    pub(super) fn list<T, const N: usize>(
        &mut self,
        part: &'static str,
        len: u64,
        item: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, SnapshotError> {
        let mut items = Vec::new();
        let mut piece = vec![0; PIECE * N];
        let mut rest = len;
        while rest > 0 {
            let n = usize::try_from(rest).map_or(PIECE, |rest| rest.min(PIECE));
            self.fill(part, &mut piece[..n * N])?;
            let bytes = n * size_of::<T>();
            items.try_reserve(n).map_err(|_| CacheError::OutOfMemory { bytes })?;
            items.extend(piece[..n * N].as_chunks::<N>().0.iter().copied().map(&item));
            rest -= n as u64;
        }
        Ok(items)
    }

    /// Reads the checksum and makes sure that nothing follows.
    pub(super) fn finish(mut self) -> Result<(), SnapshotError> {
        let expected = self.sum.value();
        let found = self.u64("checksum")?;
        if found != expected {
            return Err(SnapshotError::Checksum { found, expected });
        }
        match self.inner.read_exact(&mut [0]) {
            Ok(()) => Err(SnapshotError::TrailingBytes { at: self.at }),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            Err(source) => Err(SnapshotError::Io { source }),
        }
    }
}
