//! Weights in blocks, in the kernels' own layout, and mapped.

use std::fs;
use std::path::Path;

use mistral_core::half::f16;
use mistral_model::weights::{ArchiveError, TensorProblem};
use mistral_model::{Checkpoint, DType, ModelError, OpenOptions, WeightFormat, WeightsError};
use serde_json::{Map, json};

use super::{File, UP, golden, logits};

/// `v01` with every matrix in 8 bits and groups of 32, and the same numbers in f32.
fn eight_bit() -> (File, File) {
    let mut dense = File::golden("v01");
    let names: Vec<String> = dense.header.keys().cloned().collect();
    let mut small = File { data: Vec::new(), header: Map::new(), ..dense.clone() };
    for name in names.into_iter().filter(|name| name != "__metadata__") {
        let shape: Vec<usize> =
            serde_json::from_value(dense.entry(&name)["shape"].clone()).unwrap();
        let bytes = dense.part(&name);
        let [rows, cols] = shape[..] else {
            small.add(&name, "F32", &shape, bytes);
            continue;
        };
        let (mut integers, mut scales) = (Vec::new(), Vec::new());
        for group in bytes.as_chunks_mut::<4>().0.chunks_mut(32) {
            let largest = group.iter().fold(0f32, |m, b| m.max(f32::from_le_bytes(*b).abs()));
            let scale = f16::from_f32(largest / 127.0);
            scales.extend(scale.to_le_bytes());
            for weight in group {
                let integer = (f32::from_le_bytes(*weight) / scale.to_f32()).round() as i8;
                integers.push(integer as u8);
                *weight = (scale.to_f32() * f32::from(integer)).to_le_bytes();
            }
        }
        small.add(&name, "I8", &shape, &integers);
        small.add(&format!("{name}_scale"), "F16", &[rows, cols / 32], &scales);
    }
    (small, dense)
}

#[test]
fn eight_bit_weights_with_scales_are_blocks_of_q8_0() {
    let (small, dense) = eight_bit();
    assert!(small.bytes().len() < dense.bytes().len() / 3);
    let small = small.open().unwrap();
    let blocks = dense.open_with(OpenOptions::new().weights(WeightFormat::Q8_0)).unwrap();
    assert_eq!(small.bytes(), blocks.bytes());
    assert_eq!(logits(&small), logits(&blocks));
    assert_ne!(logits(&small), logits(&dense.open().unwrap()), "inputs are rounded too");
}

#[test]
fn rows_that_a_format_cannot_hold_are_all_named() {
    // v01 has 64 inputs: two blocks of 32, but no block of 256.
    let error = File::golden("v01").open_with(OpenOptions::new().weights(WeightFormat::Q4K));
    let ModelError::Weights { source: WeightsError::Tensors { problems } } = error.unwrap_err()
    else {
        panic!("expected problems with tensors");
    };
    assert_eq!(problems.len(), 3 * 7 + 2);
    assert!(problems.iter().any(|problem| matches!(
        problem,
        TensorProblem::Columns { tensor, cols: 128, block: 256, format: WeightFormat::Q4K, .. }
            if tensor == "model.layers.2.mlp.down_proj.weight"
    )));
}

#[test]
fn eight_bit_weights_without_their_scales_are_refused() {
    let scale = format!("{UP}_scale");
    let (mut small, _) = eight_bit();
    small.entry(&scale)["shape"] = json!([64, 4]);
    let error = small.open().unwrap_err();
    let text = format!("{:?}", error);
    assert!(text.contains(&scale) && text.contains("[128, 2]"), "{text}");
    let entry = small.header.remove(&scale).unwrap();
    small.header.insert("elsewhere".to_owned(), entry);
    let text = format!("{:?}", small.open().unwrap_err());
    assert!(text.contains("Missing") && text.contains(&scale), "{text}");
}

