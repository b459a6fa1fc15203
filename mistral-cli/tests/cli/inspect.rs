//! `mistral inspect`.

use std::fs;
use std::path::Path;

use mistral_model::{Checkpoint, Config, DType, Session, SessionOptions, Transformer};
use serde_json::{Value, json};

use super::program::{arg, copy_of, demo, golden, mistral};

/// Bytes of a slot of one layer of a 7B model in f16: heads, elements, keys and values, bytes. A
/// chunk of 512 tokens lies in 528 of them, for it may begin anywhere in a panel of sixteen.
const SLOT: usize = 8 * 128 * 2 * 2;

#[track_caller]
fn inspect(options: &[&str]) -> Value {
    mistral(&[&["inspect", "--json"][..], options].concat()).json()
}

#[test]
fn the_bytes_of_the_weights_are_foretold_exactly() {
    let models = ["v01", "v01-native", "v03", "bf16", "f16", "tied", "sharded"];
    let folders = models.iter().map(|model| golden("models").join(model)).chain([demo()]);
    for folder in folders {
        let loaded = Checkpoint::open(&folder).unwrap().load().unwrap();
        let report = inspect(&["--model", arg(&folder)]);
        assert_eq!(report["memory"]["weights"], loaded.bytes(), "{}", folder.display());
    }
}

#[test]
fn the_configuration_and_every_tensor_are_listed() {
    let folder = golden("models/v01");
    let report = inspect(&["--model", arg(&folder)]);
    assert_eq!((&report["config"]["window"], &report["config"]["dim"]), (&json!(12), &json!(64)));
    let tensors = report["tensors"].as_array().unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    assert_eq!(tensors.len(), checkpoint.tensors().count());
    for (tensor, (name, info)) in tensors.iter().zip(checkpoint.tensors()) {
        assert_eq!(tensor["name"], name);
        assert_eq!((&tensor["format"], &tensor["shape"]), (&json!("f32"), &json!(info.shape)));
        assert_eq!(tensor["offset"], info.offset);
    }
    let text = mistral(&["inspect", "--model", arg(&folder)]).text();
    for (name, info) in checkpoint.tensors() {
        let line = text.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap();
        assert!(line.contains(&format!(" {} ", info.offset)), "{line}");
    }
}

#[test]
fn the_cache_of_a_window_stops_growing_and_that_of_none_does_not() {
    let cache = |preset, length: usize| {
        inspect(&["--preset", preset, "--length", &length.to_string()])["memory"]["cache"].clone()
    };
    let bytes = |config: Config, length| config.cache_bytes(DType::F16, length).unwrap();
    let chunk = 528 * SLOT;
    assert_eq!(cache("7b-v0.1", 100_000), bytes(Config::mistral_7b_v01(), 4096) + chunk);
    assert_eq!(cache("7b-v0.2", 32_768), 8 * bytes(Config::mistral_7b_v01(), 4096) + chunk);
    assert_eq!(cache("7b-v0.3", 1000), bytes(Config::mistral_7b_v03(), 1000) + chunk);
}

#[test]
fn the_cache_is_foretold_as_a_session_has_it() {
    for (name, sinks) in [("v01", 0), ("v01", 4), ("v03", 0)] {
        let folder = golden("models").join(name);
        let model = Transformer::open(&folder).unwrap();
        for (length, chunk) in [(1, 512), (5, 3), (40, 16), (200, 512)] {
            let max_chunk = chunk.min(length);
            let options = SessionOptions { max_chunk, sinks, ..SessionOptions::default() };
            let mut session = Session::new(&model, options).unwrap();
            session.prefill(&vec![7; length]).unwrap();
            let [length, chunk, sinks] = [length, chunk, sinks].map(|n| n.to_string());
            let sizes = ["--length", &length, "--chunk", &chunk, "--sinks", &sinks];
            let report = inspect(&[&["--model", arg(&folder)][..], &sizes].concat());
            assert_eq!(report["memory"]["cache"], session.cache_bytes(), "{name} {sizes:?}");
        }
    }
}

#[test]
fn sinks_are_counted_where_there_is_a_window() {
    let cache = |preset, sinks| {
        let options = ["--preset", preset, "--length", "20000", "--sinks", sinks];
        inspect(&options)["memory"]["cache"].as_u64().unwrap()
    };
    // Sixteen slots in each layer.
    let sixteen = 16 * 32 * SLOT as u64;
    assert_eq!(cache("7b-v0.1", "4") - cache("7b-v0.1", "0"), sixteen);
    assert_eq!(cache("7b-v0.1", "17") - cache("7b-v0.1", "0"), 2 * sixteen);
    assert_eq!(cache("7b-v0.2", "4"), cache("7b-v0.2", "0"));
}

#[test]
fn windows_that_differ_are_shown_layer_by_layer() {
    let folder = copy_of(&golden("models/v01"));
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["sliding_window"] = json!([12, null, 5]);
    fs::write(&path, config.to_string()).unwrap();
    let report = inspect(&["--model", arg(folder.path()), "--length", "100"]);
    assert_eq!(report["config"]["layer_windows"], json!([12, null, 5]));
    let same = inspect(&["--model", arg(&golden("models/v01"))]);
    assert_eq!(same["config"].get("layer_windows"), None);
    let text = mistral(&["inspect", "--model", arg(folder.path())]).text();
    assert!(text.contains("12, none, 5"), "{text}");
}

#[test]
fn presets_count_published_weights_of_two_bytes() {
    let report = inspect(&["--preset", "7b-v0.1", "--kv-dtype", "f32"]);
    let config = Config::mistral_7b_v01();
    assert_eq!(report["memory"]["weights"], config.weight_bytes(DType::BF16).unwrap());
    let sequence = config.cache_bytes(DType::F32, 32_768).unwrap();
    assert_eq!(report["memory"]["cache"], sequence + 2 * 528 * SLOT);
    assert_eq!(report["tensors"], json!([]));
}

#[test]
fn what_fits_is_told_where_the_system_tells_what_is_free() {
    let memory = inspect(&[])["memory"].clone();
    let known = Path::new("/proc/meminfo").exists();
    assert_eq!(memory["fits"], if known { json!(true) } else { json!(null) });
    assert_eq!(memory["available"].is_u64(), known);
    let total = |field: &str| memory[field].as_u64().unwrap();
    assert_eq!(total("total"), total("weights") + total("cache"));
}

#[test]
fn a_length_beyond_the_context_of_a_windowless_model_is_refused() {
    let error = mistral(&["inspect", "--preset", "7b-v0.2", "--length", "32769"]).refusal();
    assert!(error.contains("caused by"), "{error}");
    assert!(error.contains("32768"), "{error}");
}
