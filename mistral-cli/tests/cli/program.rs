//! Running the program, and folders with models to run it on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// How a run of the program ended.
#[derive(Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output of a run that must have gone well, in silence.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""));
        self.stdout
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// The message of a run that must have refused its input.
    #[track_caller]
    pub(crate) fn refusal(self) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (Some(2), ""), "{}", self.stderr);
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        self.stderr
    }
}

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mistral"));
    command.args(args).stdin(Stdio::null());
    command
}

pub(crate) fn mistral(args: &[&str]) -> Run {
    Run::new(command(args).output().unwrap())
}

pub(crate) fn mistral_with_stdin(args: &[&str], stdin: &[u8]) -> Run {
    run_with_stdin(command(args), stdin)
}

pub(crate) fn run_with_stdin(mut command: Command, stdin: &[u8]) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    Run::new(child.wait_with_output().unwrap())
}

/// What Ctrl-C does.
#[cfg(unix)]
pub(crate) fn interrupt(child: &std::process::Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// What Ctrl-C does in the hands of the impatient.
#[cfg(unix)]
pub(crate) fn interrupt_twice(child: &std::process::Child) {
    let twice = ["-c", "kill -INT $0; kill -INT $0", &child.id().to_string()];
    assert!(Command::new("sh").args(twice).status().unwrap().success());
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of golden data of `mistral-model`.
pub(crate) fn golden(path: &str) -> PathBuf {
    package().join("../mistral-model/tests/golden").join(path)
}

pub(crate) fn demo() -> PathBuf {
    package().join("demo/model")
}

/// A text that the demo model has not seen.
pub(crate) fn demo_corpus() -> PathBuf {
    package().join("demo/corpus/valid.txt")
}

/// A copy of a model's folder, to be spoiled.
pub(crate) fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// Sets keys of the `config.json` in a folder.
pub(crate) fn configure(folder: &Path, changes: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}
