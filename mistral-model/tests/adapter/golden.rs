//! peft's logits, at run time and merged, on weights of every origin and format.

use std::fs;
use std::sync::Arc;

use mistral_model::ndarray::{Array2, Axis, concatenate};
use mistral_model::{
    Adapter, Batch, Checkpoint, DType, OpenOptions, Session, SessionOptions, Transformer,
    WeightFormat, WeightFormats,
};
use safetensors::SafeTensors;
use serde_json::Value;

use super::files::{MODULES, Peft, Tensors, golden, logits, rms, worst};

/// Token ids and the logits that peft gives them.
pub(crate) struct Case {
    pub(crate) ids: Vec<u32>,
    pub(crate) want: Array2<f32>,
}

/// What the manifest says of the adapter, and its cases.
pub(crate) fn cases() -> (Value, f32, Vec<Case>) {
    let manifest = fs::read(golden("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let entry = manifest["entries"]["v01"].take();
    let path = golden(entry["lora"]["arrays"].as_str().unwrap());
    let (bytes, logits) = (fs::read(&path).unwrap(), Tensors::open(&path));
    let arrays = SafeTensors::deserialize(&bytes).unwrap();
    let case = |case: &Value| {
        let ids = arrays.tensor(case["input_ids"].as_str().unwrap()).unwrap();
        let ids = ids.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        Case { ids: ids.collect(), want: logits.0[case["logits"].as_str().unwrap()].clone() }
    };
    let cases = entry["cases"].as_array().unwrap().iter().map(case).collect();
    let tolerance = entry["lora"]["tolerance"].as_f64().unwrap() as f32;
    (entry, tolerance, cases)
}

/// The base model in Hugging Face's, Mistral's own and llama.cpp's order of rows.
const ORIGINS: [&str; 3] = ["models/v01", "models/v01-native", "gguf/f32.gguf"];

fn checkpoint(origin: &str, options: OpenOptions) -> Checkpoint<'static> {
    Checkpoint::open_with(golden(origin), options).unwrap()
}

#[test]
fn adapted_logits_are_pefts_on_weights_of_every_origin() {
    let (entry, tolerance, cases) = cases();
    let moved = entry["lora"]["change_from_base"].as_f64().unwrap() as f32;
    for origin in ORIGINS {
        let model = Transformer::open(golden(origin)).unwrap();
        let adapter = Adapter::open(golden("models/v01-lora"), model.config()).unwrap();
        assert_eq!(adapter.projections(), 6);
        let adapter = Arc::new(adapter);
        let checkpoint = checkpoint(origin, OpenOptions::new());
        let both = checkpoint.with_adapter(Arc::clone(&adapter)).unwrap();
        let merged = both.load().unwrap();
        assert_eq!(both.fingerprint().unwrap(), merged.fingerprint().unwrap(), "{origin}");
        assert_ne!(merged.fingerprint().unwrap(), model.fingerprint().unwrap(), "{origin}");
        let mut change = 0.0f32;
        for Case { ids, want } in &cases {
            for chunk in [1, 3, 12, ids.len()] {
                let off = worst(&logits(&model, &[&adapter], ids, chunk), want);
                assert!(off <= tolerance, "{origin}, chunks of {chunk}: off by {off}");
            }
            let off = worst(&logits(&merged, &[], ids, 7), want);
            assert!(off <= tolerance, "{origin}, merged: off by {off}");
            change = change.max(worst(&logits(&model, &[], ids, 7), want));
        }
        assert!((change - moved).abs() < 0.01, "{origin}: the adapter moves logits by {change}");
    }
}

#[test]
fn adapted_sessions_of_a_batch_have_pefts_logits() {
    let (_, tolerance, cases) = cases();
    let model = Transformer::open(golden("models/v01")).unwrap();
    let adapter = Peft::golden().open(model.config());
    let options = SessionOptions { kv_dtype: DType::F32.into(), ..Default::default() };
    let new = || Session::new(&model, options).unwrap();
    let mut adapted = new().with_adapter(adapter).unwrap();
    let mut plain = new();
    let mut batch = Batch::new(&model, 2).unwrap();
    let Case { ids, want } = cases.last().unwrap();
    for (token, want) in ids.iter().zip(want.outer_iter()) {
        batch.decode(&mut [&mut plain, &mut adapted], &[*token, *token]).unwrap();
        let off = adapted.logits().iter().zip(want).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f32::max) <= tolerance);
    }
}

