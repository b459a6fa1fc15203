//! `mistral generate --batch` and `--speculate`.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::program::{arg, command, configure, copy_of, demo, mistral, mistral_with_stdin};

/// Lines that differ in everything.
fn input() -> String {
    let lines = [
        json!({"prompt": "Once upon a time", "seed": 3}),
        json!({"prompt": "The king", "max_tokens": 5, "id": "k"}),
        json!({"prompt": "Once upon a time there was", "temperature": 0, "id": {"n": [1]}}),
        json!({"prompt": "A fox", "top_k": 4, "top_p": 0.5, "min_p": 0.01, "max_tokens": 40}),
        json!({"prompt": "Once upon a time there was a", "max_tokens": 0}),
        json!({"prompt": "A fox and a wolf", "stop": ["e"], "max_tokens": 100}),
    ];
    lines.map(|line| format!("{line}\n")).concat()
}

/// Runs a batch and gives its output.
fn batch(folder: &Path, input: &str, more: &[&str]) -> String {
    let (from, to) = (folder.join("in.jsonl"), folder.join("out.jsonl"));
    fs::write(&from, input).unwrap();
    let args = ["generate", "--batch", arg(&from), "--out", arg(&to), "--max-tokens", "20"];
    assert_eq!(mistral(&[&args[..], more].concat()).text(), "");
    fs::read_to_string(to).unwrap()
}

fn parse(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_line_gets_the_text_it_gets_alone_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let answers = parse(&batch(folder.path(), &input(), &["--seed", "7", "--ignore-eos"]));
    assert_eq!(answers.len(), 6);
    for (index, (line, answer)) in parse(&input()).iter().zip(&answers).enumerate() {
        let mut args = ["generate", "--max-tokens", "20", "--seed", "7", "--ignore-eos", "--json"]
            .map(str::to_owned)
            .to_vec();
        args.push(line["prompt"].as_str().unwrap().to_owned());
        for name in ["max_tokens", "temperature", "top_k", "top_p", "min_p", "seed"] {
            if let Some(value) = line.get(name) {
                // The last one counts.
                args.retain(|arg| *arg != "20" || name != "max_tokens");
                args.retain(|arg| *arg != "7" || name != "seed");
                let option = format!("--{}", name.replace('_', "-"));
                args.retain(|arg| *arg != option);
                args.extend([option, value.to_string()]);
            }
        }
        if let Some(stop) = line.get("stop") {
            args.extend(["--stop".to_owned(), stop[0].as_str().unwrap().to_owned()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let alone = mistral(&args).json();
        for field in ["prompt", "text", "prompt_tokens", "stop_reason", "stop_string", "seed"] {
            assert_eq!(answer[field], alone[field], "{field} of line {index}");
        }
        assert_eq!(answer["generated_tokens"], alone["generated_tokens"]);
        assert_eq!(answer["index"], index);
        assert_eq!(answer.get("id"), line.get("id"));
    }
    assert_eq!(answers[5]["stop_reason"], "stop_string");
}

#[test]
fn neither_company_nor_threads_nor_chunks_change_a_byte() {
    let run = |more: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        batch(folder.path(), &input(), more)
    };
    let expected = run(&[]);
    assert_eq!(run(&["--parallel", "1"]), expected);
    assert_eq!(run(&["--parallel", "3", "--threads", "1", "--chunk", "2"]), expected);
}

#[test]
fn a_line_that_cannot_be_answered_is_told_so_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let bad = [
        r#"{"prompt": "A fox", "max_tokens": 1}"#,
        "",
        r#"{"prompt": "A fox""#,
        r#"{"text": "A fox"}"#,
        r#"{"prompt": "A fox", "temperature": -1, "id": 7}"#,
        r#"{"prompt": "A fox", "stop": [""]}"#,
        r#"{"prompt": "A fox", "max_tokens": 2}"#,
    ];
    let answers = parse(&batch(folder.path(), &bad.join("\n"), &[]));
    assert_eq!(answers.len(), bad.len());
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer.get("error").is_none(), [0, 6].contains(&index), "{answer}");
    }
    let message = answers[4]["error"].as_str().unwrap();
    assert!(message.contains("temperature is -1"), "{message}");
    assert_eq!(answers[4]["id"], 7);
}

