//! `mistral perplexity`.

use std::fs;

use serde_json::{Value, json};

use super::program::{arg, configure, copy_of, demo, demo_corpus, mistral, mistral_with_stdin};

/// The beginning of a text that the demo model has not seen.
fn text(characters: usize) -> String {
    fs::read_to_string(demo_corpus()).unwrap().chars().take(characters).collect()
}

#[track_caller]
fn report(text: &str, options: &[&str]) -> Value {
    let args = [&["perplexity", "-", "--json"][..], options].concat();
    mistral_with_stdin(&args, text.as_bytes()).json()
}

#[test]
fn the_demo_model_needs_what_its_card_says() {
    let card = fs::read_to_string(demo().join("../README.md")).unwrap();
    let said = mistral(&["perplexity", arg(&demo_corpus())]).text();
    let figure = said.lines().last().unwrap().strip_suffix(" bits per byte").unwrap();
    let figure: f64 = figure.parse().unwrap();
    assert!(card.contains(&format!("**{figure:.3}**")), "{said}");
}

#[test]
fn the_figures_are_the_same_from_a_file_or_a_pipe_for_any_chunk_and_threads() {
    let text = text(2500);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    fs::write(&file, &text).unwrap();
    for reading in [&[][..], &["--context", "100", "--stride", "70"]] {
        let args = [&["perplexity", arg(&file), "--json"][..], reading].concat();
        let found = mistral(&args).json();
        for options in [&["--chunk", "7"][..], &["--threads", "1"], &["--threads", "2", "--mmap"]] {
            assert_eq!(report(&text, &[reading, options].concat()), found, "{options:?}");
        }
    }
}

#[test]
fn the_report_says_how_the_text_was_read_and_agrees_with_itself() {
    let text = text(3000);
    let number = |report: &Value, key: &str| report[key].as_f64().unwrap();
    let stream = report(&text, &[]);
    assert_eq!((&stream["context"], &stream["stride"]), (&Value::Null, &Value::Null));
    assert_eq!(stream["bytes"], json!(text.len()));
    let bits = number(&stream, "nll") / 2f64.ln();
    assert!((bits / text.len() as f64 - number(&stream, "bits_per_byte")).abs() < 1e-12);
    let per_token = bits / number(&stream, "tokens");
    assert!((per_token - number(&stream, "bits_per_token")).abs() < 1e-12);
    assert!((per_token.exp2() / number(&stream, "perplexity") - 1.0).abs() < 1e-12);
    assert_eq!(stream, report(&text, &["--stream"]));

    let windows = report(&text, &["--context", "64"]);
    assert_eq!((&windows["context"], &windows["stride"]), (&json!(64), &json!(32)));
    assert_eq!(windows["tokens"], stream["tokens"]);
    // Less context, more bits.
    let shorter = report(&text, &["--context", "8", "--stride", "7"]);
    let nll = |report| number(report, "nll");
    assert!(nll(&shorter) > nll(&windows) && nll(&windows) > nll(&stream));
}

#[test]
fn a_model_without_a_window_reads_in_windows_as_long_as_its_context() {
    let folder = copy_of(&demo());
    configure(folder.path(), json!({"sliding_window": null, "max_position_embeddings": 200}));
    let text = text(3000);
    let model = ["--model", arg(folder.path())];
    let found = report(&text, &model);
    assert_eq!((&found["context"], &found["stride"]), (&json!(201), &json!(100)));
    let options = ["--context", "201", "--stride", "100"];
    assert_eq!(report(&text, &[&model[..], &options].concat()), found);

    let refusal = |options: &[&str]| {
        let args = [&["perplexity", "-"][..], &model, options].concat();
        mistral_with_stdin(&args, text.as_bytes()).refusal()
    };
    let error = refusal(&["--context", "202"]);
    assert!(error.contains("202") && error.contains("at most 201"), "{error}");
    let error = refusal(&["--stream"]);
    assert!(error.contains("201") && error.contains("windows"), "{error}");
}

#[test]
fn texts_and_windows_that_cannot_be_scored_are_refused() {
    let refusal = |text: &[u8], options: &[&str]| {
        let args = [&["perplexity", "-"][..], options].concat();
        mistral_with_stdin(&args, text).refusal()
    };
    assert!(refusal(b"", &[]).contains("at least 2"));
    let error = refusal(b"caf\xc3\xa9 \xff!", &[]);
    assert!(error.contains("standard input") && error.contains("byte 6 is 0xff"), "{error}");
    for (context, stride) in [("10", "10"), ("10", "0"), ("1", "1"), ("0", "0")] {
        let error = refusal(b"A fox.", &["--context", context, "--stride", stride]);
        assert!(error.contains(&format!("windows of {context} tokens")), "{error}");
    }
    let error = mistral(&["perplexity", "no-such-file"]).refusal();
    assert!(error.contains("no-such-file") && error.contains("caused by"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    mistral(&["perplexity", arg(folder.path())]).refusal();
    for options in [&["--stream", "--stride", "4"][..], &["--context", "-1"], &["--fly"]] {
        let args = [&["perplexity", "-"][..], options].concat();
        assert_eq!(mistral(&args).code, Some(2), "{options:?}");
    }
}
