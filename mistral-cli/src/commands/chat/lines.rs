//! Lines: typed and edited at a terminal, or as they come.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};

use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};

use super::note;
use crate::failure::Failure;
use crate::input;

const PROMPT: &str = "> ";
/// Most lines that are kept to go back to.
const KEPT: usize = 1000;

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
        // What is typed is not part of the answers, if these go into a file.
        let behavior =
            if io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Config::builder().behavior(behavior).max_history_size(KEPT)?.build();
        let mut editor = DefaultEditor::with_config(config)?;
        if let Some(path) = history {
            touch(path).map_err(|source| Failure::Output { path: path.to_owned(), source })?;
            check(path)?;
            editor.load_history(path).map_err(|error| match error {
                ReadlineError::Io(source) => Failure::Input { name: input::name(path), source },
                other => other.into(),
            })?;
        }
        Ok(Self::Terminal { editor: Box::new(editor), history: history.map(Path::to_owned) })
    }

    /// Whether a person is waiting to hear what became of a command.
    pub(super) fn of_a_person(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// The next line without its end; `None` when there is none.
    pub(super) fn next(&mut self) -> Result<Option<String>, Failure> {
        let Self::Terminal { editor, history } = self else {
            return plain(&mut io::stdin().lock());
        };
        let mut emptied = false;
        loop {
            match editor.readline(PROMPT) {
                Ok(line) => {
                    editor.add_history_entry(line.as_str())?;
                    // At once, so that nothing is lost however the program ends.
                    if let Some(path) = history.take_if(|path| editor.append_history(path).is_err())
                    {
                        note(&format!(
                            "{} cannot be written: lines are kept no more",
                            path.display()
                        ));
                    }
                    return Ok(Some(line));
                }
                // Ctrl-C empties the line.
                Err(ReadlineError::Interrupted) if emptied => note("Ctrl-D or /quit leaves"),
                Err(ReadlineError::Interrupted) => emptied = true,
                Err(ReadlineError::Eof) => return Ok(None),
                // The editor has let go of the line, and of what came with that byte.
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                    note("what was typed is not UTF-8: the line is empty again");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Makes sure that a file can be written to. What people type is nobody else's business.
fn touch(path: &Path) -> io::Result<()> {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Refuses a file of other lines than ours: the editor would write it anew without them.
fn check(path: &Path) -> Result<(), Failure> {
    // As the editor begins its own.
    const MARK: &[u8] = b"#V2\n";
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut begin));
    read.map_err(|source| Failure::Input { name: input::name(path), source })?;
    if begin.is_empty() || begin == MARK {
        return Ok(());
    }
    Err(Failure::NotAHistory { path: path.to_owned() })
}

fn plain(input: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let name = || input::STDIN_NAME.to_owned();
    let line = input::line(input, name)?;
    line.map(|line| input::utf8(name(), line)).transpose()
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
