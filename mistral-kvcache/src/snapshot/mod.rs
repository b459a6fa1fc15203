//! Sequences on disk: saved whole, restored whole or not at all.
//!
//! A snapshot holds what one sequence has in every layer, the tokens that led there, and what is
//! needed to refuse it elsewhere. Restored, every view has the same bytes as before, so whatever
//! is computed from it has, too.
//!
//! All numbers are little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `MKVCACHE` |
//! | 4 | version: 1 |
//! | 32 | fingerprint of the model, as the caller gave it |
//! | 4 | format: 0 f32, 1 f16, 2 bf16, 3 int8 |
//! | 8 each | `n_layers`, `n_kv_heads`, `head_dim`, `rewind_slack`, `sinks` |
//! | 8 a layer | its window; 0 is none |
//! | 8 | position |
//! | 8, then 4 each | number of tokens; tokens |
//! | a layer | see below |
//! | 8 | CRC-64 of all that stands before (ECMA-182, lowest bit first) |
//!
//! A layer is its oldest position in 8 bytes, then the rows of the sinks before that, then the rows
//! from there on, in pages of at most 128 slots as they lie in memory: a page begins at a position
//! that is a multiple of 16 and ends 128 later or where the rows do. Slots without a row are zeros.
//! So a snapshot depends on the sequence alone, not on where its ring happened to stand.
//!
//! Snapshots are read as if a stranger had written them: no length is believed before the bytes
//! are there, nothing is taken in before the checksum was found right, and no bytes may follow.

mod checksum;
mod error;
mod file;
mod header;
mod reader;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::ops::Range;
use std::path::Path;

use mistral_core::kv::{KvElement, KvFormat, PAGE, PANEL};

pub use error::SnapshotError;
pub use header::SnapshotHeader;

use self::checksum::SummingWriter;
use self::reader::SnapshotReader;
use crate::buffer::RingBuffer;
use crate::cache::RollingKvCache;
use crate::ring::Ring;
use crate::sequence::{Sequence, SequenceId};

impl<E: KvElement> RollingKvCache<E> {
    /// Writes a sequence, so that it can be restored in another process.
    ///
    /// `fingerprint` says which weights the keys and values come from, a hash of them for
    /// instance; `tokens` are handed back by [`restore`](Self::restore) as they are, usually those
    /// at the positions `0..position`.
    ///
    /// # Errors
    ///
    /// - [`SnapshotError::Cache`]: no such sequence, or a chunk is under way.
    /// - [`SnapshotError::Io`]: writing failed.
    ///
    /// # Cost
    ///
    /// Writes as many bytes as the positions held take, with one page of memory.
    pub fn save(
        &self,
        id: SequenceId,
        fingerprint: [u8; 32],
        tokens: &[u32],
        writer: impl Write,
    ) -> Result<(), SnapshotError> {
        let sequence = self.sequence(id)?;
        sequence.check_whole()?;
        let position = sequence.position();
        let mut writer = SummingWriter::new(writer);
        SnapshotHeader::new(self.config(), E::FORMAT, fingerprint, position, tokens)?
            .write_to(&mut writer)?;
        for layer in sequence.layers() {
            let held = layer.held();
            writer.write(&(held.start as u64).to_le_bytes())?;
            for positions in parts(layer, held) {
                let mut page = layer.page_for(&positions)?;
                layer.copy_out(positions, &mut page)?;
                swap_if_big_endian(E::FORMAT, page.as_bytes_mut());
                writer.write(page.as_bytes())?;
            }
        }
        Ok(writer.finish()?)
    }

    /// Adds a sequence from a snapshot, and gives back its tokens.
    ///
    /// Every view of it has the same bytes as when it was saved.
    ///
    /// # Errors
    ///
    /// - [`SnapshotError::NotASnapshot`], [`SnapshotError::UnknownVersion`],
    ///   [`SnapshotError::UnknownFormat`]: something else, or newer.
    /// - [`SnapshotError::OtherModel`]: not the fingerprint that is expected.
    /// - [`SnapshotError::OtherFormat`], [`SnapshotError::OtherConfig`],
    ///   [`SnapshotError::OtherWindow`], [`SnapshotError::BadPositions`]: not a cache of this size.
    /// - [`SnapshotError::Truncated`], [`SnapshotError::Checksum`],
    ///   [`SnapshotError::TrailingBytes`], [`SnapshotError::TooLarge`]: damaged.
    /// - [`SnapshotError::Io`]: reading failed.
    /// - [`SnapshotError::Cache`]: no room for another sequence, or the text is longer than
    ///   `context_len`.
    ///
    /// # Cost
    ///
    /// Reads the snapshot once. Allocates what [`add_sequence`](Self::add_sequence) would, one
    /// page, and what was really read.
    pub fn restore(
        &mut self,
        fingerprint: [u8; 32],
        reader: impl Read,
    ) -> Result<(SequenceId, Vec<u32>), SnapshotError> {
        let mut reader = SnapshotReader::new(reader);
        let header = SnapshotHeader::read_from(&mut reader)?;
        header.check(&SnapshotHeader::new(self.config(), E::FORMAT, fingerprint, 0, &[])?)?;
        let position = usize::try_from(header.position)
            .map_err(|_| SnapshotError::TooLarge { field: "position", found: header.position })?;

        let mut sequence = Sequence::new(self.next_id(), self.config())?;
        for (index, layer) in sequence.layers_mut().iter_mut().enumerate() {
            let start = reader.u64("oldest position of a layer")?;
            let held = held_by(index, layer, start, position)?;
            layer.restart_at(held.start);
            for positions in parts(layer, held) {
                let mut page = layer.page_for(&positions)?;
                reader.fill("keys and values", page.as_bytes_mut())?;
                swap_if_big_endian(E::FORMAT, page.as_bytes_mut());
                layer.copy_in(positions, &page)?;
            }
        }
        sequence.resume_at(position);
        // Only now is it certain that what was read is what was written.
        reader.finish()?;
        Ok((self.join(sequence), header.tokens))
    }