#[test]
fn what_is_wrong_with_a_line_is_told_with_its_number_and_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let good = "{\"prompt\": \"A fox\", \"max_tokens\": 1}";
    let bad: [(&[u8], &str); 5] = [
        (
            b"\xef\xbb\xbf{\"prompt\": \"A fox\"}",
            "line 1 of the batch is no request: it begins with a byte order mark",
        ),
        (
            b"{\"prompt\": \"caf\xe9\"}",
            "line 2 of the batch is no request: it is not UTF-8: its byte 15 is 0xe9; convert it",
        ),
        (b"", "line 3 of the batch is no request: it is empty"),
        (b"{\"prompt\": \"\", \"id\": 4}", "the prompt is empty"),
        (
            b"{\"prompt\": 1}",
            "line 5 of the batch is no request: it is not the JSON of a request: invalid type",
        ),
    ];
    let (from, to) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let lines = bad.iter().map(|(line, _)| *line).chain([good.as_bytes()]);
    fs::write(&from, lines.collect::<Vec<_>>().join(&b'\n')).unwrap();
    let args = ["generate", "--batch", arg(&from), "--out", arg(&to)];
    mistral(&args).text();
    let answers = parse(&fs::read_to_string(&to).unwrap());
    for (answer, (_, told)) in answers.iter().zip(bad) {
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(told), "{told:?} is not in {error:?}");
    }
    assert_eq!(answers[3]["id"], 4);
    assert!(answers[5]["text"].is_string());
}

#[test]
fn an_id_comes_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let ids =
        ["12345678901234567890123", "null", "1.50", "{\"b\": [1e2],  \"a\": null}", "\"\\u00e9\""];
    let lines = ids.map(|id| format!("{{\"prompt\": \"A\", \"id\": {id}, \"max_tokens\": 0}}\n"));
    let answers = batch(folder.path(), &lines.concat(), &[]);
    for (answer, id) in answers.lines().zip(ids) {
        assert!(answer.contains(&format!(",\"id\":{id},")), "{id} is not in {answer}");
    }
    let refused = "{\"prompt\": \"\", \"id\": null}\n{\"prompt\": \"\"}\n";
    let answers = batch(tempfile::tempdir().unwrap().path(), refused, &[]);
    let null: Vec<bool> = answers.lines().map(|answer| answer.contains("\"id\":null,")).collect();
    assert_eq!(null, [true, false]);
}

#[test]
fn answers_of_other_contents_are_refused_wherever_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&demo());
    let schema = folder.path().join("schema.json");
    fs::write(&schema, "{\"type\": \"integer\"}").unwrap();
    let line = "{\"prompt\": \"A fox\", \"max_tokens\": 2}\n";
    let run = |model: &Path, schema: &Path| {
        let (from, to) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
        fs::write(&from, line).unwrap();
        let args = ["generate", "--batch", arg(&from), "--out", arg(&to), "--model", arg(model)];
        mistral(&[&args[..], &["--json-schema", arg(schema)]].concat())
    };
    run(model.path(), &schema).text();
    // The same elsewhere.
    let moved = folder.path().join("moved.json");
    fs::copy(&schema, &moved).unwrap();
    run(&demo(), &moved).text();
    fs::write(&schema, "{\"type\": \"boolean\"}").unwrap();
    assert!(run(model.path(), &schema).refusal().contains("line 1 of"));
    // The same name, and other numbers in it.
    configure(model.path(), json!({"rms_norm_eps": 0.25}));
    assert!(run(model.path(), &moved).refusal().contains("line 1 of"));
}

