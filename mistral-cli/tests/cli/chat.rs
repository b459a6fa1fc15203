//! `mistral chat`, its lines coming from a file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{
    Run, arg, command, configure, copy_of, demo, mistral, mistral_with_stdin, run_with_stdin,
};

const ARGS: [&str; 3] = ["chat", "--max-tokens", "12"];

fn chat(more: &[&str], lines: &str) -> Run {
    mistral_with_stdin(&[&ARGS[..], more].concat(), lines.as_bytes())
}

/// The conversation in a file that /save has written.
fn saved(path: &Path) -> Vec<Value> {
    let conversation: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    conversation["messages"].as_array().unwrap().clone()
}

#[test]
fn each_line_is_answered_and_nothing_else_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    let lines = format!("Who lived in the wood?\n\n  \nAnd then?\n/save {}\n", arg(&file));
    let text = chat(&[], &lines).text();
    let messages = saved(&file);
    let roles: Vec<_> = messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    let answer = |index: usize| messages[index]["content"].as_str().unwrap();
    assert_eq!((answer(0), answer(2)), ("Who lived in the wood?", "And then?"));
    assert_eq!(text, format!("{}\n{}\n", answer(1), answer(3)));
}

#[test]
fn the_same_lines_have_the_same_answers_for_any_chunk_and_threads() {
    let lines = "Who lived in the wood?\nAnd then?\nWhat did the fox say to the goose?\n";
    let text = chat(&[], lines).text();
    assert_eq!(chat(&["--chunk", "3", "--threads", "1"], lines).text(), text);
    assert_ne!(chat(&["--seed", "5", "--temperature", "2"], lines).text(), text);
}

#[test]
fn a_loaded_conversation_goes_on_where_it_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my chat.json");
    let path = arg(&file);
    let whole = chat(&[], "Who lived there?\nAnd then?\nWhy?\n").text();
    let first = chat(&[], &format!("Who lived there?\nAnd then?\n/save {path}\n")).text();
    let rest = whole.strip_prefix(&first).unwrap();
    assert_eq!(chat(&["--load", path], "Why?\n").text(), rest);
    let later = chat(&[], &format!("Something else\n/load {path}\nWhy?\n")).text();
    assert!(later.ends_with(&format!("\n{rest}")), "{later}");
}

#[test]
fn a_tilde_is_the_home_of_who_types_it() {
    let home = tempfile::tempdir().unwrap();
    let mut program = command(&ARGS);
    program.env("HOME", home.path()).current_dir(home.path());
    let run = run_with_stdin(program, b"Hi\n/save ~/chat.json\n/reset\n/load ~/chat.json\n");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(saved(&home.path().join("chat.json"))[0]["content"], "Hi");
}

#[test]
fn a_line_that_is_no_text_is_refused_with_its_place_and_the_next_is_answered() {
    let run = mistral_with_stdin(&ARGS, b"four \xff\nHi\n");
    assert_eq!((run.code, run.stdout), (Some(0), chat(&[], "Hi\n").text()));
    let error =
        "error: standard input is not UTF-8: byte 5 is 0xff; convert it, for instance with iconv\n";
    assert_eq!(run.stderr, error);
}

#[test]
fn reset_forgets_and_system_instructs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    let one = chat(&[], "Who lived there?\n").text();
    let two = chat(&[], "Who lived there?\n/reset\nWho lived there?\n").text();
    assert_eq!(two, one.repeat(2));
    let lines = format!("Hi\n/system Be brief.\nHello\n/save {}\n", arg(&file));
    chat(&["--guardrail"], &lines).text();
    let messages = saved(&file);
    assert!(messages[0]["content"].as_str().unwrap().starts_with("Always assist with care"));
    assert_eq!(messages[1], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(messages[2], json!({"role": "user", "content": "Hello"}));
    assert_eq!(messages.len(), 4);
}

/// A folder with the demo model and a template that has tools, and a conversation with two calls.
fn with_calls() -> (TempDir, PathBuf) {
    let folder = copy_of(&demo());
    let template =
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let call =
        |id: &str, name: &str| json!({"id": id, "function": {"name": name, "arguments": "{}"}});
    let request = json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Call!"},
            {"role": "assistant", "tool_calls": [call("call00000", "f"), call("call00001", "g")]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    });
    let file = folder.path().join("calls.json");
    fs::write(&file, request.to_string()).unwrap();
    (folder, file)
}

