//! A `tokenizer.json` from a stranger.

use std::fs;

use mistral_model::tokenizer::{Tokenizer, TokenizerError};

use super::folder;

/// A vocabulary of a few pieces: `model` and `rest` go into the file as they are.
fn small(vocab: &str, model: &str, rest: &str) -> Result<Tokenizer, TokenizerError> {
    let json = format!(
        r#"{{"version": "1.0", {rest} "model": {{"type": "BPE", "vocab": {vocab}, {model}}}}}"#
    );
    Tokenizer::from_json(json.as_bytes())
}

#[test]
fn files_that_cannot_be_are_refused() {
    let merges = r#""merges": []"#;
    let missing = small(r#"{"a": 0}"#, r#""merges": ["a b"]"#, "").unwrap_err();
    assert!(matches!(missing, TokenizerError::Inconsistent { .. }));
    let huge = small(r#"{"a": 4294967295}"#, merges, "").unwrap_err();
    assert!(matches!(huge, TokenizerError::IdTooLarge { .. }));
    let twice = small(r#"{"a": 0, "b": 0}"#, merges, "").unwrap_err();
    assert!(matches!(
        twice,
        TokenizerError::DuplicateId { id: 0, .. } | TokenizerError::Inconsistent { .. }
    ));
    let unknown = small(r#"{"a": 0}"#, r#""unk_token": "?", "merges": []"#, "").unwrap_err();
    assert!(matches!(unknown, TokenizerError::NoSuchPiece { .. }));
    let deep = vec![b'['; 1 << 20];
    let deep = Tokenizer::from_json(&deep).unwrap_err();
    assert!(matches!(deep, TokenizerError::TooDeep { offset: 32, .. }));
    for bad in ["", "{}", "null", "{\"model\": 3}", "\u{0}"] {
        let error = Tokenizer::from_json(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, TokenizerError::Json { .. }), "{bad:?}");
    }
}

#[test]
fn a_cut_file_is_an_error_wherever_it_is_cut() {
    let whole = fs::read(folder().join("v1/tokenizer.json")).unwrap();
    for cut in (0..whole.len()).step_by(whole.len() / 20) {
        assert!(Tokenizer::from_json(&whole[..cut]).is_err(), "{cut}");
    }
}

/// Every part of a Mistral tokenizer, with four pieces.
const SMALL: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
    {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never",
        "split": false},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>",
        "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0],
        "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"},
        "content": " "}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": {"<s>": 0, "▁": 1, "a": 2, "▁a": 3, "<0x62>": 4}, "merges": [["▁", "a"]]}}"#;

#[test]
fn a_damaged_file_is_an_error_or_still_a_tokenizer() {
    assert_eq!(small_ids(SMALL.as_bytes()), Some(vec![0, 3, 4, 1]));
    // With an unknown piece instead of bytes, our own encoder takes it.
    let ours = SMALL.replace("\"unk_token\": null", "\"unk_token\": \"<0x62>\"");
    let ours = ours.replace("\"byte_fallback\": true", "\"byte_fallback\": false");
    assert_eq!(small_ids(ours.as_bytes()), Some(vec![0, 3, 4, 1]));
    let mut loaded = 0;
    for whole in [SMALL, &ours] {
        for index in 0..whole.len() {
            for byte in [b'"', b'0', b'9', b'a', b' ', b'{', b']', 0xFF] {
                let mut damaged = whole.as_bytes().to_vec();
                damaged[index] = byte;
                loaded += usize::from(small_ids(&damaged).is_some());
            }
        }
    }
    assert!(loaded > 200, "{loaded}");
}

/// Encodes and decodes whatever the file allows.
fn small_ids(json: &[u8]) -> Option<Vec<u32>> {
    let tokenizer = Tokenizer::from_json(json).ok()?;
    let ids = tokenizer.encode("ab ").ok()?;
    tokenizer.decode(&ids).unwrap();
    Some(ids)
}
