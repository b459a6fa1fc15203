//! `mistral chat` at a terminal: what a person types, sees, and gets back.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rexpect::process::WaitStatus;
use rexpect::reader::Options;
use rexpect::session::PtySession;
use rexpect::spawn_with_options;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{arg, configure, copy_of, demo};

const PROMPT: &str = "> ";
const LEFT: &str = "\u{1b}[D";
/// Ctrl-E: to the end of the line.
const END: &str = "\u{5}";
const UP: &str = "\u{1b}[A";

/// A person at a terminal.
struct Person(PtySession);

impl Person {
    /// Starts the program in a folder, so that the names of files in it are short enough for a line
    /// of the terminal, and waits until it has begun.
    #[track_caller]
    fn sits_down(folder: &TempDir, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mistral"));
        // Whatever terminal the tests run at, or none.
        command.arg("chat").args(args).env("TERM", "xterm").current_dir(folder);
        let options = Options::new().timeout_ms(Some(60_000)).strip_ansi_escape_codes(true);
        let mut person = Self(spawn_with_options(command, options).unwrap());
        person.sees("note: /help lists the commands, Ctrl-D leaves");
        person.sees(PROMPT);
        person
    }

    #[track_caller]
    fn sees(&mut self, text: &str) -> String {
        self.0.exp_string(text).unwrap()
    }

    fn types(&mut self, text: &str) {
        self.0.send(text).unwrap();
        self.0.flush().unwrap();
    }

    fn presses_ctrl(&mut self, key: char) {
        self.0.send_control(key).unwrap();
    }

    /// Types a line and returns what is shown until the next one can be typed.
    #[track_caller]
    fn says(&mut self, line: &str) -> String {
        self.types(&format!("{line}\r"));
        self.sees("\n");
        self.sees(PROMPT)
    }

    /// What was said so far, in the form of /save.
    #[track_caller]
    fn saves(&mut self, folder: &TempDir) -> Vec<Value> {
        let shown = self.says("/save my chat.json");
        assert!(shown.contains("note: saved "), "{shown}");
        let saved = fs::read(folder.path().join("my chat.json")).unwrap();
        let saved: Value = serde_json::from_slice(&saved).unwrap();
        saved["messages"].as_array().unwrap().clone()
    }

    /// Leaves as terminals have it, and the program ends well.
    #[track_caller]
    fn leaves(mut self) {
        self.presses_ctrl('d');
        self.0.exp_eof().unwrap();
        let end = self.0.process().wait().unwrap();
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}");
    }
}

/// The demo model without an end: its answers go on until they are stopped.
fn endless() -> TempDir {
    let folder = copy_of(&demo());
    configure(folder.path(), json!({"eos_token_id": 3071}));
    folder
}

#[test]
fn a_line_can_be_edited_and_the_answer_is_what_is_shown() {
    let (folder, model) = (tempfile::tempdir().unwrap(), endless());
    let args = ["--model", arg(model.path()), "--max-tokens", "8"];
    let mut person = Person::sits_down(&folder, &args);
    let shown = person.says(&format!("Who lived there{LEFT}{LEFT}{LEFT}{LEFT}{LEFT}in {END}?"));
    let messages = person.saves(&folder);
    assert_eq!(messages[0]["content"], "Who lived in there?");
    let answer = messages[1]["content"].as_str().unwrap().replace('\n', "\r\n");
    assert!(shown.contains(&answer), "{answer:?} is not in {shown:?}");
    assert!(shown.contains("note: cut here: --max-tokens allows longer answers"), "{shown:?}");
    person.leaves();
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let (folder, model) = (tempfile::tempdir().unwrap(), endless());
    let args = ["--model", arg(model.path()), "--max-tokens", "1000000"];
    let mut person = Person::sits_down(&folder, &args);
    person.types("Tell me a tale\r");
    // The line itself, and the answer's first words.
    person.sees("\n");
    let begun = person.0.exp_regex("[a-z]+[^a-z]+[a-z]").unwrap();
    person.presses_ctrl('c');
    person.sees(PROMPT);
    let messages = person.saves(&folder);
    let said = messages[1]["content"].as_str().unwrap().replace('\n', "\r\n");
    // Of what came after that, Ctrl-C makes the terminal itself drop what it has not shown yet.
    let shown = begun.0 + &begun.1;
    assert!(said.contains(shown.trim()), "{shown:?} is not in {said:?}");
    assert_eq!(messages.len(), 2);
    person.leaves();
}

