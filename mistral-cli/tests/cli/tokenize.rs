//! `mistral tokenize`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::program::{arg, demo, golden, mistral, mistral_with_stdin};

const TEXT: &str = "The wolf said nothing more.";

#[test]
fn lines_and_json_tell_the_same_tokens() {
    let json = mistral(&["tokenize", TEXT, "--json"]).json();
    let strings = |field: &str, of: fn(&Value) -> String| -> Vec<String> {
        json[field].as_array().unwrap().iter().map(of).collect()
    };
    let ids = strings("ids", |id| id.as_u64().unwrap().to_string());
    let pieces = strings("pieces", |piece| piece.as_str().unwrap().to_owned());
    let lines: String = ids.iter().zip(&pieces).map(|(id, p)| format!("{id}\t{p}\n")).collect();
    assert_eq!(mistral(&["tokenize", TEXT]).text(), lines);
    assert_eq!(json["text"], TEXT);
    let joined = pieces[1..].concat().replace('\u{2581}', " ");
    assert_eq!(joined.trim_start(), TEXT);
}

#[test]
fn text_may_come_from_stdin_by_name_or_by_default() {
    let direct = mistral(&["tokenize", TEXT]);
    assert_eq!(mistral_with_stdin(&["tokenize", "-"], TEXT.as_bytes()), direct);
    assert_eq!(mistral_with_stdin(&["tokenize"], format!("{TEXT}\n").as_bytes()), direct);
}

#[test]
fn the_empty_text_is_the_piece_that_begins_a_sequence() {
    assert_eq!(mistral(&["tokenize", ""]).text().lines().count(), 1);
}

#[test]
fn every_command_that_reads_text_takes_the_tokenizer_that_is_named() {
    let folder = demo();
    for command in [&["chat"][..], &["score", "A", " b"], &["perplexity", "-"], &["moderate", "A"]]
    {
        let named = [command, &["--model", arg(&folder), "--tokenizer", "gguf"]].concat();
        let error = mistral_with_stdin(&named, b"A fox\n").refusal();
        assert!(error.contains("gguf"), "{error}");
    }
}

#[test]
fn another_tokenizer_gives_the_ids_of_its_own_vocabulary() {
    for (folder, files) in [
        ("tokenizer/v1", &["tokenizer.model", "tokenizer.json"][..]),
        ("tokenizer/v2", &["tokenizer.model", "tokenizer.json"]),
        ("tokenizer/v3", &["tokenizer.model"]),
    ] {
        let folder = golden(folder);
        let ids =
            |model: &Path| mistral(&["tokenize", TEXT, "--json", "--model", arg(model)]).json();
        let of_folder = ids(&folder);
        assert_eq!(of_folder["pieces"][0], "<s>");
        for file in files {
            assert_eq!(ids(&folder.join(file)), of_folder, "{file}");
        }
    }
}

#[test]
fn the_tokenizer_file_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    // The files of two models: their ids tell which was read.
    for (version, file) in [("v1", "tokenizer.json"), ("v3", "tokenizer.model")] {
        let from = golden("tokenizer").join(version).join(file);
        fs::copy(from, folder.path().join(file)).unwrap();
    }
    let tokens = |options: &[&str]| {
        let model = ["tokenize", TEXT, "--model", arg(folder.path())];
        mistral(&[&model[..], options].concat())
    };
    let model = tokens(&["--tokenizer", "model"]).text();
    assert_eq!(tokens(&[]).text(), model);
    assert_ne!(tokens(&["--tokenizer", "json"]).text(), model);
    let error = tokens(&["--tokenizer", "gguf"]).refusal();
    assert!(error.contains("expected tokenizer.gguf"), "{error}");
    // The demo model has no files to choose from.
    mistral(&["tokenize", TEXT, "--tokenizer", "json"]).refusal();
}
