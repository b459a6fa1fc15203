//! The one memory map, and the one `unsafe` of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a file for reading.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes are only ever copied out, as bytes, into matrices; no reference into the
    // map outlives a read, and any bit pattern is a valid element. What remains is the risk of
    // every memory map: if another process shortens the file meanwhile, reading it raises SIGBUS.
    // The option's documentation says so, and the default does not map.
    unsafe { Mmap::map(file) }
}