#[test]
fn after_a_kill_it_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let lines = (0..12).map(|i| {
        let tokens = if i < 3 { 5 } else { 150 };
        format!("{}\n", json!({"prompt": "Once upon a time", "seed": i, "max_tokens": tokens}))
    });
    let input: String = lines.collect();
    let more = ["--parallel", "2", "--ignore-eos", "--threads", "1"];
    let expected = {
        let other = tempfile::tempdir().unwrap();
        batch(other.path(), &input, &more)
    };
    let (from, to) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    fs::write(&from, &input).unwrap();
    let args = ["generate", "--batch", arg(&from), "--out", arg(&to), "--max-tokens", "20"];
    let mut child = command(&[&args[..], &more].concat()).spawn().unwrap();
    let written = || fs::read_to_string(&to).unwrap_or_default().lines().count();
    while written() < 3 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(written() < 12, "killed too late");
    let half = fs::read_to_string(&to).unwrap();
    assert!(expected.starts_with(&half));
    // Killed in the middle of a line, it would look like this.
    fs::write(&to, &expected[..half.len() + 30]).unwrap();
    assert_eq!(batch(folder.path(), &input, &more), expected);
    // Nothing is left to do: nothing is done.
    assert_eq!(batch(folder.path(), &input, &more), expected);
}

#[test]
fn a_batch_that_is_done_is_done_before_the_weights_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&demo());
    let line = "{\"prompt\": \"A fox\", \"max_tokens\": 2}\n";
    let run = |lines: &str| {
        let (from, to) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
        fs::write(&from, lines).unwrap();
        let args = ["generate", "--batch", arg(&from), "--out", arg(&to), "--model"];
        mistral(&[&args[..], &[arg(model.path()), "--weights", "q4_0"]].concat())
    };
    assert_eq!(run(line).text(), "");
    // Weights that no block can hold, in a row that the digest leaves out: who reads them is told.
    let path = model.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let scales = &header["model.layers.0.self_attn.q_proj.weight_scale"];
    let row = 2 * scales["shape"][1].as_u64().unwrap() as usize;
    let begin = 8 + length + scales["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[begin + 20 * row..][..2].copy_from_slice(&0x7c00_u16.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert_eq!(run(line).text(), "");
    let told = run(&line.repeat(2)).refusal();
    assert!(told.contains("row 20, column 0 is not finite"), "{told}");
}

#[test]
fn what_is_not_its_own_output_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = batch(folder.path(), &input(), &[]);
    let (from, to) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let args = ["generate", "--batch", arg(&from), "--out", arg(&to), "--max-tokens", "20"];
    // Other options, and another input.
    for other in [["--seed", "9"], ["--sinks", "2"], ["--stop", "x"], ["--window", "5"]] {
        let error = mistral(&[&args[..], &other].concat()).refusal();
        assert!(error.contains("line 1 of"), "{error}");
    }
    let changed = input().replace("The king", "The queen");
    let error = mistral_with_stdin(
        &[&["generate", "--batch", "-"], &args[3..]].concat(),
        changed.as_bytes(),
    );
    assert!(error.refusal().contains("line 2 of"));
    assert_eq!(fs::read_to_string(&to).unwrap(), first);
    fs::write(&to, "notes without an end").unwrap();
    mistral(&args).refusal();
    assert_eq!(fs::read_to_string(&to).unwrap(), "notes without an end");
    // Of the options, what does not go together.
    for more in [&["A fox"][..], &["--json"], &["--speculate", "lookup"]] {
        mistral(&[&args[..], more].concat()).refusal();
    }
    mistral(&["generate", "--batch", arg(&from)]).refusal();
    mistral(&["generate", "--parallel", "3"]).refusal();
}

#[test]
fn guesses_change_no_character() {
    let prompt = "The wolf came to the door and knocked. The wolf came to the door and knocked.";
    for more in [&["--temperature", "0"][..], &["--temperature", "1", "--seed", "5"]] {
        let args = [&["generate", prompt, "--max-tokens", "200", "--ignore-eos"], more].concat();
        let plain = mistral(&args).text();
        let folder = demo();
        for drafter in ["lookup", arg(&folder)] {
            let guessed = [&args[..], &["--speculate", drafter]].concat();
            assert_eq!(mistral(&guessed).text(), plain, "{drafter}");
        }
    }
    let missing = mistral(&["generate", prompt, "--speculate", "no/such/folder"]);
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
}
