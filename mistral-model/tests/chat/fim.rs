//! Texts with a gap give the ids of mistral-common, and only where the vocabulary knows gaps.

use mistral_model::chat::{FimEncoder, FimError, Json};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::golden::{ids, read};
use super::tokenizer;

#[test]
fn every_gap_gives_the_ids_of_mistral_common() {
    let tokenizer = tokenizer("v3");
    let fim = FimEncoder::new(&tokenizer).unwrap();
    for (requests, results) in
        [("requests.json", "v3.json"), ("edges/requests.json", "edges/v3.json")]
    {
        let (requests, results) = (read(requests), read(results));
        let requests = requests.get("fim").and_then(Json::as_array).unwrap();
        assert!(!requests.is_empty());
        for case in requests {
            let name = case.get("name").and_then(Json::as_str).unwrap();
            let text = |key| case.get("request")?.get(key).and_then(Json::as_str);
            let result = results.get("fim").and_then(|all| all.get(name)).unwrap();
            let found = fim.encode(text("prompt").unwrap(), text("suffix").unwrap_or_default());
            assert_eq!(found.unwrap(), ids(result, "ids"), "{case}");
        }
    }
}

#[test]
fn a_vocabulary_without_the_pieces_is_refused() {
    for name in ["v1", "v2"] {
        let tokenizer = tokenizer(name);
        let error = FimEncoder::new(&tokenizer).unwrap_err();
        assert!(matches!(error, FimError::NoPiece { piece: "[SUFFIX]" }), "{error}");
    }
}

#[test]
fn text_is_whole_on_both_sides_and_becomes_no_control() {
    let tokenizer = tokenizer("v3");
    let fim = FimEncoder::new(&tokenizer).unwrap();
    let text = |ids: &[u32]| -> Vec<u8> {
        ids.iter().flat_map(|id| tokenizer.bytes(*id).unwrap().into_owned()).collect()
    };
    let side = r"(\[PREFIX\]|\[SUFFIX\]|</s>|☺| |\n|é|a|def f\(){0,6}";
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&(side, side), |(prefix, suffix)| {
            let ids = fim.encode(&prefix, &suffix).unwrap();
            let is_control = |at: &usize| tokenizer.is_control(ids[*at]);
            let controls: Vec<_> = (0..ids.len()).filter(is_control).collect();
            prop_assert_eq!((controls.len(), &ids[..2]), (3, &[1, 13][..]), "{:?}", ids);
            let gap = controls[2];
            prop_assert_eq!(ids[gap], 11);
            prop_assert_eq!(text(&ids[2..gap]), suffix.as_bytes());
            let mark = if prefix.is_empty() { "" } else { " " };
            prop_assert_eq!(text(&ids[gap + 1..]), format!("{mark}{prefix}").into_bytes());
            Ok(())
        })
        .unwrap();
}
