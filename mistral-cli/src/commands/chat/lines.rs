//! Lines: typed and edited at a terminal, or as they come.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::failure::Failure;

/// Where lines come from.
pub(super) enum Lines {
    /// A person who can see what they type.
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    /// A file or another program.
    Plain,
}

impl Lines {
    /// Standard input; at a terminal with the lines of a file to go back to.
    pub(super) fn open(history: Option<&Path>) -> Result<Self, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Plain);
        }
        let mut editor = DefaultEditor::new()?;
        if let Some(path) = history.filter(|path| path.exists()) {
            editor.load_history(path)?;
        }
        Ok(Self::Terminal { editor: Box::new(editor), history: history.map(Path::to_owned) })
    }

    /// The next line without its end; `None` when there is none.
    pub(super) fn next(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Self::Terminal { editor, .. } => loop {
                match editor.readline("> ") {
                    Ok(line) => {
                        editor.add_history_entry(line.as_str())?;
                        return Ok(Some(line));
                    }
                    // Ctrl-C empties the line.
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            },
            Self::Plain => plain(&mut io::stdin().lock()),
        }
    }

    /// Keeps what was typed, if there is a file for it.
    pub(super) fn close(self) -> Result<(), Failure> {
        if let Self::Terminal { mut editor, history: Some(path) } = self {
            editor.save_history(&path)?;
        }
        Ok(())
    }
}

fn plain(input: &mut impl BufRead) -> Result<Option<String>, Failure> {
    const NAME: &str = "standard input";
    let mut bytes = Vec::new();
    let read = input.read_until(b'\n', &mut bytes);
    read.map_err(|source| Failure::Input { name: NAME.to_owned(), source })?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut line = crate::input::utf8(NAME.to_owned(), bytes)?;
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::plain;
    use crate::failure::Failure;

    #[test]
    fn a_line_comes_without_its_end_and_the_last_may_lack_it() {
        let mut input = &b"a\r\n\nb"[..];
        let mut lines = std::iter::from_fn(|| plain(&mut input).unwrap());
        assert_eq!(lines.next().as_deref(), Some("a"));
        assert_eq!(lines.next().as_deref(), Some(""));
        assert_eq!(lines.next().as_deref(), Some("b"));
        assert_eq!(lines.next(), None);
        let broken = plain(&mut &b"a\xff\n"[..]).unwrap_err();
        assert!(matches!(broken, Failure::NotUtf8 { offset: 1, found: 0xff, .. }));
    }
}
