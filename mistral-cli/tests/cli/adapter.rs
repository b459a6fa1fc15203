//! `--adapter`: at run time, merged, and refused.

use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::program::{arg, copy_of, demo, golden, mistral, mistral_with_stdin};

/// The logits that the options lead to.
#[track_caller]
fn logits(options: &[&str]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let args = ["logits", "--tokens", "1,20,3,77,9,140,2,8", "--out", arg(&out)];
    assert_eq!(mistral(&[&args[..], options].concat()).text(), "");
    let bytes = fs::read(out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let logits = file.tensor("logits").unwrap().data();
    logits.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |worst, (a, b)| worst.max((a - b).abs()))
}

#[test]
fn a_merged_folder_gives_the_logits_of_the_adapter_at_run_time() {
    let (model, adapter) = (golden("models/v01"), golden("models/v01-lora"));
    let plain = logits(&["--model", arg(&model)]);
    let adapted = logits(&["--model", arg(&model), "--adapter", arg(&adapter)]);
    assert!(worst(&plain, &adapted) > 1.0);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let args = ["quantize", arg(&model), arg(&out), "--weights", "f32", "--adapter", arg(&adapter)];
    mistral(&args).text();
    let merged = logits(&["--model", arg(&out)]);
    assert!(worst(&merged, &adapted) < 1e-3);
    assert_eq!(logits(&["--model", arg(&out), "--mmap"]), merged);
}

/// An adapter that drowns what the demo model knows, in the files of peft.
fn loud(folder: &Path) {
    let config: Value =
        serde_json::from_slice(&fs::read(demo().join("config.json")).unwrap()).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let (dim, hidden) = (size("hidden_size"), size("intermediate_size"));
    let data = |n: usize, x: f32| (0..n).flat_map(|i| (x * (i % 7) as f32).to_le_bytes()).collect();
    let (a, b): (Vec<u8>, Vec<u8>) = (data(hidden, 0.5), data(dim, -1.0));
    let name =
        |matrix: &str| format!("base_model.model.model.layers.0.mlp.down_proj.{matrix}.weight");
    let views = [
        (name("lora_A"), TensorView::new(Dtype::F32, vec![1, hidden], &a).unwrap()),
        (name("lora_B"), TensorView::new(Dtype::F32, vec![dim, 1], &b).unwrap()),
    ];
    let weights = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), weights).unwrap();
    let settings = json!({
        "peft_type": "LORA", "r": 1, "lora_alpha": 4, "target_modules": ["down_proj"],
        "layers_to_transform": [0],
    });
    fs::write(folder.join("adapter_config.json"), settings.to_string()).unwrap();
}

#[test]
fn an_adapter_changes_the_text() {
    let folder = tempfile::tempdir().unwrap();
    loud(folder.path());
    let prompt = ["generate", "Once upon a time", "--temperature", "0", "--max-tokens", "12"];
    let adapter = ["--adapter", arg(folder.path())];
    for weights in ["bf16", "q4_k"] {
        let plain = [&prompt[..], &["--weights", weights]].concat();
        let adapted = [&plain[..], &adapter].concat();
        assert_ne!(mistral(&adapted).text(), mistral(&plain).text(), "{weights}");
    }
}

#[test]
fn an_adapter_changes_what_every_command_says() {
    let folder = tempfile::tempdir().unwrap();
    loud(folder.path());
    for command in [
        &["score", "Once upon", " a time"][..],
        &["perplexity", "-"],
        &["moderate", "A tale", "--min-share", "0", "--json"],
        &["chat", "--max-tokens", "12", "--temperature", "0"],
    ] {
        let run = |more: &[&str]| {
            mistral_with_stdin(&[command, more].concat(), b"Who lived in the wood?\n").text()
        };
        assert_ne!(run(&["--adapter", arg(folder.path())]), run(&[]), "{command:?}");
    }
}

#[test]
fn a_bad_adapter_is_refused_with_everything_that_is_wrong() {
    let none = tempfile::tempdir().unwrap();
    let said = mistral(&["generate", "A fox", "--adapter", arg(none.path())]).refusal();
    assert!(said.contains("holds no adapter, expected adapter_config.json"), "{said}");
    // That of another model: every tensor has the wrong shape, or no place.
    let other = golden("models/v01-lora");
    let said = mistral(&["generate", "A fox", "--adapter", arg(&other)]).refusal();
    assert!(said.contains("layers.0.self_attn.q_proj.lora_A.weight at byte"), "{said}");
    assert!(said.contains("layers.2.self_attn.v_proj.lora_B.weight"), "{said}");
    // A setting that is not followed, while merging: no folder is left behind.
    let bent = copy_of(&other);
    let path = bent.path().join("adapter_config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    settings["use_dora"] = json!(true);
    fs::write(path, settings.to_string()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let model = golden("models/v01");
    let args = ["quantize", arg(&model), arg(&out), "--weights", "f32", "--adapter"];
    let said = mistral(&[&args[..], &[arg(bent.path())]].concat()).refusal();
    assert!(said.contains("use_dora is true, which is not supported"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
