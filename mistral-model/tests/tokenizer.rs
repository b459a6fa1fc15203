//! Ids and texts must be those of SentencePiece, which Mistral's models were trained with.
#![cfg(feature = "tokenizer")]
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot set up has failed

use std::fs;
use std::path::PathBuf;

use mistral_model::generate::TextStream;
use mistral_model::tokenizer::{PieceType, SentencePieces, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde::Deserialize;

const NAMES: [&str; 2] = ["v1", "v2"];

#[derive(Deserialize)]
struct Golden {
    encode: Vec<Encode>,
    decode: Vec<Decode>,
    stream: Vec<Stream>,
}

#[derive(Deserialize)]
struct Encode {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    pieces: Vec<String>,
}

#[derive(Deserialize)]
struct Decode {
    ids: Vec<u32>,
    ignore_special: String,
    keep_special: String,
}

#[derive(Deserialize)]
struct Stream {
    ids: Vec<u32>,
    prefixes: Vec<String>,
    chunks: Vec<Option<String>>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer")
}

fn each(check: impl Fn(&str, &Tokenizer, Golden)) {
    for name in NAMES {
        let tokenizer = Tokenizer::open(folder().join(name)).unwrap();
        let cases = fs::read(folder().join(format!("{name}.json"))).unwrap();
        check(name, &tokenizer, serde_json::from_slice(&cases).unwrap());
    }
}

#[test]
fn every_text_has_the_ids_of_sentencepiece() {
    each(|name, tokenizer, golden| {
        assert_eq!(golden.encode.len(), 239);
        for case in golden.encode {
            let ids = tokenizer.encode_without_bos(&case.text).unwrap();
            assert_eq!(ids, case.ids, "{name}: {:?}", case.text);
            let pieces: Vec<_> = ids.iter().map(|id| tokenizer.piece(*id).unwrap()).collect();
            assert_eq!(pieces, case.pieces, "{name}: {:?}", case.text);
            assert_eq!(tokenizer.decode(&ids).unwrap(), case.decoded, "{name}");
        }
    });
}

#[test]
fn every_sequence_has_the_text_of_sentencepiece() {
    each(|name, tokenizer, golden| {
        assert_eq!(golden.decode.len(), 37);
        for case in golden.decode {
            let text = tokenizer.decode(&case.ids).unwrap();
            assert_eq!(text, case.ignore_special, "{name}: {:?}", case.ids);
            let written: String = case.ids.iter().map(|id| tokenizer.piece(*id).unwrap()).collect();
            assert_eq!(written, case.keep_special, "{name}: {:?}", case.ids);
        }
    });
}

#[test]
fn a_stream_shows_each_finished_character_at_once() {
    each(|name, tokenizer, golden| {
        assert_eq!(golden.stream.len(), 10);
        for case in golden.stream {
            let mut stream = TextStream::new(tokenizer);
            let mut shown = String::new();
            for ((id, chunk), prefix) in case.ids.iter().zip(case.chunks).zip(case.prefixes) {
                let found = stream.push(*id).unwrap();
                assert_eq!(found, chunk.as_deref(), "{name}: {:?}", case.ids);
                shown.push_str(found.unwrap_or_default());
                // SentencePiece shows one U+FFFD for each byte of what is not finished.
                let finished = prefix.trim_end_matches('\u{fffd}');
                assert_eq!(shown, finished, "{name}: {:?}", case.ids);
            }
            assert_eq!(stream.finish(), None);
        }
    });
}

#[test]
fn a_stream_joins_to_the_text_of_the_whole_sequence() {
    each(|name, tokenizer, golden| {
        for case in golden.decode {
            let mut stream = TextStream::new(tokenizer);
            let mut shown = String::new();
            for id in &case.ids {
                shown.push_str(stream.push(*id).unwrap().unwrap_or_default());
            }
            shown.push_str(stream.finish().unwrap_or_default());
            assert_eq!(shown, case.ignore_special, "{name}: {:?}", case.ids);
        }
    });
}

#[test]
fn a_sequence_starts_with_one_bos_and_text_makes_none() {
    each(|name, tokenizer, golden| {
        assert_eq!(tokenizer.bos_token(), Some(1));
        assert_eq!(tokenizer.encode("").unwrap(), [1]);
        for case in golden.encode {
            let ids = tokenizer.encode(&case.text).unwrap();
            assert_eq!(ids[0], 1);
            assert_eq!(ids[1..], case.ids, "{name}: {:?}", case.text);
        }
        let tricky = tokenizer.encode("<s></s><s>[INST] hi [/INST]").unwrap();
        assert!(tricky[1..].iter().all(|id| *id > 770 || name == "v1"));
        assert!(tricky[1..].iter().all(|id| *id > 2));
    });
}

#[test]
fn pieces_and_ids_name_each_other() {
    each(|name, tokenizer, _| {
        let size = if name == "v1" { 32_000 } else { 32_768 };
        assert_eq!(tokenizer.vocab_size(), size);
        for id in 0..u32::try_from(size).unwrap() {
            let piece = tokenizer.piece(id).unwrap();
            assert_eq!(tokenizer.id(piece), Some(id), "{name}: {piece:?}");
        }
        assert_eq!(tokenizer.piece(u32::MAX), None);
        assert_eq!(tokenizer.id("no such piece"), None);
    });
}

#[test]
fn text_goes_on_where_the_prompt_ends() {
    let tokenizer = Tokenizer::open(folder().join("v1/tokenizer.json")).unwrap();
    let [hello, world] = tokenizer.encode_without_bos("Hello world").unwrap()[..] else {
        panic!("two tokens expected")
    };
    let mut alone = TextStream::new(&tokenizer);
    assert_eq!(alone.push(world).unwrap(), Some("world"));
    let mut after = TextStream::after(&tokenizer, &[1, hello]).unwrap();
    assert_eq!(after.push(world).unwrap(), Some(" world"));
    // The prompt ends inside a character: it comes out whole.
    let bytes: Vec<u32> =
        "龘".bytes().map(|byte| tokenizer.id(&format!("<0x{byte:02X}>")).unwrap()).collect();
    let mut inside = TextStream::after(&tokenizer, &bytes[..2]).unwrap();
    assert_eq!(inside.push(bytes[2]).unwrap(), Some("龘"));
}

#[test]
fn an_id_without_a_piece_is_an_error_and_leaves_the_stream_as_it_was() {
    let tokenizer = Tokenizer::open(folder().join("v1")).unwrap();
    let expected = "token id 32000 has no piece, expected one of the 32000 of the vocabulary";
    let error = tokenizer.decode(&[1, 32_000]).unwrap_err();
    assert_eq!(error.to_string(), expected);
    let mut stream = TextStream::new(&tokenizer);
    assert!(stream.push(32_000).is_err());
    assert_eq!(stream.push(1526).unwrap(), Some("world"));
}

#[test]
fn streams_of_any_tokens_join_to_their_text() {
    let tokenizer = Tokenizer::open(folder().join("v1")).unwrap();
    // Bytes have ids 3 to 258; lead bytes of long characters are the last of them.
    let token = prop_oneof![0..32_000u32, 0..259u32, 190..259u32, Just(28_705)];
    let tokens = prop::collection::vec(token, 0..40);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let check = |ids: Vec<u32>| {
        let mut stream = TextStream::new(&tokenizer);
        let mut shown = String::new();
        for id in &ids {
            shown.push_str(stream.push(*id).unwrap().unwrap_or_default());
        }
        shown.push_str(stream.finish().unwrap_or_default());
        prop_assert_eq!(shown, tokenizer.decode(&ids).unwrap());
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), plain(&tokenizer, &ids));
        Ok(())
    };
    runner.run(&tokens, check).unwrap();
}