#[test]
fn mistrals_own_files_mean_what_pefts_do_on_weights_of_every_origin() {
    let (_, tolerance, cases) = cases();
    for origin in ORIGINS {
        let model = Transformer::open(golden(origin)).unwrap();
        let tensors = Peft::golden().in_mistrals_names(model.config());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lora.safetensors");
        fs::write(&file, tensors.bytes()).unwrap();
        let other_name = folder.path().join("tuned.safetensors");
        fs::copy(&file, &other_name).unwrap();
        let of = |adapter| logits(&model, &[&Arc::new(adapter)], &cases[3].ids, 5);
        // Without a params.json the factor is mistral-inference's, 2: alpha / r of this adapter.
        let alone = of(Adapter::open(&file, model.config()).unwrap());
        assert!(worst(&alone, &cases[3].want) <= tolerance, "{origin}");
        assert_eq!(of(Adapter::open(&other_name, model.config()).unwrap()), alone, "{origin}");
        // The same at half the factor and twice its strength.
        let params = r#"{"dim": 64, "lora": {"enable": true, "rank": 4, "scaling": 1.0}}"#;
        fs::write(folder.path().join("params.json"), params).unwrap();
        let told = Adapter::open(folder.path(), model.config()).unwrap().scaled(2.0).unwrap();
        assert_eq!(of(told), alone, "{origin}");
    }
}

/// The golden model with `W + scale * B A` computed here, in f64, for an adapter of all modules.
pub(crate) fn merged_by_hand(adapter: &Peft, scale: f64) -> Transformer {
    let mut tensors = Tensors::open(&golden("models/v01/model.safetensors"));
    let config = fs::read_to_string(golden("models/v01/config.json")).unwrap();
    for (name, weights) in &mut tensors.0 {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let [a, b] = ["lora_A", "lora_B"].map(|matrix| {
            let name = format!("base_model.model.{module}.{matrix}.weight");
            adapter.tensors.0.get(&name).map(|array| array.mapv(f64::from))
        });
        let (Some(a), Some(b)) = (a, b) else { continue };
        *weights = (weights.mapv(f64::from) + b.dot(&a) * scale).mapv(|x| x as f32);
    }
    Transformer::from_bytes(&config, &with_norms(tensors)).unwrap()
}