/// A checkpoint written in the kernels' layout: `config.json` and `model.safetensors`.
fn written(folder: &Path, options: OpenOptions) -> (String, Vec<u8>) {
    let checkpoint = Checkpoint::open_with(folder, options).unwrap();
    let mut bytes = Vec::new();
    checkpoint.write(&mut bytes, |_| {}).unwrap();
    (checkpoint.config().to_hf_json(), bytes)
}

#[test]
fn a_file_in_the_kernels_layout_gives_the_bits_of_quantising_on_load() {
    // Mistral's own files have other names and another order of rows.
    for (name, format) in [
        ("v01", WeightFormat::Q4_0),
        ("v01-native", WeightFormat::Q8_0),
        ("tied", WeightFormat::F16),
    ] {
        let options = OpenOptions::new().weights(format);
        let direct = Checkpoint::open_with(golden(name), options).unwrap().load().unwrap();
        let (config, bytes) = written(&golden(name), options);
        let from_memory = Checkpoint::from_bytes(&config, &bytes).unwrap();
        assert_eq!(from_memory.weight_bytes(), Some(direct.bytes()));
        assert_eq!(logits(&from_memory.load().unwrap()), logits(&direct), "{name}");

        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), config).unwrap();
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let ways = [
            OpenOptions::new(),
            #[cfg(feature = "mmap")]
            OpenOptions::new().mmap(true),
        ];
        for options in ways {
            let model = Checkpoint::open_with(folder.path(), options).unwrap().load().unwrap();
            assert_eq!(logits(&model), logits(&direct), "{name} {options:?}");
        }
        // And rounded once more, to what can hold it all.
        let options = OpenOptions::new().weights(WeightFormat::F32);
        let widened = Checkpoint::open_with(folder.path(), options).unwrap().load().unwrap();
        assert!(widened.bytes() > direct.bytes());
    }
}

#[test]
fn panels_that_contradict_their_metadata_are_refused() {
    let (config, bytes) = written(&golden("v01"), OpenOptions::new().weights(WeightFormat::Q8_0));
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let file = File {
        config: serde_json::from_str(&config).unwrap(),
        header: serde_json::from_slice(&bytes[8..8 + length]).unwrap(),
        data: bytes[8 + length..].to_vec(),
    };
    assert!(file.open().is_ok());
    let error = |bent: &File| match bent.open().unwrap_err() {
        ModelError::Weights { source: WeightsError::Archive { source, .. } } => source,
        other => panic!("expected an archive error, found {other:?}"),
    };
    let bent = |key: &str, value: &str| {
        let mut bent = file.clone();
        bent.header["__metadata__"][key] = value.into();
        error(&bent)
    };
    let up = format!("panels:{UP}");
    for entry in ["q4_0 128x64", "q9_0 128x64", "q8_0", "q8_0 128x64x1", "q8_0 0x64"] {
        match bent(&up, entry) {
            ArchiveError::Panels { tensor, entry: found, .. } => {
                assert_eq!((tensor.as_str(), found.as_str()), (UP, entry));
            }
            other => panic!("{entry}: {other:?}"),
        }
    }
    assert!(matches!(
        bent("panels:nothing", "q8_0 16x32"),
        ArchiveError::Panels { found: None, .. }
    ));
    assert!(matches!(bent("panels", "1"), ArchiveError::PanelsVersion { .. }));
    // Rows of q and k in the wrong order would give a model that writes nonsense.
    let unknown = bent("rope_layout", "halfsplit");
    assert!(matches!(&unknown, ArchiveError::RopeLayout { found: Some(it) } if it == "halfsplit"));
    let mut silent = file.clone();
    silent.header["__metadata__"].as_object_mut().unwrap().remove("rope_layout");
    assert!(matches!(error(&silent), ArchiveError::RopeLayout { found: None }));
}

