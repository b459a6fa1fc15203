//! GGUF files as converters write them, and as nobody should.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

use std::fs;
use std::path::{Path, PathBuf};

use mistral_model::weights::{GgufError, Stored, Warning};
use mistral_model::{
    Checkpoint, ModelError, OpenOptions, Session, SessionOptions, Transformer, WeightFormat,
    WeightsError, Window,
};
use proptest::prelude::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn logits(model: &Transformer) -> Vec<f32> {
    let tokens: Vec<u32> = (1..40).map(|i| i * 7 % 288).collect();
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    session.prefill(&tokens).unwrap().to_vec()
}

#[test]
fn a_converted_model_has_the_bits_of_mistrals_own_files() {
    // Both hold the rows of q and k in interleaved order, so even the order of sums is the same.
    let native = Transformer::open(golden("models/v01-native")).unwrap();
    let checkpoint = Checkpoint::open(golden("gguf/f32.gguf")).unwrap();
    assert!(checkpoint.warnings().is_empty());
    assert_eq!(checkpoint.config().window, Window::last(12).unwrap());
    let converted = checkpoint.load().unwrap();
    assert_eq!(checkpoint.weight_bytes(), Some(converted.bytes()));
    assert_eq!(logits(&converted), logits(&native));
}

#[test]
fn every_tensor_keeps_its_own_format() {
    let checkpoint = Checkpoint::open(golden("gguf/mixed-no-window.gguf")).unwrap();
    let stored = |name: &str| checkpoint.tensors().find(|(n, _)| *n == name).unwrap().1.stored;
    for (name, format) in [
        ("blk.0.attn_q.weight", WeightFormat::Q8_0),
        ("blk.1.ffn_up.weight", WeightFormat::Q4_0),
        ("blk.2.attn_v.weight", WeightFormat::Q5_0),
        ("blk.0.ffn_gate.weight", WeightFormat::F16),
        ("token_embd.weight", WeightFormat::BF16),
        ("output.weight", WeightFormat::F32),
    ] {
        assert_eq!(stored(name), Stored::Rows(format), "{name}");
    }
    let model = checkpoint.load().unwrap();
    assert_eq!(checkpoint.weight_bytes(), Some(model.bytes()));
}

#[test]
fn a_fingerprint_of_files_is_that_of_the_model_in_them() {
    for name in ["gguf/f32.gguf", "gguf/mixed-no-window.gguf"] {
        for options in [OpenOptions::new(), OpenOptions::new().weights(WeightFormat::Q8_0)] {
            let checkpoint = Checkpoint::open_with(golden(name), options).unwrap();
            let model = checkpoint.load().unwrap();
            assert_eq!(checkpoint.fingerprint().unwrap(), model.fingerprint().unwrap(), "{name}");
        }
    }
}

#[test]
fn a_window_that_nobody_tells_is_a_warning_and_one_that_is_told_is_applied() {
    let path = golden("gguf/mixed-no-window.gguf");
    let silent = Checkpoint::open(&path).unwrap();
    assert_eq!(silent.config().window, Window::Full);
    assert_eq!(silent.warnings(), [Warning::NoWindow { path: path.clone(), context_len: 32768 }]);
    assert!(silent.warnings()[0].to_string().contains("4096"));

    let options = OpenOptions::new().window(Window::last(12).unwrap());
    let told = Checkpoint::open_with(&path, options).unwrap();
    assert!(told.warnings().is_empty());
    let exact = logits(&Transformer::open(golden("models/v01-native")).unwrap());
    let distance = |found: &[f32]| {
        let squares: f32 = found.iter().zip(&exact).map(|(a, b)| (a - b) * (a - b)).sum();
        (squares / exact.len() as f32).sqrt()
    };
    let (with, without) =
        (distance(&logits(&told.load().unwrap())), distance(&logits(&silent.load().unwrap())));
    assert!(with < 1.0 && without > 3.0 * with, "{with} with the window, {without} without");
}

#[test]
fn weights_are_rounded_on_the_way_in_and_written_in_the_kernels_layout() {
    let options = OpenOptions::new().weights(WeightFormat::Q8_0);
    let checkpoint = Checkpoint::open_with(golden("gguf/f32.gguf"), options).unwrap();
    let direct = checkpoint.load().unwrap();
    let mut file = Vec::new();
    checkpoint.write(&mut file, |_| {}).unwrap();
    let config = checkpoint.config().to_hf_json();
    let written = Transformer::from_bytes(&config, &file).unwrap();
    assert_eq!(logits(&written), logits(&direct));
}