/// The bytes of the golden model with other matrices.
fn with_norms(matrices: Tensors) -> Vec<u8> {
    let bytes = fs::read(golden("models/v01/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let changed = matrices.0.get(name);
            let bytes = changed.map(|array| array.iter().flat_map(|x| x.to_le_bytes()).collect());
            (name.to_owned(), view.shape().to_vec(), bytes.unwrap_or(view.data().to_vec()))
        })
        .collect();
    let views = data.iter().map(|(name, shape, data)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name, view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn all_seven_projections_add_what_merged_weights_say() {
    let (_, tolerance, cases) = cases();
    let model = Transformer::open(golden("models/v01")).unwrap();
    let ids = &cases[4].ids;
    for (module, rank) in (0..7).map(|module| (vec![module], 3)).chain([((0..7).collect(), 20)]) {
        let peft = Peft::random(model.config(), &module, rank, 5);
        let want = logits(&merged_by_hand(&peft, 2.0), &[], ids, 9);
        let adapter = peft.open(model.config());
        let found = logits(&model, &[&adapter], ids, 9);
        let names = module.iter().map(|module| MODULES[*module][0]).collect::<Vec<_>>();
        assert!(worst(&found, &want) <= tolerance, "{names:?}: {}", worst(&found, &want));
        assert!(worst(&found, &logits(&model, &[], ids, 9)) > 100.0 * tolerance, "{names:?}");
        let merged = checkpoint("models/v01", OpenOptions::new());
        let merged = merged.with_adapter(adapter).unwrap().load().unwrap();
        assert!(worst(&logits(&merged, &[], ids, 9), &want) <= tolerance, "{names:?} merged");
    }
}

#[test]
fn addends_of_several_adapters_are_summed_at_run_time_and_merged() {
    let (_, tolerance, cases) = cases();
    let model = Transformer::open(golden("models/v01")).unwrap();
    let ids = &cases[3].ids;
    let [first, second] = [3, 4].map(|rank| Peft::random(model.config(), &[0, 4, 6], rank, 8));
    // One adapter whose matrices are those of both, side by side.
    let mut both = Peft::random(model.config(), &[0, 4, 6], 7, 0);
    for (name, array) in &mut both.tensors.0 {
        let axis = Axis(usize::from(name.contains("lora_B")));
        let parts = [&first, &second].map(|peft| peft.tensors.0[name].view());
        *array = concatenate(axis, &parts).unwrap();
    }
    let [first, second, both] = [first, second, both].map(|peft| peft.open(model.config()));
    let want = logits(&model, &[&both], ids, 9);
    assert!(worst(&logits(&model, &[&first, &second], ids, 9), &want) <= tolerance);
    let merged = checkpoint("models/v01", OpenOptions::new());
    let merged = merged.with_adapter(first).unwrap().with_adapter(second).unwrap();
    assert!(worst(&logits(&merged.load().unwrap(), &[], ids, 9), &want) <= tolerance);
}

/// The golden model with its projections rounded to a format and widened again.
fn dequantised(format: WeightFormat) -> Transformer {
    let mut tensors = Tensors::open(&golden("models/v01/model.safetensors"));
    for (name, weights) in &mut tensors.0 {
        if !name.contains("_proj") {
            continue;
        }
        for mut row in weights.outer_iter_mut() {
            let row = row.as_slice_mut().unwrap();
            let mut bytes = vec![0; format.row_bytes(row.len()).unwrap()];
            format.encode(row, &mut bytes);
            format.decode(&bytes, row);
        }
    }
    let config = fs::read_to_string(golden("models/v01/config.json")).unwrap();
    Transformer::from_bytes(&config, &with_norms(tensors)).unwrap()
}

#[test]
fn quantised_weights_with_an_adapter_are_dequantised_ones_with_it() {
    let (_, _, cases) = cases();
    let Case { ids, want } = &cases[4];
    for (format, tolerance) in [(WeightFormat::Q8_0, 1e-3), (WeightFormat::Q4_0, 0.2)] {
        let formats = WeightFormats { projections: format, ..WeightFormat::F32.into() };
        let options = OpenOptions::new().weights(formats);
        let blocks = checkpoint("models/v01", options).load().unwrap();
        let dense = dequantised(format);
        let adapter = Peft::golden().open(dense.config());
        let [found, exact] = [&blocks, &dense].map(|model| logits(model, &[&adapter], ids, 9));
        // What is left is the rounding of inputs, as without the adapter.
        let off = rms(&found, &exact);
        let without = rms(&logits(&blocks, &[], ids, 9), &logits(&dense, &[], ids, 9));
        assert!(off <= tolerance && off <= 1.5 * without, "{format}: {off}, without {without}");
        // Merged, the sum is rounded once: as far from peft's logits as the weights' own rounding.
        let merged = checkpoint("models/v01", options).with_adapter(adapter).unwrap();
        let merged = rms(&logits(&merged.load().unwrap(), &[], ids, 9), want);
        let rounding = rms(&exact, want);
        assert!(merged <= 2.0 * rounding, "{format}: merged {merged}, rounded {rounding}");
    }
}

#[test]
fn what_is_written_merged_opens_to_what_was_merged_while_loading() {
    let (_, _, cases) = cases();
    let config = fs::read_to_string(golden("models/v01/config.json")).unwrap();
    for origin in ORIGINS {
        for format in [WeightFormat::F32, WeightFormat::Q8_0] {
            let options = OpenOptions::new().weights(format);
            let base = checkpoint(origin, options);
            let adapter = Peft::golden().open(base.config());
            let foretold = base.weight_bytes();
            let merged = base.with_adapter(adapter).unwrap();
            let mut file = Vec::new();
            merged.write(&mut file, |_| {}).unwrap();
            let model = merged.load().unwrap();
            assert_eq!(foretold, Some(model.bytes()));
            let written = Transformer::from_bytes(&config, &file).unwrap();
            let [a, b] = [&model, &written].map(|model| logits(model, &[], &cases[2].ids, 9));
            assert_eq!(a, b, "{origin} in {format}");
            // And once more, on panels: what is merged into is what was written.
            let again = Checkpoint::from_bytes(&config, &file).unwrap();
            let adapter = Peft::golden().open(again.config());
            let twice = again.with_adapter(Arc::clone(&adapter)).unwrap().load().unwrap();
            let at_run_time = logits(&written, &[&adapter], &cases[2].ids, 9);
            let off = rms(&logits(&twice, &[], &cases[2].ids, 9), &at_run_time);
            assert!(off < 0.2, "{origin} in {format}: {off}");
        }
    }
}