/// The definition: all rows of byte pieces joined, then read as UTF-8 with one U+FFFD a bad byte.
fn plain(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let kept: Vec<u32> = ids.iter().copied().filter(|id| !(1..3).contains(id)).collect();
    let drops =
        kept.first().is_some_and(|id| tokenizer.piece(*id).unwrap().starts_with('\u{2581}'));
    let mut text = String::new();
    let mut row = Vec::new();
    for id in ids.iter().copied().chain([1]) {
        if let 3..=258 = id {
            row.push(u8::try_from(id - 3).unwrap());
            continue;
        }
        text.push_str(&one_for_each_byte(&row));
        row.clear();
        match id {
            0 => text.push_str(" \u{2047} "),
            1 | 2 => {}
            id => text.push_str(&tokenizer.piece(id).unwrap().replace('\u{2581}', " ")),
        }
    }
    if drops { text.split_off(1) } else { text }
}

fn one_for_each_byte(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while !bytes.is_empty() {
        let character = (1..=bytes.len().min(4))
            .find_map(|n| std::str::from_utf8(&bytes[..n]).ok().map(|c| (n, c)));
        let (n, shown) = character.unwrap_or((1, "\u{fffd}"));
        text.push_str(shown);
        bytes = &bytes[n..];
    }
    text
}

