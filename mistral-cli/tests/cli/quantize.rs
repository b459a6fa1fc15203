//! `mistral quantize`, and weights rounded while they are read.

use std::fs;
use std::path::Path;

use mistral_model::{Checkpoint, OpenOptions, WeightFormat};
use serde_json::Value;

use super::program::{arg, copy_of, demo, golden, mistral};

const PROMPT: [&str; 5] = ["Once upon a time", "--temperature", "0", "--max-tokens", "20"];

/// The text that a model goes on with.
fn text(options: &[&str]) -> String {
    let program = mistral(&[&["generate"][..], &PROMPT, &["--json"], options].concat());
    program.json()["text"].as_str().unwrap().to_owned()
}

fn weights(options: &[&str]) -> Value {
    mistral(&[&["inspect", "--json"][..], options].concat()).json()["memory"]["weights"].clone()
}

#[test]
fn a_quantized_folder_writes_what_quantising_on_load_writes() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["q8_0", "q4_k", "bf16"] {
        let out = folder.path().join(format);
        let said = mistral(&["quantize", arg(&demo()), arg(&out), "--weights", format]).text();
        assert!(said.contains(format), "{said}");
        let on_load = text(&["--weights", format]);
        assert_eq!(text(&["--model", arg(&out)]), on_load, "{format}");
        assert_eq!(text(&["--model", arg(&out), "--mmap"]), on_load, "{format} mapped");
        // What inspect foretells is what both take.
        assert_eq!(weights(&["--model", arg(&out)]), weights(&["--weights", format]));
    }
}

#[test]
fn the_bytes_of_every_format_are_foretold_exactly() {
    for format in WeightFormat::ALL {
        let options = OpenOptions::new().weights(format);
        let loaded = Checkpoint::open_with(demo(), options).unwrap().load().unwrap();
        assert_eq!(weights(&["--weights", format.name()]), loaded.bytes(), "{format}");
    }
}

#[test]
fn a_gguf_file_is_a_model_like_any_other_and_its_missing_window_is_pointed_at() {
    let file = golden("gguf/mixed-no-window.gguf");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let options = ["quantize", arg(&file), arg(&out), "--weights", "q8_0"];
    let silent = mistral(&options);
    assert!(silent.stderr.contains("sliding window"), "{}", silent.stderr);
    assert!(silent.stderr.contains("--window 4096"), "{}", silent.stderr);
    // A tokenizer came with it, in the form that says all of it.
    assert!(out.join("tokenizer.model").exists());
    let tokens = |model: &Path| mistral(&["tokenize", "the rest", "--model", arg(model)]).text();
    assert_eq!(tokens(&out), tokens(&file));

    fs::remove_dir_all(&out).unwrap();
    let told = mistral(&[&options[..], &["--window", "12"]].concat());
    assert_eq!(told.stderr, "");
    let report = mistral(&["inspect", "--json", "--model", arg(&out)]).json();
    assert_eq!(report["config"]["window"], 12);
}

#[test]
fn a_gguf_file_without_a_tokenizer_that_is_known_is_written_without_one() {
    let sound = fs::read(golden("gguf/f32.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let (key, kind) = ("tokenizer.ggml.model", "llama");
    let at = sound.windows(key.len()).position(|part| part == key.as_bytes()).unwrap();
    // Behind the key: a type, the length of the text, the text.
    let value = at + key.len() + 4 + 8;
    assert_eq!(&sound[value..value + kind.len()], kind.as_bytes());
    for (at, bent, complaint) in [
        (value, "gpt-2", "a tokenizer of the kind \"gpt-2\""),
        (at, "tokenizer.else.model", "no tokenizer"),
    ] {
        let rest = &sound[at + bent.len()..];
        fs::write(&file, [&sound[..at], bent.as_bytes(), rest].concat()).unwrap();
        let out = folder.path().join(bent);
        let run = mistral(&["quantize", arg(&file), arg(&out), "--weights", "q8_0"]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(
            run.stderr.starts_with("warning: ") && run.stderr.contains(complaint),
            "{}",
            run.stderr
        );
        assert!(run.stdout.contains("no tokenizer found, none written"), "{}", run.stdout);
        assert!(out.join("config.json").exists() && !out.join("tokenizer.model").exists());
        // Who asks for its tokens is refused as before.
        let error = mistral(&["tokenize", "text", "--model", arg(&file)]).refusal();
        assert!(error.contains(complaint), "{error}");
    }
}

#[test]
fn what_is_there_already_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let error = mistral(&["quantize", arg(&demo()), arg(&out), "--weights", "q8_0"]).refusal();
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_format_that_does_not_fit_names_every_tensor_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let model = golden("models/v01");
    let error = mistral(&["quantize", arg(&model), arg(&out), "--weights", "q4_k"]).refusal();
    for part in ["model.layers.2.mlp.down_proj.weight", "multiple of 256"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let unknown = mistral(&["quantize", arg(&model), arg(&out), "--weights", "q3_k"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("q8_0, w8a8, q6_k"), "{}", unknown.stderr);
}

#[test]
fn weights_that_a_format_cannot_hold_are_the_fault_of_the_files() {
    let model = copy_of(&golden("models/v01"));
    let path = model.path().join("model.safetensors");
    let sound = fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(*sound.first_chunk().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&sound[8..start]).unwrap();
    let tensor = "model.layers.1.mlp.up_proj.weight";
    let at = start + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    let out = model.path().join("out");
    for (weight, format, complaint) in
        [(1e6f32, "f16", "too large for f16"), (f32::NAN, "q8_0", "is not finite")]
    {
        let mut bent = sound.clone();
        bent[at + 4..at + 8].copy_from_slice(&weight.to_le_bytes());
        fs::write(&path, bent).unwrap();
        let args = ["quantize", arg(model.path()), arg(&out), "--weights", format];
        let error = mistral(&args).refusal();
        for part in [tensor, "row 0, column 1", complaint] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!out.exists());
    }
    // Unchanged, nobody looks at them; and bf16 reaches as far as f32.
    fs::write(&path, [&sound[..at], &1e6f32.to_le_bytes(), &sound[at + 4..]].concat()).unwrap();
    mistral(&["quantize", arg(model.path()), arg(&out), "--weights", "bf16"]).text();
}