#[cfg(feature = "mmap")]
#[test]
fn a_mapped_file_gives_the_bits_of_one_that_is_read() {
    let bits =
        |model: &Transformer| logits(model).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for name in ["gguf/f32.gguf", "gguf/mixed-no-window.gguf"] {
        let load = |options| Checkpoint::open_with(golden(name), options).unwrap().load().unwrap();
        for options in [OpenOptions::new(), OpenOptions::new().weights(WeightFormat::Q8_0)] {
            let (read, mapped) = (load(options), load(options.mmap(true)));
            assert_eq!(bits(&mapped), bits(&read), "{name} {options:?}");
        }
    }
}

#[test]
fn a_folder_with_one_gguf_file_is_that_model() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden("gguf/f32.gguf"), folder.path().join("model.GGUF")).unwrap();
    assert!(Checkpoint::open(folder.path()).is_ok());
    fs::copy(golden("gguf/f32.gguf"), folder.path().join("other.gguf")).unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(WeightsError::NoModel { .. })));
}

/// Opens a file with these bytes.
fn open(bytes: &[u8]) -> Result<Transformer, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bent.gguf");
    fs::write(&path, bytes).unwrap();
    Transformer::open(path)
}

fn gguf_error(bytes: &[u8]) -> GgufError {
    match open(bytes).unwrap_err() {
        ModelError::Weights { source: WeightsError::Gguf { source, .. } } => source,
        other => panic!("expected an error of the header, found {other:?}"),
    }
}

/// A header put together by hand, and the data behind it.
#[derive(Default)]
struct Bent {
    pairs: Vec<u8>,
    n_pairs: u64,
    tensors: Vec<u8>,
    n_tensors: u64,
}

