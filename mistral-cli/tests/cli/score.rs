//! `mistral score`.

use std::fs;

use serde_json::{Value, json};

use super::program::{Run, arg, configure, copy_of, demo, mistral, mistral_with_stdin};

/// The lines of output of a run on a file.
#[track_caller]
fn lines(run: &Run) -> Vec<Value> {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn score_lines(requests: &[Value], options: &[&str]) -> Run {
    let text: String = requests.iter().map(|request| format!("{request}\n")).collect();
    mistral_with_stdin(&[&["score", "--file", "-"][..], options].concat(), text.as_bytes())
}

fn question(context: &str, choices: &[&str], answer: usize) -> Value {
    json!({"context": context, "choices": choices, "answer": answer})
}

#[test]
fn a_continuation_has_the_sum_of_its_tokens_and_a_likelier_one_has_more() {
    let found = mistral(&["score", "Once upon", " a time"]).json();
    let per_token = found["per_token"].as_array().unwrap();
    assert_eq!(found["tokens"], json!(per_token.len()));
    let sum: f64 = per_token.iter().map(|token| token.as_f64().unwrap()).sum();
    assert_eq!(found["log_likelihood"], json!(sum));
    let other = mistral(&["score", "Once upon", " the tablecloth"]).json();
    assert!(other["log_likelihood"].as_f64() < found["log_likelihood"].as_f64());
    // White space moves to where the tokens are.
    assert_eq!(mistral(&["score", "Once upon ", "a time"]).json(), found);
}

#[test]
fn what_the_model_writes_greedily_is_greedy() {
    let options = ["--temperature", "0", "--max-tokens", "12", "--kv-dtype", "f32", "--json"];
    let written = mistral(&[&["generate", "Once upon a time"][..], &options].concat()).json();
    let text = written["text"].as_str().unwrap();
    let found = mistral(&["score", "Once upon a time", text]).json();
    assert_eq!((&found["greedy"], &found["tokens"]), (&json!(true), &json!(12)));
}

#[test]
fn several_continuations_are_choices() {
    let found = mistral(&["score", "Once upon", " a time", " the tablecloth"]).json();
    let sums = found["log_likelihoods"].as_array().unwrap();
    let alone = |text| mistral(&["score", "Once upon", text]).json()["log_likelihood"].clone();
    assert_eq!(sums, &[alone(" a time"), alone(" the tablecloth")]);
    assert_eq!((&found["best"], &found["best_per_byte"]), (&json!(0), &json!(0)));
    assert_eq!(found.get("acc"), None);
}

#[test]
fn a_file_gives_a_line_for_each_line_in_order_whatever_is_read_together() {
    let contexts = ["Once upon", "There was once a", "The king said to", "", "Once upon a"];
    // More than are scored together, of both kinds, with fields that mean nothing here.
    let requests: Vec<Value> = (0..70)
        .map(|i| match (contexts[i % 5], i % 2) {
            (context, 0) => question(context, &[" time", " a king", " fox"][..1 + i % 3], 0),
            (context, _) => json!({"context": context, "continuation": " fox", "id": i}),
        })
        .collect();
    let run = score_lines(&requests, &[]);
    let found = lines(&run);
    assert_eq!(found.len(), 70);
    for (i, request) in requests.iter().enumerate().step_by(9) {
        assert_eq!(lines(&score_lines(std::slice::from_ref(request), &[])), found[i..=i], "{i}");
    }
    for options in [["--chunk", "5"], ["--threads", "1"]] {
        assert_eq!(score_lines(&requests, &options).stdout, run.stdout, "{options:?}");
    }
}

#[test]
fn accuracies_count_the_answers_of_each_measure() {
    let sure = question("Once upon", &[" a time", " the tablecloth"], 0);
    let wrong = question("Once upon", &[" a time", " the tablecloth"], 1);
    let unknown = json!({"context": "Once upon", "choices": [" a time", " a"]});
    let run = score_lines(&[sure.clone(), wrong, sure, unknown], &[]);
    let found = lines(&run);
    let acc: Vec<&Value> = found.iter().map(|line| &line["acc"]).collect();
    assert_eq!(acc, [&json!(1), &json!(0), &json!(1), &Value::Null]);
    let summary =
        "questions: 4, with an answer: 3, acc 0.6667, acc_norm 0.6667, acc_bytes 0.6667\n";
    assert_eq!(run.stderr, summary);
    let run = score_lines(&[json!({"context": "Once upon", "continuation": " a time"})], &[]);
    assert!(run.stderr.starts_with("continuations: 1, greedy "), "{}", run.stderr);
}

#[test]
fn a_delimiter_is_scored_and_does_not_count() {
    let apart = question("Once upon", &["a time", "the"], 0);
    let joined = question("Once upon", &[" a time", " the"], 0);
    let (apart, joined) =
        (score_lines(&[apart], &["--delimiter", " "]), score_lines(&[joined], &[]));
    assert_eq!(lines(&apart)[0]["log_likelihoods"], lines(&joined)[0]["log_likelihoods"]);
}

#[test]
fn a_context_that_is_too_long_is_refused_or_cut_if_asked_for() {
    let folder = copy_of(&demo());
    configure(folder.path(), json!({"sliding_window": null, "max_position_embeddings": 8}));
    let model = ["--model", arg(folder.path())];
    let long = json!({"context": "a king and ".repeat(20), "continuation": " a queen"});
    let error = score_lines(std::slice::from_ref(&long), &model).refusal();
    assert!(error.contains("line 1 of standard input") && error.contains("at most 9"), "{error}");
    let cut = score_lines(&[long], &[&model[..], &["--truncate"]].concat());
    assert_eq!(lines(&cut).len(), 1);
}

#[test]
fn a_line_that_is_no_request_is_named_before_anything_is_printed() {
    let good = json!({"context": "A", "continuation": " fox"}).to_string();
    for (bad, part) in [
        ("{", "not the JSON"),
        ("", "not the JSON"),
        ("[]", "not the JSON"),
        (r#"{"continuation": "a"}"#, "context"),
        (r#"{"context": "a"}"#, "either"),
        (r#"{"context": "a", "continuation": "b", "choices": ["c"]}"#, "either"),
        (r#"{"context": "a", "choices": []}"#, "empty"),
        (r#"{"context": "a", "choices": ["b", "c"], "answer": 2}"#, "0 to 1"),
        (r#"{"context": "a", "choices": ["b"], "answer": -1}"#, "not the JSON"),
        (r#"{"context": "a", "continuation": "b", "answer": 0}"#, "answer"),
        (r#"{"context": "a", "continuation": ""}"#, "no token of its own"),
        (r#"{"context": "a", "choices": ["b", ""]}"#, "no token of its own"),
    ] {
        let text = format!("{good}\n{bad}\n{good}\n");
        let error = mistral_with_stdin(&["score", "--file", "-"], text.as_bytes()).refusal();
        assert!(error.contains("line 2 of standard input") && error.contains(part), "{error}");
    }
    let error = mistral_with_stdin(&["score", "--file", "-"], b"\xff").refusal();
    assert!(error.contains("byte 0 is 0xff"), "{error}");
    for (bad, part) in [
        (&b""[..], "line 2 of standard input is no request\n  caused by: it is empty"),
        (
            b"\xef\xbb\xbf{}",
            "line 2 of standard input is no request\n  caused by: it begins with a byte order mark",
        ),
        (b"\"caf\xe9\"", "caused by: it is not UTF-8: its byte 4 is 0xe9; convert it"),
    ] {
        let text = [good.as_bytes(), bad, b""].join(&b'\n');
        let error = mistral_with_stdin(&["score", "--file", "-"], &text).refusal();
        assert!(error.contains(part), "{error}");
    }
    assert!(mistral(&["score", "A", ""]).refusal().contains("no token of its own"));
    for args in [&["score"][..], &["score", "A"], &["score", "A", "b", "--file", "-"]] {
        let run = mistral(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}");
    }
}

#[test]
fn a_file_without_requests_gives_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.jsonl");
    fs::write(&file, "").unwrap();
    assert_eq!(mistral(&["score", "--file", arg(&file)]).text(), "");
}
