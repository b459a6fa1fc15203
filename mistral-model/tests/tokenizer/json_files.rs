//! `tokenizer.json` in its forms, against the `tokenizers` crate, which defines them.

use std::collections::BTreeMap;
use std::fs;

use mistral_model::tokenizer::{Tokenizer, TokenizerError};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::{cases, folder};

/// The crate's own encoder, for which text is text as well.
fn library(json: &[u8]) -> tokenizers::Tokenizer {
    let mut library = tokenizers::Tokenizer::from_bytes(json).unwrap();
    library.set_encode_special_tokens(true);
    library
}

fn library_ids(library: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    library.encode_fast(text, false).unwrap().get_ids().to_vec()
}

fn is_ours(tokenizer: &Tokenizer) -> bool {
    format!("{tokenizer:?}").contains("encoder: \"merges\"")
}

fn check<T: std::fmt::Debug>(
    cases: u32,
    strategy: impl Strategy<Value = T>,
    holds: impl Fn(T) -> Result<(), TestCaseError>,
) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    TestRunner::new(config).run(&strategy, holds).unwrap();
}

#[test]
fn published_files_have_the_ids_of_the_crate_for_any_text() {
    for name in ["v1", "v2"] {
        let json = fs::read(folder().join(name).join("tokenizer.json")).unwrap();
        let (tokenizer, library) = (Tokenizer::from_json(&json).unwrap(), library(&json));
        assert!(is_ours(&tokenizer));
        let same = |text: &str| {
            let ids = tokenizer.encode_without_bos(text).unwrap();
            prop_assert_eq!(ids, library_ids(&library, text));
            Ok(())
        };
        cases(name).encode.iter().for_each(|case| same(&case.text).unwrap());
        let text = prop_oneof![
            any::<String>(),
            "[ \n\ta-c▁]{0,40}",
            "([a-zA-Z]{1,9} ?){0,20}",
            ("[a-z0-9 =]", 1..300usize).prop_map(|(text, n)| text.repeat(n)),
        ];
        check(512, text, |text| same(&text));
    }
}

/// Vocabularies whose merges are drawn at random from what is there, in an order of their own.
fn any_merges() -> impl Strategy<Value = serde_json::Value> {
    let draws =
        prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..25);
    let order = prop::collection::vec(any::<prop::sample::Index>(), 30);
    (draws, order, 0..4usize, any::<bool>(), any::<bool>()).prop_map(
        |(draws, order, marking, bytes, fuse_unk)| {
            let mut pieces: Vec<String> =
                ["<unk>", "<s>", "a", "b", "▁", "é"].map(String::from).into();
            let reserved = 2;
            let mut merges: Vec<[String; 2]> = Vec::new();
            for (left, right) in draws {
                let left = pieces[reserved..][left.index(pieces.len() - reserved)].clone();
                let right = pieces[reserved..][right.index(pieces.len() - reserved)].clone();
                let joined = left.clone() + &right;
                if !pieces.contains(&joined) && joined.chars().count() < 12 {
                    pieces.push(joined);
                }
                let joined = left.clone() + &right;
                if pieces.contains(&joined) {
                    let place = order[merges.len()].index(merges.len() + 1);
                    merges.insert(place, [left, right]);
                }
            }
            if bytes {
                pieces.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
            }
            let vocab: BTreeMap<String, usize> = pieces.into_iter().zip(0..).collect();
            let prepend = json!({ "type": "Prepend", "prepend": "▁" });
            let replace =
                json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
            let sequence =
                |steps: &[&serde_json::Value]| json!({ "type": "Sequence", "normalizers": steps });
            let metaspace = |scheme: &str| {
                json!({ "type": "Metaspace", "replacement": "▁",
                "prepend_scheme": scheme, "split": false })
            };
            let (normalizer, pre_tokenizer) = match marking {
                0 => (sequence(&[&prepend, &replace]), json!(null)),
                1 => (replace, metaspace("first")),
                2 => (prepend, metaspace("always")),
                _ => (json!(null), metaspace("never")),
            };
            let special = |id: u32, content: &str| {
                json!({ "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false })
            };
            json!({
                "version": "1.0",
                "added_tokens": [special(0, "<unk>"), special(1, "<s>")],
                "normalizer": normalizer,
                "pre_tokenizer": pre_tokenizer,
                "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": fuse_unk,
                    "byte_fallback": bytes, "vocab": vocab, "merges": merges },
            })
        },
    )
}

