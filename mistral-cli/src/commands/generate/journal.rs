//! The output of a batch: a line for each line of the input, in order, each written once, whatever
//! ends the program.
//!
//! A line begins with its index and a digest of what was asked. So a later run knows how far an
//! earlier one came, and never goes on with a file that is not its own.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A file that only ever grows by whole lines.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Journal {
    /// Opens a new or an earlier file for requests with these digests. A last line without an end is
    /// cut off: the program was ended while it was written.
    pub(super) fn open(path: &Path, digests: &[u64]) -> Result<Self, Failure> {
        let failure = |source| Failure::Output { path: path.to_owned(), source };
        let open = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = open.map_err(failure)?;
        if !file.metadata().map_err(failure)?.is_file() {
            return Err(Failure::NotAFile { path: path.to_owned() });
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(Failure::InUse { path: path.to_owned() }),
            // Not every file system knows locks.
            Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Unsupported => {
                return Err(failure(error));
            }
            _ => {}
        }
        let mut journal = Self { path: path.to_owned(), file, lines: 0 };
        let whole = journal.read(digests)?;
        journal.file.set_len(whole).map_err(failure)?;
        Ok(journal)
    }

    /// Lines that are written.
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// Counts the whole lines; their bytes.
    fn read(&mut self, digests: &[u64]) -> Result<u64, Failure> {
        let mut reader = BufReader::new(&self.file);
        let (mut line, mut whole) = (Vec::new(), 0);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            let read = read.map_err(|source| self.failure(source))?;
            if read == 0 {
                return Ok(whole);
            }
            let foreign = || Failure::OtherBatch { path: self.path.clone(), line: self.lines + 1 };
            let digest = digests.get(self.lines).ok_or_else(foreign)?;
            let expected = beginning(self.lines, *digest);
            if line.last() == Some(&b'\n') {
                if !line.starts_with(expected.as_bytes()) {
                    return Err(foreign());
                }
                self.lines += 1;
                whole += read as u64;
            } else {
                let common = line.len().min(expected.len());
                let ours = line[..common] == expected.as_bytes()[..common];
                return if ours { Ok(whole) } else { Err(foreign()) };
            }
        }
    }

    /// Writes the next line, and waits until it is on disk. `fields` are those of a JSON object,
    /// with its closing brace.
    pub(super) fn write(&mut self, digest: u64, fields: &str) -> Result<(), Failure> {
        let line = format!("{}{fields}\n", beginning(self.lines, digest));
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|source| self.failure(source))?;
        self.lines += 1;
        Ok(())
    }

    fn failure(&self, source: io::Error) -> Failure {
        Failure::Output { path: self.path.clone(), source }
    }
}

/// How a line begins.
fn beginning(index: usize, digest: u64) -> String {
    format!("{{\"index\":{index},\"digest\":\"{digest:016x}\",")
}

/// A number that differs for requests that differ (FNV-1a).
pub(super) fn digest(parts: &[&[u8]]) -> u64 {
    // The length of each part stands before it, so that their borders count.
    let bytes = parts.iter().flat_map(|part| {
        let length = (part.len() as u64).to_le_bytes();
        length.into_iter().chain(part.iter().copied())
    });
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DIGESTS: [u64; 3] = [1, 2, 3];

    #[test]
    fn a_journal_goes_on_behind_its_last_whole_line_wherever_it_was_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut journal = Journal::open(&path, &DIGESTS).unwrap();
        for digest in DIGESTS {
            journal.write(digest, "\"text\":\"é\"}").unwrap();
        }
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for end in 0..=whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let mut journal = Journal::open(&path, &DIGESTS).unwrap();
            let lines = whole[..end].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(journal.lines(), lines);
            for digest in &DIGESTS[lines..] {
                journal.write(*digest, "\"text\":\"é\"}").unwrap();
            }
            drop(journal);
            assert_eq!(fs::read(&path).unwrap(), whole, "torn at {end}");
        }
    }

    #[test]
    fn a_file_that_is_not_of_this_batch_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let line = |index, digest| format!("{}\"text\":\"\"}}\n", beginning(index, digest));
        let four = [line(0, 1), line(1, 2), line(2, 3), line(3, 4)].concat();
        for foreign in ["my notes", "my notes\n", &line(0, 7), &line(1, 1), &four] {
            fs::write(&path, foreign).unwrap();
            let error = Journal::open(&path, &DIGESTS).unwrap_err();
            assert!(matches!(error, Failure::OtherBatch { .. }), "{foreign}");
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }

    #[test]
    fn two_programs_do_not_write_to_one_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let first = Journal::open(&path, &DIGESTS).unwrap();
        assert!(matches!(Journal::open(&path, &DIGESTS), Err(Failure::InUse { .. })));
        drop(first);
        assert!(Journal::open(&path, &DIGESTS).is_ok());
        assert!(matches!(Journal::open(folder.path(), &DIGESTS), Err(Failure::Output { .. })));
    }

    #[test]
    fn requests_that_differ_have_other_digests() {
        assert_eq!(digest(&[b"ab", b"c"]), digest(&[b"ab", b"c"]));
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"ab"]), digest(&[b"ac"]));
    }
}