impl Bent {
    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.extend([Self::text(key).as_slice(), &kind.to_le_bytes(), value].concat());
        self.n_pairs += 1;
        self
    }

    fn tensor(mut self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.extend(Self::text(name));
        self.tensors.extend((sizes.len() as u32).to_le_bytes());
        sizes.iter().for_each(|size| self.tensors.extend(size.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.n_tensors += 1;
        self
    }

    fn error(&self, data: usize) -> GgufError {
        gguf_error(&self.bytes(data))
    }

    fn bytes(&self, data: usize) -> Vec<u8> {
        let counts = [self.n_tensors.to_le_bytes(), self.n_pairs.to_le_bytes()].concat();
        let mut all =
            [b"GGUF".as_slice(), &[3, 0, 0, 0], &counts, &self.pairs, &self.tensors].concat();
        all.resize(all.len().next_multiple_of(32) + data, 0);
        all
    }
}

#[test]
fn files_of_another_kind_are_named() {
    assert!(matches!(
        gguf_error(b"PK\x03\x04 and more"),
        GgufError::Magic { found: [b'P', b'K', 3, 4] }
    ));
    let big_endian = [b"GGUF".as_slice(), &[0, 0, 0, 3], &[0; 16]].concat();
    assert!(matches!(gguf_error(&big_endian), GgufError::Version { found: 0x0300_0000 }));
    let first = [b"GGUF".as_slice(), &[1, 0, 0, 0], &[0; 16]].concat();
    assert!(matches!(gguf_error(&first), GgufError::Version { found: 1 }));
    assert!(matches!(gguf_error(b"GG"), GgufError::Truncated { offset: 0, needed: 4, len: 2, .. }));
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused_before_anything_is_allocated() {
    let many_pairs = Bent { n_pairs: u64::MAX, ..Bent::default() };
    assert!(matches!(many_pairs.error(0), GgufError::Truncated { what: "the key/values", .. }));
    let many_tensors = Bent { n_tensors: 1 << 60, ..Bent::default() };
    assert!(matches!(many_tensors.error(0), GgufError::Truncated { needed: u64::MAX, .. }));
    let long_key = Bent { pairs: [0xff; 24].to_vec(), n_pairs: 1, ..Bent::default() };
    assert!(matches!(long_key.error(0), GgufError::Truncated { what: "a key", .. }));
    let long_array = [&4u32.to_le_bytes()[..], &(1u64 << 62).to_le_bytes()].concat();
    let error = Bent::default().pair("a", 9, &long_array).error(64);
    assert!(matches!(error, GgufError::Truncated { what: "an array of numbers", .. }));
    let many_texts = [&8u32.to_le_bytes()[..], &1000u64.to_le_bytes()].concat();
    let error = Bent::default().pair("a", 9, &many_texts).error(64);
    assert!(matches!(error, GgufError::Truncated { what: "an array of texts", .. }));
}

#[test]
fn lengths_that_no_header_has_are_refused_though_the_file_has_as_much() {
    let folder = tempfile::tempdir().unwrap();
    // A gigabyte, of which the disk holds a header.
    let sparse = |bent: Bent| {
        let path = folder.path().join("sparse.gguf");
        fs::write(&path, bent.bytes(0)).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
        match Checkpoint::open(&path).unwrap_err() {
            WeightsError::Gguf { source, .. } => source,
            other => panic!("expected an error of the header, found {other:?}"),
        }
    };
    let claim =
        |bytes: u64| Bent { pairs: bytes.to_le_bytes().to_vec(), n_pairs: 1, ..Bent::default() };
    let error = sparse(claim(900 << 20));
    assert!(
        matches!(error, GgufError::HeaderTooLong { what: "a key", needed, .. } if needed == 900 << 20)
    );
    let error = sparse(claim(1 << 16));
    assert!(matches!(
        error,
        GgufError::NameTooLong { what: "a key", found: 65_536, limit: 65_535, .. }
    ));
    for (kind, what) in [(4u32, "an array of numbers"), (8, "an array of texts")] {
        let value = [&kind.to_le_bytes()[..], &(100u64 << 20).to_le_bytes()].concat();
        let error = sparse(Bent::default().pair("a", 9, &value));
        assert!(
            matches!(error, GgufError::HeaderTooLong { what: w, limit, .. } if w == what && limit == 64 << 20)
        );
    }
    let many_pairs = sparse(Bent { n_pairs: 50 << 20, ..Bent::default() });
    assert!(matches!(many_pairs, GgufError::HeaderTooLong { what: "the key/values", .. }));
}

#[test]
fn values_that_cannot_be_are_refused_with_their_key() {
    let error = Bent::default().pair("a", 13, &[]).error(64);
    assert!(matches!(error, GgufError::ValueType { key, found: 13, .. } if key == "a"));
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    let error = Bent::default().pair("a", 9, &nested).error(64);
    assert!(matches!(error, GgufError::NestedArray { key, .. } if key == "a"));
    let twice = Bent::default().pair("a", 0, &[1]).pair("a", 0, &[2]).error(0);
    assert!(matches!(twice, GgufError::DuplicateKey { key, .. } if key == "a"));
    let text = Bent::default().pair("a", 8, &[&1u64.to_le_bytes()[..], &[0xff]].concat()).error(0);
    assert!(matches!(text, GgufError::NotUtf8 { .. }));
    for alignment in [0u32, 3, 1 << 21] {
        let error = Bent::default().pair("general.alignment", 4, &alignment.to_le_bytes()).error(0);
        assert!(matches!(error, GgufError::Alignment { found } if found == u64::from(alignment)));
    }
}

#[test]
fn tensors_that_lie_are_refused_by_name() {
    let one = |sizes: &[u64], kind, offset| Bent::default().tensor("t", sizes, kind, offset);
    assert!(matches!(one(&[], 0, 0).error(64), GgufError::Dimensions { found: 0, .. }));
    assert!(matches!(one(&[1; 5], 0, 0).error(64), GgufError::Dimensions { found: 5, .. }));
    assert!(
        matches!(one(&[32, 2], 0, 0).error(64), GgufError::OutsideFile { tensor, .. } if tensor == "t")
    );
    assert!(matches!(one(&[4], 0, u64::MAX - 31).error(64), GgufError::OutsideFile { .. }));
    assert!(matches!(
        one(&[4], 0, 8).error(64),
        GgufError::Misaligned { offset: 8, alignment: 32, .. }
    ));
    assert!(matches!(one(&[1 << 40, 1 << 40], 0, 0).error(64), GgufError::Shape { .. }));
    assert!(matches!(
        one(&[40, 2], 8, 0).error(256),
        GgufError::Columns { cols: 40, format: WeightFormat::Q8_0, block: 32, .. }
    ));
    let twice = one(&[4], 0, 0).tensor("t", &[4], 0, 32).error(64);
    assert!(matches!(twice, GgufError::DuplicateTensor { .. }));
    let overlap = one(&[16], 0, 0).tensor("u", &[4], 0, 32).error(64);
    assert!(
        matches!(overlap, GgufError::Overlap { first, second, .. } if first == "t" && second == "u")
    );
    let both = one(&[4], 0, 8).tensor("u", &[40], 8, 32).error(64);
    assert!(matches!(both, GgufError::Several { problems } if problems.len() == 2));
}

#[test]
fn names_are_told_so_that_no_terminal_obeys_them_and_nobody_scrolls() {
    let name = format!("\u{1b}[2J\n{}", "x".repeat(50_000));
    let tensor = Bent::default().tensor(&name, &[4], 0, 8).error(64);
    let key = Bent::default().pair(&name, 13, &[]).error(64);
    for text in [tensor.to_string(), key.to_string()] {
        assert!(!text.contains(char::is_control) && text.contains("\\u{1b}[2J\\n"), "{text}");
        assert!(text.chars().count() < 300, "{text}");
    }
}

#[test]
fn of_many_problems_the_first_are_told_and_the_others_counted() {
    let all =
        (0..100).fold(Bent::default(), |bent, i| bent.tensor(&format!("t{i:02}"), &[4], 0, 8));
    let error = all.error(64);
    let text = error.to_string();
    assert!(matches!(error, GgufError::Several { problems } if problems.len() == 100));
    assert!(text.contains("t00") && text.contains("t31") && !text.contains("t32"), "{text}");
    assert!(text.ends_with("and 68 more"), "{text}");
}

#[test]
fn bytes_behind_the_last_tensor_are_refused_but_for_its_padding() {
    // 20 bytes, and 12 that lead to the next border.
    let one = Bent::default().tensor("t", &[5], 0, 0);
    let header = one.bytes(0).len() as u64;
    let trailing = GgufError::TrailingBytes { found: header + 33, expected: header + 32 };
    assert_eq!(one.error(33).to_string(), trailing.to_string());
    for data in 20..=32 {
        assert!(matches!(one.error(data), GgufError::MissingKey { .. }), "{data}");
    }
    assert!(matches!(Bent::default().error(1), GgufError::TrailingBytes { .. }));
    // A type of unknown size may have all there is.
    let unknown = Bent::default().tensor("t", &[5], 3, 0);
    assert!(matches!(unknown.error(1000), GgufError::MissingKey { .. }));
}

#[test]
fn models_of_other_kinds_are_refused_with_everything_that_differs() {
    let empty = Bent::default().error(0);
    assert!(matches!(empty, GgufError::MissingKey { key } if key == "general.architecture"));
    let other = Bent::default().pair("general.architecture", 8, &Bent::text("gpt2")).error(0);
    assert!(matches!(other, GgufError::Value { found, .. } if found == "\"gpt2\""));
    let experts = Bent::default()
        .pair("general.architecture", 8, &Bent::text("llama"))
        .pair("llama.expert_count", 4, &8u32.to_le_bytes())
        .pair("llama.rope.scaling.type", 8, &Bent::text("yarn"));
    let message = experts.error(0).to_string();
    for part in ["llama.expert_count is 8", "\"yarn\"", "llama.embedding_length is missing"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn tokens_that_are_none_and_older_words_for_scaling_are_refused() {
    let llama = || Bent::default().pair("general.architecture", 8, &Bent::text("llama"));
    let bent = llama()
        .pair("tokenizer.ggml.bos_token_id", 8, &Bent::text("<s>"))
        .pair("tokenizer.ggml.eos_token_id", 10, &(1u64 << 32).to_le_bytes())
        .pair("llama.rope.scale_linear", 6, &4f32.to_le_bytes());
    let message = bent.error(0).to_string();
    for part in [
        "tokenizer.ggml.bos_token_id is \"<s>\"",
        "tokenizer.ggml.eos_token_id is 4294967296",
        "llama.rope.scale_linear is 4, expected 1",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let without_effect = llama().pair("llama.rope.scale_linear", 6, &1f32.to_le_bytes());
    assert!(!without_effect.error(0).to_string().contains("scale_linear"));
    let checkpoint = Checkpoint::open(golden("gguf/f32.gguf")).unwrap();
    let config = checkpoint.config();
    assert_eq!((config.bos_token, config.eos_tokens.as_slice()), (Some(1), &[2][..]));
}

#[test]
fn a_type_that_is_not_read_is_answered_with_ggmls_names_of_those_that_are() {
    let mut bytes = fs::read(golden("gguf/f32.gguf")).unwrap();
    let name = b"blk.0.attn_q.weight";
    let at = bytes.windows(name.len()).position(|part| part == name).unwrap();
    // Behind the name: two dimensions, their sizes, the type.
    bytes[at + name.len() + 4 + 16] = 3;
    let error = match open(&bytes).unwrap_err() {
        ModelError::Weights { source } => source.to_string(),
        other => panic!("{other:?}"),
    };
    for part in ["ggml type 3", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_K", "Q4_0"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("I8"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn no_damage_makes_it_panic(at in 0usize..12_000, byte: u8, cut in 0usize..3) {
        let mut bytes = fs::read(golden("gguf/mixed-no-window.gguf")).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] = byte;
        if cut == 0 {
            bytes.truncate(at);
            prop_assert!(open(&bytes).is_err());
        } else {
            let _ = open(&bytes);
        }
    }
}