#[test]
fn any_vocabulary_has_the_ids_of_the_crate() {
    check(3000, (any_merges(), "[ab▁ éx]{0,30}"), |(json, text)| {
        let json = json.to_string().into_bytes();
        let tokenizer = Tokenizer::from_json(&json).unwrap();
        prop_assert!(is_ours(&tokenizer));
        let ids = tokenizer.encode_without_bos(&text).unwrap();
        prop_assert_eq!(ids, library_ids(&library(&json), &text));
        Ok(())
    });
}

/// A vocabulary of a few pieces: `model` and `rest` go into the file as they are.
fn small(vocab: &str, model: &str, rest: &str) -> Result<Tokenizer, TokenizerError> {
    let json = format!(
        r#"{{"version": "1.0", {rest} "model": {{"type": "BPE", "vocab": {vocab}, {model}}}}}"#
    );
    Tokenizer::from_json(json.as_bytes())
}

#[test]
fn both_forms_of_merges_are_read() {
    let vocab = r#"{"a": 0, "b": 1, "ab": 2, "?": 3}"#;
    // With an unknown piece our encoder takes it, without one the crate.
    for unknown in ["", r#", "unk_token": "??""#] {
        for merges in [r#""merges": ["a b"]"#, r#""merges": [["a", "b"]]"#] {
            let vocab = vocab.replace('?', "??");
            let tokenizer = small(&vocab, &format!("{merges}{unknown}"), "").unwrap();
            assert_eq!(is_ours(&tokenizer), !unknown.is_empty());
            assert_eq!(tokenizer.encode_without_bos("abb").unwrap(), [2, 1]);
            assert!(matches!(tokenizer.encode("a"), Err(TokenizerError::NoBos)));
        }
    }
}

#[test]
fn merges_that_lead_to_a_control_piece_are_caught() {
    let vocab = r#"{"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4}"#;
    let merges = r#""merges": ["< s", "<s >"]"#;
    let added = r#""added_tokens": [{"id": 4, "content": "<s>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}],"#;
    let tokenizer = small(vocab, merges, added).unwrap();
    let error = tokenizer.encode("<s>").unwrap_err();
    assert!(matches!(error, TokenizerError::ControlFromText { id: 4, .. }));
}

#[test]
fn pieces_added_by_training_further_are_controls() {
    let added = r#""added_tokens": [{"id": 2, "content": "<|im_start|>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}],"#;
    let model = r#""unk_token": "??", "merges": []"#;
    let tokenizer = small(r#"{"??": 0, "a": 1}"#, model, added).unwrap();
    assert!(is_ours(&tokenizer));
    assert_eq!((tokenizer.id("<|im_start|>"), tokenizer.vocab_size()), (Some(2), 3));
    assert!(tokenizer.is_control(2));
    // In text it is characters like others, here without pieces.
    assert_eq!(
        tokenizer.encode_without_bos("<|im_start|>a").unwrap(),
        [vec![0; 7], vec![1], vec![0; 4], vec![1]].concat()
    );
}

#[test]
fn what_a_file_asks_for_beyond_the_ids_of_the_text_is_left_out() {
    let rest = r#""truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst",
            "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "b", "type_id": 0}}, {"Sequence": {"id": "A",
                "type_id": 0}}, {"SpecialToken": {"id": "a", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B",
                "type_id": 1}}],
            "special_tokens": {}},"#;
    for (model, ours) in [("", false), (r#""unk_token": "??","#, true)] {
        let vocab = r#"{"a": 0, "b": 1, "??": 2}"#;
        let tokenizer = small(vocab, &format!(r#"{model} "merges": []"#), rest).unwrap();
        assert_eq!(is_ours(&tokenizer), ours);
        assert_eq!(tokenizer.encode("aaa").unwrap(), [1, 0, 0, 0]);
    }
}
