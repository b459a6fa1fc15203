//! `mistral generate`.

use std::io::Read;
use std::process::Stdio;

use serde_json::json;

use super::program::{Run, arg, command, configure, copy_of, demo, mistral, mistral_with_stdin};

const PROMPT: &str = "Once upon a time there was";

/// A few tokens, and none of them the last.
fn generate(prompt: &str, more: &[&str]) -> Run {
    let args = ["generate", prompt, "--max-tokens", "24", "--ignore-eos"];
    mistral(&[&args[..], more].concat())
}

#[track_caller]
fn text(prompt: &str, more: &[&str]) -> String {
    generate(prompt, more).text()
}

#[test]
fn the_prompt_and_what_follows_it_go_to_stdout_and_nothing_to_stderr() {
    let text = text(PROMPT, &[]);
    assert!(text.starts_with(PROMPT));
    assert!(text.ends_with('\n'));
    assert!(text.len() > PROMPT.len() + 1);
}

#[test]
fn the_demo_model_writes_its_text() {
    // Changes with the demo model, and with anything that changes a bit.
    let run = mistral(&["generate", "Once upon a time", "--max-tokens", "60"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), include_str!("demo_text.txt")));
}

#[test]
fn sinks_change_a_text_from_where_it_outgrows_the_window() {
    let written = |sinks: &str| {
        let window = ["--window", "16", "--temperature", "0", "--max-tokens", "60"];
        let args = [&["generate", PROMPT, "--ignore-eos", "--sinks", sinks][..], &window];
        mistral(&args.concat()).text()
    };
    let (without, with) = (written("0"), written("4"));
    assert_ne!(without, with);
    // The prompt and what is written beside it fit into the window at first.
    let common = without.bytes().zip(with.bytes()).take_while(|(a, b)| a == b).count();
    assert!(common > PROMPT.len(), "{without}\n{with}");
    assert_eq!(mistral(&["generate", PROMPT, "--sinks", "99999999999999999999"]).code, Some(2));
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    assert_eq!(text(PROMPT, &["--seed", "5"]), text(PROMPT, &["--seed", "5"]));
    assert_eq!(text(PROMPT, &["--seed", "0"]), text(PROMPT, &[]));
    let of_seed = |seed| text(PROMPT, &["--temperature", "1.5", "--min-p", "0", "--seed", seed]);
    assert_ne!(of_seed("5"), of_seed("6"));
}

#[test]
fn without_temperature_the_seed_does_not_matter() {
    let greedy = |seed| text(PROMPT, &["--temperature", "0", "--seed", seed]);
    assert_eq!(greedy("1"), greedy("2"));
}

#[test]
fn neither_chunk_nor_threads_change_the_text() {
    // Longer than the demo's window, so that the cache turns over while the prompt is read.
    let prompt = "The king had a daughter who was as fair as the day is long. ".repeat(12);
    let whole = text(&prompt, &["--chunk", "512", "--threads", "1"]);
    for (chunk, threads) in [("1", "2"), ("7", "1"), ("7", "2"), ("512", "2")] {
        let other = text(&prompt, &["--chunk", chunk, "--threads", threads]);
        assert_eq!(other, whole, "chunk {chunk}, {threads} threads");
    }
}

#[test]
fn the_demo_in_the_program_is_the_one_in_the_repository() {
    let (folder, inside) = (demo(), text(PROMPT, &[]));
    assert_eq!(text(PROMPT, &["--model", arg(&folder)]), inside);
    assert_eq!(text(PROMPT, &["--model", arg(&folder), "--mmap"]), inside);
}