    /// Writes a sequence to a file: aside first, and renamed when it is whole and on the disk, so
    /// that there is the old file or the new one at any time.
    ///
    /// # Errors
    ///
    /// - [`SnapshotError::File`]: it cannot be created, synced or renamed.
    ///
    /// And as [`save`](Self::save).
    pub fn save_file(
        &self,
        id: SequenceId,
        fingerprint: [u8; 32],
        tokens: &[u32],
        path: impl AsRef<Path>,
    ) -> Result<(), SnapshotError> {
        file::write_aside(path.as_ref(), |file| self.save(id, fingerprint, tokens, file))
    }

    /// Adds a sequence from a file, and gives back its tokens.
    ///
    /// # Errors
    ///
    /// - [`SnapshotError::File`]: it cannot be opened.
    ///
    /// And as [`restore`](Self::restore).
    pub fn restore_file(
        &mut self,
        fingerprint: [u8; 32],
        path: impl AsRef<Path>,
    ) -> Result<(SequenceId, Vec<u32>), SnapshotError> {
        let path = path.as_ref();
        let file = File::open(path)
            .map_err(|source| SnapshotError::File { path: path.to_owned(), source })?;
        self.restore(fingerprint, BufReader::new(file))
    }
}

/// The positions that a restored layer holds, if such a layer can.
fn held_by<E: KvElement>(
    index: usize,
    layer: &RingBuffer<E>,
    start: u64,
    position: usize,
) -> Result<Range<usize>, SnapshotError> {
    let size = layer.size();
    let (window, capacity) = (size.window.get(), size.ring.capacity());
    // A text longer than the context is refused by name before its rows are.
    layer.end_of(position)?;
    let possible = |start: usize| {
        start <= position
            && position - start <= capacity
            && (start == 0 || !size.grows)
            && Ring::reaches_back_to(&(start..position), window) <= position
    };
    match usize::try_from(start) {
        Ok(start) if possible(start) => Ok(start..position),
        _ => Err(SnapshotError::BadPositions { layer: index, start, position, window, capacity }),
    }
}

/// The positions of each page in a snapshot: of the sinks that the ring has forgotten, and of the
/// ring.
fn parts<E: KvElement>(
    layer: &RingBuffer<E>,
    held: Range<usize>,
) -> impl Iterator<Item = Range<usize>> + use<E> {
    let sinks = 0..layer.size().sinks.min(held.start);
    pieces(sinks).chain(pieces(held))
}

/// Cuts positions where a page that begins at a multiple of sixteen ends.
fn pieces(mut rest: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    std::iter::from_fn(move || {
        let start = rest.start;
        let end = (start - start % PANEL).saturating_add(PAGE).min(rest.end);
        rest.start = end;
        (start < end).then_some(start..end)
    })
}

/// Floats lie in a page in the byte order of the machine, and in a snapshot little endian.
fn swap_if_big_endian(format: KvFormat, bytes: &mut [u8]) {
    let width = match format {
        KvFormat::F32 => 4,
        KvFormat::F16 | KvFormat::BF16 => 2,
        _ => 1,
    };
    if cfg!(target_endian = "big") && width > 1 {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_position_once_and_fit_into_pages() {
        for start in 0..40 {
            for end in start..start + 300 {
                let pieces: Vec<_> = pieces(start..end).collect();
                let positions: Vec<_> = pieces.iter().cloned().flatten().collect();
                assert_eq!(positions, (start..end).collect::<Vec<_>>());
                for piece in &pieces {
                    assert!(piece.start % PANEL + piece.len() <= PAGE);
                }
            }
        }
        assert_eq!(
            pieces(usize::MAX - 200..usize::MAX).map(|piece| piece.len()).sum::<usize>(),
            200
        );
    }
}
