//! The one memory map, and the one `unsafe` of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a file for reading.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: any bit pattern is a valid element, and matrices hold the map as long as they use it.
    // What remains is the risk of every memory map: another process may write the file, which
    // changes weights, or shorten it, which ends the program with SIGBUS. The option's
    // documentation says so, and the default does not map.
    unsafe { Mmap::map(file) }
}
