//! Text from the command line, from a file, or from standard input.
//!
//! Nothing is read without an end: each kind of file has a limit far above what people have.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::failure::Failure;

/// Stands for standard input.
const STDIN: &str = "-";
pub(crate) const STDIN_NAME: &str = "standard input";

/// Most bytes of a schema or a grammar: that of the library.
pub(crate) const CONSTRAINT: usize = 64 << 10;
/// Most bytes of a conversation.
pub(crate) const CHAT: usize = 16 << 20;
/// Most bytes of a text, or of a list of tokens.
pub(crate) const TEXT: usize = 256 << 20;
/// Most bytes of a line, its end included.
const LINE: usize = 16 << 20;
/// Most bytes of a file of lines.
const LINES: usize = 1 << 30;

/// The argument itself, or all of standard input if it is `-`.
///
/// One line break at the very end of standard input is not part of the text: `echo` and editors
/// add it.
pub(crate) fn text(argument: &str) -> Result<String, Failure> {
    if argument != STDIN {
        return Ok(argument.to_owned());
    }
    let mut text = file(Path::new(STDIN), TEXT)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// All of a file, or of standard input if it is `-`; no more than `limit` bytes.
pub(crate) fn file(path: &Path, limit: usize) -> Result<String, Failure> {
    let stream = Stream::open(path)?;
    let (name, mut bytes) = (stream.name, Vec::new());
    match stream.reader.take(limit as u64 + 1).read_to_end(&mut bytes) {
        Err(source) => Err(Failure::Input { name, source }),
        Ok(_) if bytes.len() > limit => Err(Failure::TooLong { name, limit }),
        Ok(_) => utf8(name, bytes),
    }
}

/// The lines of a file, or of standard input if it is `-`, without their ends. They may be no text.
pub(crate) fn lines(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let stream = Stream::open(path)?;
    let mut reader = BufReader::new(stream.reader);
    let (mut lines, mut bytes) = (Vec::new(), 0);
    let name = |lines: &[_]| format!("line {} of {}", lines.len() + 1, stream.name);
    while let Some(line) = line(&mut reader, || name(&lines))? {
        bytes += line.len() + 1;
        if bytes > LINES {
            return Err(Failure::TooLong { name: stream.name, limit: LINES });
        }
        lines.push(line);
    }
    Ok(lines)
}

/// The next line without its end; `None` when there is none. `name` is for messages.
pub(crate) fn line(
    input: &mut impl BufRead,
    name: impl Fn() -> String,
) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let read = input.take(LINE as u64 + 1).read_until(b'\n', &mut line);
    read.map_err(|source| Failure::Input { name: name(), source })?;
    if line.len() > LINE {
        return Err(Failure::TooLong { name: name(), limit: LINE });
    }
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|byte| *byte == b'\n').is_some() {
        line.pop_if(|byte| *byte == b'\r');
    }
    Ok(Some(line))
}

/// A file that is read piece by piece, or standard input if it is `-`.
pub(crate) struct Stream {
    /// For messages.
    pub(crate) name: String,
    /// Its length, if that is known.
    pub(crate) bytes: Option<u64>,
    pub(crate) reader: Box<dyn Read>,
}

impl Stream {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new(STDIN) {
            let reader = Box::new(io::stdin().lock());
            return Ok(Self { name: name(path), bytes: None, reader });
        }
        let name = name(path);
        match File::open(path) {
            Ok(file) => {
                let found = file.metadata().ok().filter(|found| found.is_file());
                let bytes = found.map(|found| found.len());
                Ok(Self { name, bytes, reader: Box::new(file) })
            }
            Err(source) => Err(Failure::Input { name, source }),
        }
    }
}

/// How a file is called in messages.
pub(crate) fn name(path: &Path) -> String {
    if path == Path::new(STDIN) { STDIN_NAME.to_owned() } else { path.display().to_string() }
}

pub(crate) fn utf8(name: String, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        Failure::NotUtf8 { name, offset, found: error.as_bytes()[offset] }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_is_not_read_to_its_end() {
        let mut endless = BufReader::new(io::repeat(b'x'));
        let error = line(&mut endless, || "zeros".to_owned()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("zeros has more than {LINE} bytes, expected no more")
        );
    }
}