#[test]
fn a_fingerprint_of_files_is_that_of_the_model_in_them() {
    let check = |checkpoint: &Checkpoint<'_>| {
        let found = checkpoint.fingerprint().unwrap();
        assert_eq!(found, checkpoint.load().unwrap().fingerprint().unwrap(), "{checkpoint:?}");
        found
    };
    let floats = [WeightFormat::F32, WeightFormat::BF16];
    let blocks = [WeightFormat::F32, WeightFormat::Q4_0, WeightFormat::Q8_0];
    let (small, _) = eight_bit();
    let (config, bytes) = (small.config.to_string(), small.bytes());
    for format in blocks {
        let options = OpenOptions::new().weights(format);
        check(&Checkpoint::from_bytes_with(&config, &bytes, options).unwrap());
    }
    for (name, formats) in [
        ("v01", &blocks[..]),
        ("v01-native", &blocks),
        ("sharded", &floats),
        ("bf16", &floats),
        ("f16", &floats),
        ("tied", &floats),
    ] {
        let mut seen = vec![check(&Checkpoint::open(golden(name)).unwrap())];
        for format in formats {
            let options = OpenOptions::new().weights(*format);
            seen.push(check(&Checkpoint::open_with(golden(name), options).unwrap()));
            // In the kernels' layout, as it is and rounded once more.
            let (config, bytes) = written(&golden(name), options);
            let panels = check(&Checkpoint::from_bytes(&config, &bytes).unwrap());
            assert_eq!(Some(&panels), seen.last(), "{name} in {format}");
            let options = OpenOptions::new().weights(WeightFormat::F32);
            check(&Checkpoint::from_bytes_with(&config, &bytes, options).unwrap());
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("config.json"), config).unwrap();
            fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
            #[cfg(feature = "mmap")]
            let options = OpenOptions::new().mmap(true);
            check(&Checkpoint::open_with(folder.path(), options).unwrap());
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() >= formats.len(), "{name} has {} in {formats:?}", seen.len());
    }
}

#[test]
fn a_fingerprint_of_files_reads_few_of_their_rows() {
    // Of the embedding the first rows are looked at, of this matrix those from 16 on.
    for (name, seen) in
        [("model.embed_tokens.weight", false), ("model.layers.0.self_attn.o_proj.weight", true)]
    {
        let mut file = File::golden("v01");
        let cols = file.entry(name)["shape"][1].as_u64().unwrap() as usize;
        file.part(name)[20 * cols * 4..][..4].copy_from_slice(&1e9f32.to_le_bytes());
        let (config, bytes) = (file.config.to_string(), file.bytes());
        let options = OpenOptions::new().weights(WeightFormat::F16);
        let checkpoint = Checkpoint::from_bytes_with(&config, &bytes, options).unwrap();
        let refused = format!("{:?}", checkpoint.load().unwrap_err());
        match checkpoint.fingerprint() {
            Ok(_) => assert!(!seen, "{name}"),
            Err(error) => assert_eq!((format!("{error:?}"), true), (refused, seen), "{name}"),
        }
    }
}

#[test]
fn predicted_bytes_are_exact() {
    for name in ["v01", "bf16", "f16", "tied", "sharded", "v01-native"] {
        let checkpoint = Checkpoint::open(golden(name)).unwrap();
        let model = checkpoint.load().unwrap();
        assert_eq!(checkpoint.weight_bytes(), Some(model.bytes()), "{name}");
    }
    let bf16 = Checkpoint::open(golden("bf16")).unwrap();
    assert_eq!(bf16.weight_bytes(), bf16.config().weight_bytes(DType::BF16));
}

#[cfg(feature = "mmap")]
#[test]
fn mapped_files_give_the_same_bits() {
    for name in ["v01", "sharded", "v01-native"] {
        let options = OpenOptions::new().mmap(true);
        let mapped = Checkpoint::open_with(golden(name), options).unwrap().load().unwrap();
        assert_eq!(
            logits(&mapped),
            logits(&mistral_model::Transformer::open(golden(name)).unwrap()),
            "{name}"
        );
    }
}
