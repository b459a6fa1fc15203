//! `mistral inspect`.

use std::path::Path;

use mistral_model::{Checkpoint, Config, DType};
use serde_json::{Value, json};

use super::program::{arg, demo, golden, mistral};

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
    assert_eq!(cache("7b-v0.1", 100_000), bytes(Config::mistral_7b_v01(), 4096));
    assert_eq!(cache("7b-v0.2", 32_768), 8 * bytes(Config::mistral_7b_v01(), 4096));
    assert_eq!(cache("7b-v0.3", 1000), bytes(Config::mistral_7b_v03(), 1000));
}

#[test]
fn presets_count_published_weights_of_two_bytes() {
    let report = inspect(&["--preset", "7b-v0.1", "--kv-dtype", "f32"]);
    let config = Config::mistral_7b_v01();
    assert_eq!(report["memory"]["weights"], config.weight_bytes(DType::BF16).unwrap());
    assert_eq!(report["memory"]["cache"], config.cache_bytes(DType::F32, 32_768).unwrap());
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