#[test]
fn json_tells_what_the_text_is_and_how_it_came_about() {
    let args = ["generate", PROMPT, "--max-tokens", "9", "--ignore-eos", "--seed", "3"];
    let plain = mistral(&args).text();
    let report = mistral(&[&args[..], &["--json"]].concat()).json();
    let ids = mistral(&["tokenize", PROMPT, "--json"]).json()["ids"].as_array().unwrap().len();
    assert_eq!(report["prompt"], PROMPT);
    assert_eq!(plain, format!("{PROMPT}{}\n", report["text"].as_str().unwrap()));
    assert_eq!(report["prompt_tokens"], ids);
    assert_eq!(report["generated_tokens"], 9);
    assert_eq!(report["stop_reason"], "max_tokens");
    assert_eq!(report["seed"], 3);
    assert!(report["prefill_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(report["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn no_tokens_are_a_text_too() {
    let report = mistral(&["generate", PROMPT, "--max-tokens", "0", "--json"]).json();
    assert_eq!((&report["text"], &report["generated_tokens"]), (&json!(""), &json!(0)));
    assert!(report["decode_tokens_per_second"].is_null());
}

#[test]
fn a_stop_string_ends_the_text_before_itself() {
    let whole = text(PROMPT, &[]);
    let written = whole.trim_end_matches('\n').strip_prefix(PROMPT).unwrap();
    let stop: String = written.chars().skip(12).take(5).collect();
    let before = written.split(stop.as_str()).next().unwrap();
    let more = ["--stop", "never written", "--stop", &stop];
    assert_eq!(text(PROMPT, &more), format!("{PROMPT}{before}\n"));
    let report = generate(PROMPT, &[&more[..], &["--json"]].concat()).json();
    assert_eq!((&report["stop_reason"], &report["text"]), (&json!("stop_string"), &json!(before)));
    assert_eq!(report["stop_string"], stop);
}

#[test]
fn the_prompt_may_come_from_stdin_less_its_last_line_break() {
    let args = ["generate", "-", "--max-tokens", "10"];
    let direct = mistral(&["generate", PROMPT, "--max-tokens", "10"]);
    for ending in ["", "\n", "\r\n"] {
        assert_eq!(mistral_with_stdin(&args, format!("{PROMPT}{ending}").as_bytes()), direct);
    }
    assert_ne!(mistral_with_stdin(&args, format!("{PROMPT}\n\n").as_bytes()), direct);
}

#[test]
fn without_a_prompt_the_model_starts_by_itself() {
    let report = mistral(&["generate", "--max-tokens", "8", "--ignore-eos", "--json"]).json();
    assert_eq!((&report["prompt"], &report["prompt_tokens"]), (&json!(""), &json!(1)));
    assert_eq!(report["generated_tokens"], 8);
}

#[test]
fn every_format_of_the_cache_can_be_asked_for() {
    assert_eq!(text(PROMPT, &["--kv-dtype", "f16"]), text(PROMPT, &[]));
    for dtype in ["f32", "bf16"] {
        assert!(text(PROMPT, &["--kv-dtype", dtype]).starts_with(PROMPT));
    }
}

#[test]
fn a_model_without_a_window_writes_until_its_context_is_full() {
    let folder = copy_of(&demo());
    configure(folder.path(), json!({"sliding_window": null, "max_position_embeddings": 16}));
    let model = ["--model", arg(folder.path()), "--ignore-eos", "--json"];
    let report = mistral(&[&["generate", "A fox"][..], &model].concat()).json();
    assert_eq!(report["stop_reason"], "context_full");
    let tokens = |field: &str| report[field].as_u64().unwrap();
    // The last token written needs no place of its own.
    assert_eq!(tokens("prompt_tokens") + tokens("generated_tokens"), 17);
    let long = PROMPT.repeat(4);
    let error = mistral(&[&["generate", long.as_str()][..], &model].concat()).refusal();
    assert!(error.contains("exceed the context of 16"), "{error}");
}

#[test]
fn a_reader_who_has_read_enough_is_no_failure() {
    let mut command = command(&["generate", "--max-tokens", "100000", "--ignore-eos"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_text_with_a_line_break_and_success() {
    let mut command = command(&["generate", PROMPT, "--max-tokens", "100000", "--ignore-eos"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    super::program::interrupt(&child);
    let mut text = Vec::new();
    stdout.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    assert_eq!(text.last(), Some(&b'\n'));
}
