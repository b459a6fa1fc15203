//! `mistral logits`.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::program::{arg, demo, files_in, golden, mistral, mistral_with_stdin};

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The file that the options lead to.
#[track_caller]
fn logits(model: &Path, options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let args = ["logits", "--model", arg(model), "--out", arg(&out)];
    assert_eq!(mistral(&[&args[..], options].concat()).text(), "");
    assert_eq!(files_in(folder.path()), 1);
    fs::read(out).unwrap()
}

/// What another engine makes of some tokens.
struct Case {
    ids: Vec<u32>,
    logits: Vec<f32>,
}

/// The tolerance of a golden model, and its cases.
fn cases(name: &str) -> (f32, Vec<Case>) {
    let manifest = fs::read(golden("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let entry = &manifest["entries"][name];
    let bytes = fs::read(golden(entry["arrays"].as_str().unwrap())).unwrap();
    let arrays = SafeTensors::deserialize(&bytes).unwrap();
    let data = |name: &Value| arrays.tensor(name.as_str().unwrap()).unwrap().data();
    let cases = entry["cases"].as_array().unwrap().iter().map(|case| {
        let (ids, _) = data(&case["input_ids"]).as_chunks::<4>();
        let ids = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
        Case { ids, logits: floats(data(&case["logits"])) }
    });
    (entry["tolerance"].as_f64().unwrap() as f32, cases.collect())
}

/// Checks the one tensor of a file against another engine's.
#[track_caller]
fn assert_close(file: &[u8], case: &Case, tolerance: f32) {
    let file = SafeTensors::deserialize(file).unwrap();
    assert_eq!(file.names(), ["logits"]);
    let tensor = file.tensor("logits").unwrap();
    let (tokens, vocab_size) = (case.ids.len(), case.logits.len() / case.ids.len());
    assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[tokens, vocab_size][..]));
    for (i, (found, want)) in floats(tensor.data()).into_iter().zip(&case.logits).enumerate() {
        let difference = (found - want).abs();
        assert!(difference <= tolerance, "{found} at {i}, expected {want} +- {tolerance}");
    }
}

#[test]
fn the_logits_are_those_of_another_engine() {
    let (tolerance, cases) = cases("v01");
    assert!(!cases.is_empty());
    for case in cases {
        for model in ["models/v01", "models/v01-native"] {
            let file = logits(&golden(model), &["--tokens", &list(&case.ids)]);
            assert_close(&file, &case, tolerance);
        }
    }
}

#[test]
fn neither_chunk_nor_threads_change_a_byte_of_the_file() {
    let (_, cases) = cases("v01");
    let (model, tokens) = (golden("models/v01"), list(&cases.last().unwrap().ids));
    let whole = logits(&model, &["--tokens", &tokens, "--chunk", "512", "--threads", "1"]);
    for (chunk, threads) in [("1", "2"), ("7", "1"), ("7", "2")] {
        let options = ["--tokens", &tokens, "--chunk", chunk, "--threads", threads];
        assert!(logits(&model, &options) == whole, "chunk {chunk}, {threads} threads");
    }
}

#[test]
fn the_cache_is_f32_unless_another_format_is_asked_for() {
    let of = |dtype| logits(&golden("models/v01"), &["--tokens", "1,2,3", "--kv-dtype", dtype]);
    let default = logits(&golden("models/v01"), &["--tokens", "1,2,3"]);
    assert!(default == of("f32"));
    assert!(default != of("f16"));
}

#[test]
fn tokens_may_come_from_a_file_or_stdin_with_commas_or_lines() {
    let model = golden("models/v01");
    let direct = logits(&model, &["--tokens", "1,20,3"]);
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("ids.txt"), folder.path().join("out"));
    fs::write(&file, "1\n20, 3\n").unwrap();
    assert!(logits(&model, &["--tokens-file", arg(&file)]) == direct);
    let args = ["logits", "--model", arg(&model), "--tokens-file", "-", "--out", arg(&out)];
    assert_eq!(mistral_with_stdin(&args, b"1\t20\t3").text(), "");
    assert!(fs::read(&out).unwrap() == direct);
}

#[test]
fn what_tokenize_prints_is_what_logits_reads() {
    let ids = mistral(&["tokenize", "A fox met a goose."]).text();
    let ids: Vec<&str> = ids.lines().map(|line| line.split('\t').next().unwrap()).collect();
    let file = logits(&demo(), &["--tokens", &ids.join(" ")]);
    let file = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(file.tensor("logits").unwrap().shape()[0], ids.len());
}

#[test]
fn refused_input_leaves_the_old_file_and_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::write(&out, "old").unwrap();
    let model = golden("models/v01");
    let args = ["logits", "--model", arg(&model), "--out", arg(&out), "--tokens", "1,288"];
    let error = mistral(&args).refusal();
    assert!(error.contains("token 288 at index 1"), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(files_in(folder.path()), 1);
}

#[test]
fn a_file_that_cannot_be_written_is_a_failure_and_not_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no such folder/out");
    for out in [arg(&nowhere), arg(folder.path())] {
        let run = mistral(&["logits", "--tokens", "1", "--out", out]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
        assert!(run.stderr.contains(out), "{}", run.stderr);
    }
    assert_eq!(files_in(folder.path()), 0);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_file_behind() {
    use std::thread::sleep;
    use std::time::Duration;

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let tokens = vec!["1"; 100_000].join(",");
    let ids = folder.path().join("ids");
    fs::write(&ids, tokens).unwrap();
    let args = ["logits", "--tokens-file", arg(&ids), "--out", arg(&out), "--chunk", "1"];
    let mut child = super::program::command(&args).spawn().unwrap();
    // The file under way has bytes in it: the program is in the middle of its work.
    let under_way = || {
        let mut files = fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
        files.any(|file| file.path() != ids && file.metadata().unwrap().len() > 0)
    };
    while !under_way() {
        assert!(child.try_wait().unwrap().is_none(), "ended before it was interrupted");
        sleep(Duration::from_millis(5));
    }
    super::program::interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(files_in(folder.path()), 1);
}
