//! Text from the command line, from a file, or from standard input.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::failure::Failure;

/// Stands for standard input.
const STDIN: &str = "-";
const STDIN_NAME: &str = "standard input";

/// The argument itself, or all of standard input if it is `-`.
///
/// One line break at the very end of standard input is not part of the text: `echo` and editors
/// add it.
pub(crate) fn text(argument: &str) -> Result<String, Failure> {
    if argument != STDIN {
        return Ok(argument.to_owned());
    }
    let mut text = stdin()?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// All of a file, or of standard input if it is `-`.
pub(crate) fn file(path: &Path) -> Result<String, Failure> {
    if path == Path::new(STDIN) {
        return stdin();
    }
    let name = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => utf8(name, bytes),
        Err(source) => Err(Failure::Input { name, source }),
    }
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

fn stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let name = STDIN_NAME.to_owned();
    match io::stdin().lock().read_to_end(&mut bytes) {
        Ok(_) => utf8(name, bytes),
        Err(source) => Err(Failure::Input { name, source }),
    }
}

pub(crate) fn utf8(name: String, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        Failure::NotUtf8 { name, offset, found: error.as_bytes()[offset] }
    })
}