#[test]
fn open_calls_are_answered_one_by_one_or_forgotten() {
    let (folder, calls) = with_calls();
    // No piece that ends a text: no answer is empty.
    configure(folder.path(), json!({"eos_token_id": 3071}));
    let file = folder.path().join("chat.json");
    let run = |lines: &str| {
        let more = ["--model", arg(folder.path()), "--load", arg(&calls)];
        let run = chat(&more, &format!("{lines}\n/save {}\n", arg(&file)));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let roles = saved(&file).into_iter().map(|m| m["role"].as_str().unwrap().to_owned());
        (run.stderr, roles.collect::<Vec<_>>())
    };
    let (told, roles) = run("/result 3\n/result {\"x\": 1}\n/result 5");
    assert_eq!(roles, ["system", "user", "assistant", "tool", "tool", "assistant"]);
    assert_eq!(told, "note: no call waits for a result\n");
    for (index, (id, content)) in
        [("call00000", "3"), ("call00001", "{\"x\": 1}")].iter().enumerate()
    {
        let message = &saved(&file)[3 + index];
        assert_eq!((&message["tool_call_id"], &message["content"]), (&json!(id), &json!(content)));
    }
    for lines in ["Never mind", "/result 3\nNever mind"] {
        let (told, roles) = run(lines);
        assert_eq!(roles, ["system", "user", "user", "assistant"]);
        assert_eq!(
            told,
            "note: the model's calls were not answered with /result: they are forgotten\n"
        );
    }
    let (_, roles) = run("/reset\nAnd now?");
    assert_eq!(roles, ["system", "user", "assistant"]);
    let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["tools"][0]["function"]["name"], "f");
}

#[test]
fn the_guardrail_stands_before_a_loaded_conversation_once() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from.json"), folder.path().join("to.json"));
    let said = json!({"messages": [{"role": "system", "content": "Be brief."}]});
    fs::write(&from, said.to_string()).unwrap();
    let (from, to) = (arg(&from), arg(&to));
    for (more, lines) in [
        (&["--load", from][..], format!("Hi\n/save {to}\n")),
        (&[], format!("/load {from}\nHi\n/save {to}\n")),
        (&[], format!("/load {from}\n/save {to}\n/load {to}\nHi\n/save {to}\n")),
        (&["--load", from], format!("Hello\n/reset\nHi\n/save {to}\n")),
    ] {
        let run = chat(&[&["--guardrail"], more].concat(), &lines);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{lines}");
        let messages = saved(Path::new(to));
        assert_eq!(messages.len(), 4, "{lines}");
        assert!(messages[0]["content"].as_str().unwrap().starts_with("Always assist with care"));
        assert_eq!(messages[1]["content"], "Be brief.");
        assert_eq!(messages[2]["content"], "Hi");
    }
    mistral(&["chat", "--load", from, "--system", "Be long."]).refusal();
}

#[cfg(unix)]
#[test]
fn a_conversation_is_its_owners_alone_unless_its_file_says_otherwise() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    let save = format!("/save {}\n", arg(&file));
    chat(&[], &save).text();
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    chat(&[], &save).text();
    assert_eq!(mode(), 0o644);
}

#[test]
fn help_lists_the_commands_and_quit_leaves() {
    let text = chat(&[], "/help\n/quit\nNever answered\n").text();
    for command in
        ["/help", "/reset", "/system TEXT", "/result TEXT", "/save FILE", "/load FILE", "/quit"]
    {
        assert!(text.contains(command), "{command}");
    }
    assert!(text.ends_with("Ctrl-C stops an answer.\n"));
}

#[test]
fn what_goes_wrong_in_a_turn_is_told_and_the_conversation_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.json");
    fs::write(&file, r#"{"messages": [{"role": "robot", "content": "x"}]}"#).unwrap();
    let lines = format!("/fly\n/save\n/load none.json\n/load {}\nHi\n", arg(&file));
    let run = chat(&[], &lines);
    assert_eq!(run.code, Some(0));
    assert_eq!(run.stdout, chat(&[], "Hi\n").text());
    for part in [
        "note: there is no /fly",
        "note: expected /save FILE",
        "error: cannot read none.json",
        "broken.json holds no conversation",
        "messages.0.role is \"robot\", expected system, user, assistant or tool",
    ] {
        assert!(run.stderr.contains(part), "{part:?} is not in:\n{}", run.stderr);
    }
}

#[test]
fn a_folders_own_template_is_used_unless_it_is_mistrals() {
    let folder = copy_of(&demo());
    let answer = |template: &str, more: &[&str]| {
        fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        chat(&[&["--model", arg(folder.path())], more].concat(), "Who lived there?\n")
    };
    let plain = chat(&[], "Who lived there?\n").text();
    let own = "{{ bos_token }}{% for m in messages %}Tale: {{ m.content }}\n{% endfor %}";
    let other = answer(own, &[]).text();
    assert_ne!(other, plain);
    assert_eq!(answer(&own.replace("Tale", "[INST]"), &[]).text(), plain);
    assert_eq!(answer(own, &["--template", "plain"]).text(), plain);
    assert_eq!(answer(own, &["--template", "jinja"]).text(), other);
    let broken = answer("{% for %}", &[]);
    assert_eq!(broken.code, Some(2));
    assert!(broken.stderr.contains("no Jinja that can be run"), "{}", broken.stderr);
    let none = mistral(&[&ARGS[..], &["--template", "jinja"]].concat()).refusal();
    assert!(none.contains("choose another template than jinja"), "{none}");
}