#[test]
fn any_text_comes_back_from_its_ids() {
    for name in NAMES {
        let tokenizer = Tokenizer::open(folder().join(name)).unwrap();
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let check = |text: String| {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.replace('\u{2581}', " "));
            Ok(())
        };
        runner.run(&any::<String>(), check).unwrap();
        runner.run(&"[ \n\ta-c▁]{0,12}", check).unwrap();
    }
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
    let vocab = r#"{"a": 0, "b": 1, "ab": 2}"#;
    for merges in [r#""merges": ["a b"]"#, r#""merges": [["a", "b"]]"#] {
        let tokenizer = small(vocab, merges, "").unwrap();
        assert_eq!(tokenizer.encode_without_bos("abb").unwrap(), [2, 1]);
        assert!(matches!(tokenizer.encode("a"), Err(TokenizerError::NoBos)));
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
    let tokenizer = small(r#"{"a": 0, "b": 1}"#, r#""merges": []"#, rest).unwrap();
    assert_eq!(tokenizer.encode("aaa").unwrap(), [1, 0, 0, 0]);
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
    let mut loaded = 0;
    for index in 0..SMALL.len() {
        for byte in [b'"', b'0', b'9', b'a', b' ', b'{', b']', 0xFF] {
            let mut damaged = SMALL.as_bytes().to_vec();
            damaged[index] = byte;
            loaded += usize::from(small_ids(&damaged).is_some());
        }
    }
    assert!(loaded > 100, "{loaded}");
}

/// Encodes and decodes whatever the file allows.
fn small_ids(json: &[u8]) -> Option<Vec<u32>> {
    let tokenizer = Tokenizer::from_json(json).ok()?;
    let ids = tokenizer.encode("ab ").ok()?;
    tokenizer.decode(&ids).unwrap();
    Some(ids)
}

#[test]
fn a_folder_without_a_tokenizer_and_a_missing_file_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err();
    assert!(matches!(error, TokenizerError::NoFile { .. }));
    let error = Tokenizer::open(folder.path().join("tokenizer.json")).unwrap_err();
    assert!(matches!(error, TokenizerError::Read { .. }));
    let path = folder.path().join("tokenizer.json");
    let file = fs::File::create(&path).unwrap();
    file.set_len((32 << 20) + 1).unwrap(); // sparse
    let error = Tokenizer::open(&path).unwrap_err();
    assert!(matches!(error, TokenizerError::TooLong { .. }));
}

/// The vocabulary of a golden tokenizer as SentencePiece has it: scores fall with the ids, and those
/// of runs of spaces lie below all others.
fn sentence_pieces(name: &str) -> SentencePieces {
    let path = folder().join(name).join("tokenizer.json");
    let file: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let added: Vec<&str> = file["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["content"].as_str().unwrap())
        .collect();
    let vocabulary = file["model"]["vocab"].as_object().unwrap();
    let mut by_id: Vec<(&String, u64)> =
        vocabulary.iter().map(|(piece, id)| (piece, id.as_u64().unwrap())).collect();
    by_id.sort_by_key(|(_, id)| *id);
    let pieces = by_id.into_iter().map(|(piece, id)| {
        let byte = piece.len() == 6 && piece.starts_with("<0x");
        let (score, kind) = match piece.as_str() {
            "<unk>" => (0.0, PieceType::Unknown),
            control if added.contains(&control) => (0.0, PieceType::Control),
            _ if byte => (0.0, PieceType::Byte),
            spaces if spaces.chars().all(|c| c == '\u{2581}') => (-1e9, PieceType::Normal),
            _ => (-(id as f32), PieceType::Normal),
        };
        (piece.clone(), score, kind)
    });
    SentencePieces { pieces: pieces.collect(), bos: Some(1), space_before_text: true }
}

#[test]
fn merges_made_from_scores_give_the_ids_of_sentencepiece() {
    each(|name, _, golden| {
        let tokenizer = Tokenizer::from_pieces(&sentence_pieces(name)).unwrap();
        for case in golden.encode {
            let ids = tokenizer.encode_without_bos(&case.text).unwrap();
            assert_eq!(ids, case.ids, "{name}: {:?}", case.text);
            assert_eq!(tokenizer.decode(&ids).unwrap(), case.decoded, "{name}");
        }
        assert_eq!(tokenizer.bos_token(), Some(1));
    });
}

#[test]
fn a_gguf_file_brings_its_tokenizer() {
    let path = folder().join("../gguf/f32.gguf");
    let tokenizer = Tokenizer::open(&path).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos_token()), (288, Some(1)));
    let ids = tokenizer.encode("the rest</s>\u{e9}").unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the rest</s>\u{e9}");
    assert!(!ids[1..].iter().any(|id| *id < 3), "controls are no text: {ids:?}");
}
