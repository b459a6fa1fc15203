//! Files from strangers: each way to be wrong is an error of its own that names the place.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

use std::fs;
use std::path::{Path, PathBuf};

use mistral_core::half::f16;
use mistral_model::weights::{ArchiveError, TensorProblem};
use mistral_model::{
    Checkpoint, DType, ModelError, OpenOptions, Session, SessionOptions, Transformer, WeightFormat,
    WeightsError,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)
}

/// A safetensors file in parts that a test can bend.
#[derive(Clone)]
struct File {
    config: Value,
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl File {
    fn golden(name: &str) -> Self {
        let config = fs::read_to_string(golden(name).join("config.json")).unwrap();
        let bytes = fs::read(golden(name).join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        Self {
            config: serde_json::from_str(&config).unwrap(),
            header: serde_json::from_slice(&bytes[8..8 + length]).unwrap(),
            data: bytes[8 + length..].to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let header = Value::Object(self.header.clone()).to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &self.data].concat()
    }

    fn open(&self) -> Result<Transformer, ModelError> {
        self.open_with(OpenOptions::new())
    }

    fn open_with(&self, options: OpenOptions) -> Result<Transformer, ModelError> {
        let (config, bytes) = (self.config.to_string(), self.bytes());
        Checkpoint::from_bytes_with(&config, &bytes, options)?.load()
    }

    fn entry(&mut self, tensor: &str) -> &mut Value {
        self.header.get_mut(tensor).unwrap()
    }

    /// The bytes of a tensor.
    fn part(&mut self, tensor: &str) -> &mut [u8] {
        let offsets = self.entry(tensor)["data_offsets"].clone();
        let at = |i: usize| offsets[i].as_u64().unwrap() as usize;
        let (from, to) = (at(0), at(1));
        &mut self.data[from..to]
    }

    /// Appends a tensor.
    fn add(&mut self, name: &str, dtype: &str, shape: &[usize], data: &[u8]) {
        let from = self.data.len();
        self.data.extend_from_slice(data);
        let offsets = [from, self.data.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        self.header.insert(name.to_owned(), entry);
    }
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

/// The archive's own complaint about `v01`, bent by `bend`.
fn archive_error(bend: impl FnOnce(&mut File)) -> ArchiveError {
    let mut file = File::golden("v01");
    bend(&mut file);
    match file.open() {
        Err(ModelError::Weights { source: WeightsError::Archive { source, .. } }) => source,
        other => panic!("{other:?}"),
    }
}

/// All differences between `v01`, bent by `bend`, and its configuration.
fn problems(bend: impl FnOnce(&mut File)) -> Vec<TensorProblem> {
    let mut file = File::golden("v01");
    bend(&mut file);
    match file.open() {
        Err(ModelError::Weights { source: WeightsError::Tensors { problems } }) => problems,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let file = File::golden("v01");
    let (config, bytes) = (file.config.to_string(), file.bytes());
    for end in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = Transformer::from_bytes(&config, &bytes[..end]).unwrap_err();
        assert!(
            matches!(error, ModelError::Weights { source: WeightsError::Archive { .. } }),
            "{end}: {error:?}"
        );
    }
}

#[test]
fn headers_that_lie_about_offsets_name_the_tensor() {
    let outside = archive_error(|file| {
        let end = file.data.len() + 4;
        file.entry(UP)["data_offsets"][1] = json!(end);
    });
    assert!(matches!(&outside, ArchiveError::OutsideFile { tensor, .. } if tensor == UP));
    let reversed = archive_error(|file| file.entry(UP)["data_offsets"] = json!([8, 4]));
    assert!(matches!(&reversed, ArchiveError::OutsideFile { tensor, .. } if tensor == UP));
    let beyond = archive_error(|file| file.entry(UP)["data_offsets"] = json!([u64::MAX, u64::MAX]));
    assert!(matches!(&beyond, ArchiveError::OutsideFile { tensor, .. } if tensor == UP));
    let trailing = archive_error(|file| file.data.extend([0; 3]));
    assert!(matches!(trailing, ArchiveError::TrailingBytes { .. }), "{trailing}");
}

#[test]
fn overlaps_and_gaps_are_refused() {
    let overlap = archive_error(|file| {
        // Of the same size and shape: only the place is wrong.
        let other = file.entry("model.layers.0.mlp.up_proj.weight")["data_offsets"].clone();
        file.entry(UP)["data_offsets"] = other;
    });
    assert!(matches!(overlap, ArchiveError::NotConsecutive { .. }), "{overlap}");
    let gap = archive_error(|file| {
        file.header.remove(UP);
    });
    assert!(matches!(gap, ArchiveError::NotConsecutive { .. }), "{gap}");
}

#[test]
fn sizes_must_be_those_of_shape_and_type() {
    let shape = archive_error(|file| file.entry(UP)["shape"] = json!([128, 63]));
    let text = shape.to_string();
    assert!(text.contains(UP) && text.contains("[128, 63]"), "{text}");
    let overflow = archive_error(|file| file.entry(UP)["shape"] = json!([u64::MAX, 2]));
    assert!(matches!(overflow, ArchiveError::SizeMismatch { .. }), "{overflow}");
    let unknown = archive_error(|file| file.entry(UP)["dtype"] = json!("F33"));
    assert!(unknown.to_string().contains("unknown type \"F33\""), "{unknown}");
    let narrow = archive_error(|file| file.entry(UP)["dtype"] = json!("BF16"));
    assert!(matches!(narrow, ArchiveError::SizeMismatch { .. }), "{narrow}");
}

#[test]
fn all_wrong_entries_of_a_header_are_listed_at_once() {
    let several = archive_error(|file| {
        file.entry(UP)["dtype"] = json!("F33");
        file.entry("lm_head.weight")["data_offsets"] = json!([8, 4]);
    });
    let text = several.to_string();
    assert!(matches!(several, ArchiveError::Several { problems } if problems.len() == 2));
    assert!(text.contains("F33") && text.contains(UP) && text.contains("lm_head.weight"), "{text}");
}

#[test]
fn headers_that_are_none_are_refused() {
    let config = File::golden("v01").config.to_string();
    let open = |header: &[u8], length: u64| {
        let bytes = [&length.to_le_bytes(), header].concat();
        match Transformer::from_bytes(&config, &bytes).unwrap_err() {
            ModelError::Weights { source: WeightsError::Archive { source, .. } } => source,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(open(b"{}", u64::MAX), ArchiveError::HeaderTooLong { .. }));
    assert!(matches!(open(b"{}", 3), ArchiveError::Truncated { .. }));
    assert!(matches!(open(b"{\xff}", 3), ArchiveError::HeaderNotUtf8 { offset: 9 }));
    assert!(matches!(open(b"[]", 2), ArchiveError::HeaderNotJson { .. }));
    let deep = "{\"a\":".repeat(100_000);
    assert!(matches!(open(deep.as_bytes(), deep.len() as u64), ArchiveError::HeaderNotJson { .. }));
    let entry = r#""a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let twice = format!("{{{entry},{entry}}}");
    let error = open(twice.as_bytes(), twice.len() as u64);
    assert!(matches!(error, ArchiveError::Duplicate { tensor } if tensor == "a"));
}

#[test]
fn everything_that_does_not_fit_is_listed_at_once() {
    let found = problems(|file| {
        let norm = file.header.remove("model.norm.weight").unwrap();
        file.header.insert("model.nrom.weight".to_owned(), norm);
        file.entry(UP)["shape"] = json!([64, 128]);
        file.entry("lm_head.weight")["dtype"] = json!("I32");
    });
    let has = |wanted: &dyn Fn(&TensorProblem) -> bool| found.iter().any(wanted);
    assert!(has(
        &|p| matches!(p, TensorProblem::Missing { tensor } if tensor == "model.norm.weight")
    ));
    assert!(has(
        &|p| matches!(p, TensorProblem::Unexpected { tensor, .. } if tensor == "model.nrom.weight")
    ));
    assert!(has(&|p| matches!(p, TensorProblem::Shape { tensor, expected, .. }
        if tensor == UP && expected == &[128, 64])));
    assert!(has(
        &|p| matches!(p, TensorProblem::Type { tensor, .. } if tensor == "lm_head.weight")
    ));
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_configuration_that_contradicts_the_weights_lists_every_tensor() {
    let found = problems(|file| file.config["intermediate_size"] = json!(96));
    assert_eq!(found.len(), 3 * 3, "three matrices in each of three layers: {found:?}");
    let found = problems(|file| file.config["num_hidden_layers"] = json!(2));
    assert_eq!(found.len(), 9, "{found:?}");
    assert!(found.iter().all(|problem| matches!(problem, TensorProblem::Unexpected { .. })));
    let found = problems(|file| file.config["num_hidden_layers"] = json!(4));
    assert_eq!(found.len(), 9, "{found:?}");
    assert!(found.iter().all(|problem| matches!(problem, TensorProblem::Missing { .. })));
}

#[test]
fn a_folder_without_a_model_says_what_it_should_hold() {
    let folder = tempfile::tempdir().unwrap();
    let empty = Checkpoint::open(folder.path()).unwrap_err();
    assert!(empty.to_string().contains("expected config.json"), "{empty}");
    let none = Checkpoint::open(folder.path().join("nowhere")).unwrap_err();
    assert!(matches!(none, WeightsError::Io { .. }), "{none:?}");
}

#[test]
fn an_index_may_only_name_files_beside_it_that_hold_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(golden("sharded")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let path = folder.path().join("model.safetensors.index.json");
    let index: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let open_with = |tensor: &str, file: &str| {
        let mut bent = index.clone();
        bent["weight_map"][tensor] = json!(file);
        fs::write(&path, bent.to_string()).unwrap();
        Checkpoint::open(folder.path())
    };
    for elsewhere in ["../model.safetensors", "/etc/passwd", "a/b", "..", ""] {
        let error = open_with("lm_head.weight", elsewhere).unwrap_err();
        assert!(matches!(&error, WeightsError::IndexEscapes { file, .. } if file == elsewhere));
    }
    let gone = open_with("lm_head.weight", "model-00009-of-00003.safetensors").unwrap_err();
    assert!(matches!(gone, WeightsError::Io { .. }), "{gone:?}");
    let wrong = open_with("model.embed_tokens.weight", "model-00003-of-00003.safetensors");
    assert!(wrong.unwrap_err().to_string().contains("where the index puts it"));
    fs::write(&path, "{").unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(WeightsError::Index { .. })));
    fs::write(&path, index.to_string()).unwrap();
    Checkpoint::open(folder.path()).unwrap();
}

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

fn logits(model: &Transformer) -> Vec<u32> {
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    session.prefill(&[1, 2, 3, 200]).unwrap().iter().map(|x| x.to_bits()).collect()
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
        for options in [
            OpenOptions::new(),
            #[cfg(feature = "mmap")]
            OpenOptions::new().mmap(true),
        ] {
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
    let bent = |key: &str, value: &str| {
        let mut bent = file.clone();
        bent.header["__metadata__"][key] = value.into();
        match bent.open().unwrap_err() {
            ModelError::Weights { source: WeightsError::Archive { source, .. } } => source,
            other => panic!("expected an archive error, found {other:?}"),
        }
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
    assert!(matches!(bent("panels", "2"), ArchiveError::PanelsVersion { .. }));
}

#[test]
fn weights_that_are_no_numbers_are_found_where_they_first_show() {
    let mut file = File::golden("v01");
    let nan = f32::NAN.to_le_bytes();
    file.part(UP)[..4].copy_from_slice(&nan);
    let model = file.open().unwrap();
    let mut session = Session::new(&model, SessionOptions::default()).unwrap();
    let error = session.prefill(&[1, 2, 3]).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { layer: 1, position: 0 }), "{error:?}");
    // The chunk was taken back exactly.
    assert_eq!(session.position(), 0);
    assert!(matches!(session.prefill(&[1]), Err(ModelError::NotFinite { .. })));

    let mut file = File::golden("v01");
    file.part("lm_head.weight")[..4].copy_from_slice(&nan);
    let model = file.open().unwrap();
    let options = SessionOptions { max_chunk: 20, ..Default::default() };
    let mut session = Session::new(&model, options).unwrap();
    let error = session.prefill(&[1, 2, 3]).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { layer: 3, position: 2 }), "{error:?}");
    assert_eq!((session.position(), session.logits()), (0, [].as_slice()));
    // The first chunk needs no logits. The second pushes out what would be needed to go back to it.
    let error = session.prefill(&[1; 40]).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { layer: 3, position: 39 }), "{error:?}");
    assert!(matches!(session.prefill(&[1]), Err(ModelError::Interrupted)));
    assert!(matches!(session.rewind(1), Err(ModelError::Interrupted)));
    session.reset().unwrap();
    assert_eq!((session.position(), session.tokens()), (0, [].as_slice()));
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
        assert_eq!(logits(&mapped), logits(&Transformer::open(golden(name)).unwrap()), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn no_damage_to_the_header_makes_it_panic(at in 0usize..4000, byte: u8, cut in 0usize..4) {
        let file = File::golden("mqa");
        let mut bytes = file.bytes();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut * cut * cut);
        // Either way is fine: a byte of a weight is as good as another.
        if let Ok(model) = Transformer::from_bytes(&file.config.to_string(), &bytes) {
            prop_assert!(cut == 0 && model.config().dim == 64);
        }
    }
}