#[test]
fn a_full_context_is_told_with_the_cure() {
    let folder = copy_of(&demo());
    configure(folder.path(), json!({"sliding_window": null, "max_position_embeddings": 24}));
    let model = ["--model", arg(folder.path()), "--max-tokens", "100"];
    let run = mistral_with_stdin(&[&["chat"][..], &model].concat(), b"A\nAnd then?\n/reset\nB\n");
    assert_eq!(run.code, Some(0));
    assert!(
        run.stderr.contains("the model's context is full: /reset starts anew"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("exceed the context of 24"), "{}", run.stderr);
}

#[test]
fn bad_options_are_refused_before_anything_is_read() {
    for (args, part) in [
        (&["--template", "v9"][..], "no chat template is called \"v9\""),
        (&["--temperature", "-1"], "temperature is -1"),
        (&["--stop", ""], "stop string"),
        (&["--load", "none.json"], "cannot read none.json"),
    ] {
        let run = mistral(&[&ARGS[..], args].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(run.stderr.contains(part), "{part:?} is not in:\n{}", run.stderr);
    }
    let error = mistral(&[&ARGS[..], &["--template", "v3-7b"]].concat()).refusal();
    assert!(error.contains("no control piece [INST]"), "{error}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    use std::io::{Read, Write};
    use std::process::Stdio;

    let folder = copy_of(&demo());
    // No piece that ends a text: the answer would never end.
    configure(folder.path(), json!({"eos_token_id": 3071}));
    let file = folder.path().join("chat.json");
    let args = ["chat", "--model", arg(folder.path()), "--max-tokens", "1000000"];
    let mut program = command(&args);
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    stdin.write_all(b"Tell me a tale\n").unwrap();
    let mut first = [0];
    stdout.read_exact(&mut first).unwrap();
    super::program::interrupt_twice(&child);
    stdin.write_all(format!("/save {}\n", arg(&file)).as_bytes()).unwrap();
    drop(stdin);
    let mut text = first.to_vec();
    stdout.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let messages = saved(&file);
    let said = messages[1]["content"].as_str().unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), format!("{said}\n"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_program_where_it_waits_for_another_one() {
    use std::io::{Read, Write};
    use std::process::Stdio;
    use std::thread;
    use std::time::Duration;

    let mut program = command(&ARGS);
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"/reset\n/help\n").unwrap();
    let mut help = chat(&[], "/help\n").text().into_bytes();
    child.stdout.as_mut().unwrap().read_exact(&mut help).unwrap();
    // The help is printed: in no time the next line is waited for.
    thread::sleep(Duration::from_millis(300));
    super::program::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]));
    drop(stdin);
}

/// What is saved when Ctrl-C comes so long after the second line, the program's input, was taken;
/// `None` if it came before there was anything to stop, and ended the program.
#[cfg(unix)]
fn saved_after_ctrl_c([first, long]: [&str; 2], pause: std::time::Duration) -> Option<Vec<Value>> {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::Stdio;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    let mut program = command(&["chat", "--max-tokens", "1"]);
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut stdout, mut answer) = (BufReader::new(stdout), String::new());
    writeln!(stdin, "{first}").unwrap();
    stdout.read_line(&mut answer).unwrap();
    // Returns once all but a pipe's content is read.
    writeln!(stdin, "{long}").unwrap();
    std::thread::sleep(pause);
    super::program::interrupt(&child);
    // Nobody may be there to read it.
    let _ = writeln!(stdin, "/save {}", arg(&file));
    drop(stdin);
    stdout.read_to_string(&mut answer).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stderr, b"");
    match output.status.code() {
        Some(0) => Some(saved(&file)),
        code => {
            assert_eq!(code, Some(1));
            None
        }
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_a_message_is_read_forgets_the_message_and_not_the_conversation() {
    let first = "Who lived in the wood?";
    let long = "The fox and the goose went to the river. ".repeat(5000);
    // Longer for a machine that is too busy to begin; to read it all takes it longer still.
    let pauses = [100, 400, 1600].map(std::time::Duration::from_millis);
    let messages = pauses.into_iter().find_map(|pause| saved_after_ctrl_c([first, &long], pause));
    let messages = messages.expect("Ctrl-C ended the program");
    let roles: Vec<_> = messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant"]);
    assert_eq!(messages[0]["content"], first);
}
