//! Whatever is wrong with the input: a message on stderr, nothing on stdout, exit code 2.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::program::{
    arg, configure, copy_of, demo, files_in, golden, mistral, mistral_with_stdin,
};

/// What `logits` says about a model, and that it leaves no file behind.
#[track_caller]
fn refusal(model: &Path, tokens: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let args = ["logits", "--model", arg(model), "--tokens", tokens, "--out", arg(&out)];
    let error = mistral(&args).refusal();
    assert_eq!(files_in(folder.path()), 0);
    error
}

#[track_caller]
fn assert_contains(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in:\n{error}");
    }
}

#[test]
fn usage_is_checked_before_anything_is_done() {
    for args in [
        &[][..],
        &["fly"],
        &["generate", "--fly"],
        &["generate", "--temperature", "-1"],
        &["generate", "--temperature", "nan"],
        &["generate", "--top-k", "0"],
        &["generate", "--top-p", "0"],
        &["generate", "--min-p", "1.5"],
        &["generate", "--max-tokens", "many"],
        &["generate", "--threads", "0"],
        &["generate", "--chunk", "0"],
        &["generate", "--kv-dtype", "f64"],
        &["generate", "--stop", ""],
        &["logits", "--out", "never"],
        &["logits", "--tokens", "1"],
        &["logits", "--tokens", "1", "--tokens-file", "-", "--out", "never"],
        &["inspect", "--preset", "8b"],
        &["inspect", "--preset", "7b-v0.1", "--model", "."],
    ] {
        let run = mistral(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(!run.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn an_option_says_which_numbers_it_takes() {
    for (args, parts) in [
        (["generate", "--top-k", "-3"], ["--top-k", "from 1 to"]),
        (["generate", "--max-tokens", "-3"], ["--max-tokens", "from 0 to"]),
        (["generate", "--sinks", "-3"], ["--sinks", "from 0 to"]),
        (["generate", "--seed", "-3"], ["--seed", "from 0 to"]),
        (["generate", "--stop-token", "-3"], ["--stop-token", "0..=4294967295"]),
        (["generate", "--window", "-3"], ["--window", "above 0, or none"]),
        (["chat", "--chunk", "0"], ["--chunk", "from 1 to"]),
        (["bench", "--layers", "0"], ["--layers", "from 1 to"]),
        (["inspect", "--length", "many"], ["--length", "from 0 to"]),
    ] {
        let error = mistral(&args).refusal();
        assert_contains(&error, &parts);
        assert_contains(&error, &[args[2]]);
    }
}

#[test]
fn nothing_is_printed_before_everything_is_read() {
    let error = mistral(&["generate", "A", "--speculate", "no-such-folder"]).refusal();
    assert_contains(&error, &["no-such-folder"]);
    let other = golden("models/v01");
    let run = mistral(&["generate", "A", "--speculate", arg(&other)]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_contains(&run.stderr, &["the draft model has a vocabulary of"]);
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zeros");
    fs::write(&file, [0; 99]).unwrap();
    let file = arg(&file);
    assert_contains(&refusal(Path::new(file), "1"), &[file, "holds no model", "GGUF"]);
    let error = mistral(&["tokenize", "A", "--model", file]).refusal();
    assert_contains(&error, &[file, "no tokenizer that can be used", "at byte 0"]);
    let error = mistral(&["bench", "--shape", file]).refusal();
    assert_contains(&error, &[file]);
}

#[cfg(unix)]
#[test]
fn a_configuration_without_an_end_is_not_read_to_its_end() {
    let error = mistral(&["bench", "--shape", "/dev/zero"]).refusal();
    assert_contains(&error, &["/dev/zero", "file too large"]);
}

#[cfg(unix)]
#[test]
fn no_file_is_read_without_a_limit() {
    const ZERO: &str = "/dev/zero";
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (args, limit) in [
        (&["generate", "A", "--json-schema", ZERO][..], 64 << 10),
        (&["generate", "A", "--grammar", ZERO], 64 << 10),
        (&["generate", "--batch", ZERO, "--out", arg(&out)], 16 << 20),
        (&["chat", "--load", ZERO], 16 << 20),
        (&["score", "--file", ZERO], 16 << 20),
        (&["logits", "--tokens-file", ZERO, "--out", arg(&out)], 256 << 20),
    ] {
        let told = format!("{ZERO} has more than {limit} bytes, expected no more");
        assert_contains(&mistral(args).refusal(), &[&told]);
    }
    assert_eq!(files_in(folder.path()), 0);
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [&["--help"][..], &["--version"], &["generate", "--help"], &["help", "logits"]] {
        assert!(mistral(args).text().len() > 8, "{args:?}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_told_with_the_reason() {
    for command in [&["generate", "A"][..], &["tokenize", "A"], &["inspect"]] {
        let args = [command, &["--model", "no-such-folder"]].concat();
        assert_contains(&mistral(&args).refusal(), &["no-such-folder", "\n  caused by: "]);
    }
    assert_contains(&refusal(Path::new("no-such-folder"), "1"), &["no-such-folder"]);
}

#[test]
fn a_folder_without_a_model_is_told_what_it_should_hold() {
    let folder = tempfile::tempdir().unwrap();
    assert_contains(&refusal(folder.path(), "1"), &["holds no model", "model.safetensors"]);
    let error = mistral(&["generate", "A", "--model", arg(folder.path())]).refusal();
    assert_contains(&error, &["tokenizer.json"]);
}

#[test]
fn a_truncated_file_is_refused_wherever_it_is_cut() {
    let folder = copy_of(&golden("models/v01"));
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 7, 8, 1000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_contains(&refusal(folder.path(), "1"), &["model.safetensors", "caused by"]);
        mistral(&["inspect", "--model", arg(folder.path())]).refusal();
    }
}

#[test]
fn everything_that_is_wrong_with_the_tensors_is_listed_at_once() {
    let folder = copy_of(&golden("models/v01"));
    configure(folder.path(), json!({"intermediate_size": 96, "vocab_size": 300}));
    let error = refusal(folder.path(), "1");
    assert_contains(&error, &["embed_tokens", "lm_head", "layers.0.mlp.up_proj", "[288, 64]"]);
}

/// Replaces text in the header of a safetensors file by text of the same length.
fn forge(folder: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_misnamed_tensor_is_both_missing_and_unexpected() {
    let folder = copy_of(&golden("models/v01"));
    forge(folder.path(), "model.norm.weight", "model.norm.height");
    let error = refusal(folder.path(), "1");
    assert_contains(&error, &["model.norm.weight is missing", "model.norm.height in"]);
}

#[test]
fn an_unknown_type_is_named() {
    let folder = copy_of(&golden("models/v01"));
    forge(folder.path(), "\"F32\"", "\"F99\"");
    assert_contains(&refusal(folder.path(), "1"), &["F99"]);
}

#[test]
fn a_configuration_that_is_no_model_is_refused() {
    let folder = copy_of(&golden("models/v01"));
    configure(folder.path(), json!({"num_key_value_heads": 3, "rms_norm_eps": -1.0}));
    assert_contains(&refusal(folder.path(), "1"), &["config.json", "n_kv_heads", "norm_eps"]);
    fs::write(folder.path().join("config.json"), "{").unwrap();
    assert_contains(&refusal(folder.path(), "1"), &["config.json", "caused by"]);
}

#[test]
fn tokens_out_of_range_or_missing_or_no_numbers_are_refused() {
    let model = golden("models/v01");
    assert_contains(&refusal(&model, "1,2,288"), &["token 288 at index 2", "288"]);
    assert_contains(&refusal(&model, ""), &["empty"]);
    assert_contains(&refusal(&model, "1,two"), &["two"]);
    let args = ["logits", "--tokens-file", "-", "--out", "never"];
    assert_contains(&mistral_with_stdin(&args, b" \n").refusal(), &["empty"]);
    assert_contains(&mistral_with_stdin(&args, b"1 2.5").refusal(), &["2.5", "index 1"]);
    let args = ["logits", "--tokens-file", "no-such-file", "--out", "never"];
    assert_contains(&mistral(&args).refusal(), &["no-such-file", "caused by"]);
}

#[test]
fn a_prompt_that_is_not_utf8_is_refused_at_its_byte() {
    for command in ["generate", "tokenize"] {
        let error = mistral_with_stdin(&[command, "-"], b"caf\xc3\xa9 \xff!").refusal();
        assert_contains(&error, &["standard input", "byte 6 is 0xff"]);
    }
}

#[test]
fn more_tokens_than_a_windowless_model_can_take_are_refused() {
    let folder = copy_of(&golden("models/v03"));
    configure(folder.path(), json!({"max_position_embeddings": 8}));
    let error = refusal(folder.path(), "1,2,3,4,5,6,7,8,9");
    assert_contains(&error, &["exceed the context of 8"]);
}

#[test]
fn an_empty_prompt_is_refused() {
    for args in [["generate", ""], ["generate", "-"]] {
        assert_contains(&mistral_with_stdin(&args, b"").refusal(), &["the prompt is empty"]);
    }
}

#[test]
fn a_tokenizer_without_a_first_piece_leaves_no_prompt_empty() {
    let folder = copy_of(&demo());
    let path = folder.path().join("tokenizer.json");
    // Under another name, `<s>` is a piece like any other.
    let json = fs::read_to_string(&path).unwrap().replace("\"<s>\"", "\"<x>\"");
    let mut json: Value = serde_json::from_str(&json).unwrap();
    json["post_processor"] = Value::Null;
    fs::write(&path, json.to_string()).unwrap();
    let error = mistral(&["generate", "--model", arg(folder.path())]).refusal();
    assert_contains(&error, &["the prompt is empty"]);
}