#[test]
fn ctrl_c_empties_the_line_and_then_tells_how_to_leave() {
    let folder = tempfile::tempdir().unwrap();
    let mut person = Person::sits_down(&folder, &["--max-tokens", "2"]);
    person.types("never said");
    person.sees("never said");
    person.presses_ctrl('c');
    assert!(!person.sees(PROMPT).contains("leaves"));
    person.presses_ctrl('c');
    assert!(person.sees(PROMPT).contains("note: Ctrl-D or /quit leaves"));
    assert_eq!(person.saves(&folder), [] as [Value; 0]);
    person.leaves();
}

#[test]
fn lines_come_back_also_those_of_an_earlier_run() {
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("lines");
    let args = ["--max-tokens", "2", "--history", "lines"];
    let mut person = Person::sits_down(&folder, &args);
    person.says("The first line");
    person.says("");
    // Whatever becomes of the program, the line is kept.
    assert!(fs::read_to_string(&history).unwrap().contains("The first line"));
    drop(person);

    let mut person = Person::sits_down(&folder, &args);
    person.says(&format!("{UP} again"));
    assert_eq!(person.saves(&folder)[0]["content"], "The first line again");
    person.leaves();
    let mode = fs::metadata(&history).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can read {mode:o}");
}

#[test]
fn a_file_that_is_no_history_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let chat = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mistral"));
        command.args(["chat", "--history", "notes"]).env("TERM", "xterm").current_dir(&folder);
        let options = Options::new().timeout_ms(Some(60_000));
        spawn_with_options(command, options).unwrap()
    };
    for text in ["dear diary\n", "#V22\n", "#"] {
        fs::write(&notes, text).unwrap();
        let mut session = chat();
        let shown = session.exp_eof().unwrap();
        assert!(shown.starts_with("error: notes does not begin with #V2"), "{shown}");
        let end = session.process().wait().unwrap();
        assert!(matches!(end, WaitStatus::Exited(_, 2)), "{end:?}");
        assert_eq!(fs::read_to_string(&notes).unwrap(), text);
    }
    fs::write(&notes, "").unwrap();
    let mut person = Person::sits_down(&folder, &["--history", "notes"]);
    person.says("/reset");
    person.leaves();
    assert!(fs::read_to_string(&notes).unwrap().starts_with("#V2\n"));
}

#[test]
fn a_byte_that_is_no_text_costs_its_line_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut person = Person::sits_down(&folder, &["--max-tokens", "2"]);
    let mut terminal = person.0.process().get_file_handle().unwrap();
    terminal.write_all(b"caf\xff").unwrap();
    person.sees("note: what was typed is not UTF-8: the line is empty again");
    person.sees(PROMPT);
    person.says("Hi");
    let messages = person.saves(&folder);
    assert_eq!((messages.len(), &messages[0]["content"]), (2, &json!("Hi")));
    person.leaves();
}

#[test]
fn commands_tell_what_became_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name, text| fs::write(folder.path().join(name), text).unwrap();
    file("good.json", r#"{"messages": [{"role": "user", "content": "Hi"}]}"#);
    file("bad.json", r#"{"messages": [{"role": "user", "#);
    let mut person = Person::sits_down(&folder, &["--max-tokens", "2"]);
    for (line, told) in [
        ("", ""),
        ("/fly", "note: there is no /fly: /help lists the commands, and //fly is said"),
        ("/help", "Ctrl-C stops an answer."),
        ("/load", "note: expected /load FILE"),
        ("/load none.json", "error: cannot read none.json"),
        ("/load bad.json", "error: bad.json holds no conversation"),
        ("/load good.json", "note: loaded 1 message\r"),
        ("/save none/x.json", "error: cannot write none/x.json"),
        ("/save .", "is no ordinary file"),
        ("/system Be brief.", "note: new instructions, and what was said is forgotten"),
        ("/reset", "note: what was said is forgotten"),
        ("/system", "note: no instructions, and what was said is forgotten"),
    ] {
        let shown = person.says(line);
        assert!(shown.contains(told), "{line:?}: {told:?} is not in {shown:?}");
    }
    assert_eq!(person.saves(&folder), [] as [Value; 0]);
    person.types("/quit\r");
    person.0.exp_eof().unwrap();
}

#[test]
fn a_history_that_cannot_be_kept_is_refused_before_the_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mistral"));
    command.args(["chat", "--history", "none/lines"]).env("TERM", "xterm").current_dir(&folder);
    let options = Options::new().timeout_ms(Some(60_000));
    let mut session = spawn_with_options(command, options).unwrap();
    let shown = session.exp_eof().unwrap();
    assert!(shown.starts_with("error: cannot write none/lines\r\n"), "{shown}");
    let end = session.process().wait().unwrap();
    assert!(matches!(end, WaitStatus::Exited(_, 1)), "{end:?}");
}
