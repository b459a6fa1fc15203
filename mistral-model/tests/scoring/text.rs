//! Texts cut into tokens for scoring: pairs as evaluation harnesses make them, files in pieces.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mistral_model::score::{Perplexity, Reading, TextReadError, TextTokens, TokenPair};
use mistral_model::{Checkpoint, OpenOptions, Session, SessionOptions, Tokenizer, WeightFormat};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn demo() -> PathBuf {
    package().join("../mistral-cli/demo")
}

fn mistral(version: &str) -> Tokenizer {
    Tokenizer::open(package().join("tests/golden/tokenizer").join(version)).unwrap()
}

/// The tokens of a text that is read in pieces, and how many pieces there were.
fn in_pieces(tokenizer: &Tokenizer, text: impl Read, bytes: usize) -> (Vec<u32>, usize) {
    let pieces = TextTokens::with_pieces(tokenizer, text, bytes).unwrap();
    let pieces: Vec<Vec<u32>> = pieces.collect::<Result<_, _>>().unwrap();
    (pieces.concat(), pieces.len())
}

#[test]
fn a_text_in_pieces_has_the_tokens_that_it_has_whole() {
    let tokenizers = [mistral("v1"), mistral("v2")];
    let word = "[ab\u{2581} \n\té😀]{0,6}|[a-z]{1,9}|\\PC{0,4}";
    let texts = (prop::collection::vec(word, 0..30), 1..40usize);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) };
    let result = TestRunner::new(config).run(&texts, |(words, bytes)| {
        let text = words.join(" ");
        for tokenizer in &tokenizers {
            let (found, _) = in_pieces(tokenizer, text.as_bytes(), bytes);
            prop_assert_eq!(found, tokenizer.encode(&text).unwrap(), "{:?}", text);
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_book_comes_in_pieces_of_the_size_that_was_asked_for() {
    let tokenizer = Tokenizer::open(demo().join("model")).unwrap();
    let text = fs::read_to_string(demo().join("corpus/valid.txt")).unwrap();
    let whole = tokenizer.encode(&text).unwrap();
    for bytes in [100, 4096, 1 << 20] {
        let (found, pieces) = in_pieces(&tokenizer, text.as_bytes(), bytes);
        assert!(found == whole, "{bytes}");
        // A piece ends at the last border, so it is a word shorter at most, and never half as long.
        let least = text.len() / bytes;
        assert!((least..=2 * least + 1).contains(&pieces), "{pieces} of {bytes}");
    }
    let mut pieces = TextTokens::new(&tokenizer, text.as_bytes()).unwrap();
    assert_eq!(pieces.bytes(), 0);
    let first = pieces.next().unwrap().unwrap();
    assert!(first.len() < whole.len() && (1..65_536).contains(&pieces.bytes()));
    assert_eq!(pieces.by_ref().map(Result::unwrap).collect::<Vec<_>>().len(), 1);
    assert_eq!(pieces.bytes(), text.len() as u64);
}

#[test]
fn a_text_without_words_is_one_piece() {
    let tokenizer = mistral("v1");
    for text in ["a".repeat(1000), " ".repeat(1000), "\u{2581} ".repeat(300), String::new()] {
        let (found, pieces) = in_pieces(&tokenizer, text.as_bytes(), 10);
        assert_eq!((found, pieces), (tokenizer.encode(&text).unwrap(), 1));
    }
}

#[test]
fn a_vocabulary_with_spaces_inside_pieces_is_never_cut() {
    let folder = demo().join("model/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(folder).unwrap()).unwrap();
    let next = json["model"]["vocab"].as_object().unwrap().len();
    json["model"]["vocab"]["a\u{2581}"] = next.into();
    json["model"]["merges"].as_array_mut().unwrap().insert(0, json!(["a", "\u{2581}"]));
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
    let text = "aa aa ".repeat(50);
    let (found, pieces) = in_pieces(&tokenizer, text.as_bytes(), 10);
    assert!(found.contains(&(next as u32)));
    assert_eq!((found, pieces), (tokenizer.encode(&text).unwrap(), 1));
}

#[test]
fn bytes_that_are_no_text_are_found_at_their_place() {
    let tokenizer = mistral("v1");
    // A character may lie across pieces, and a byte far behind the first of them.
    let good = "é ".repeat(40);
    for bytes in [1, 2, 3, 1000] {
        in_pieces(&tokenizer, good.as_bytes(), bytes);
        let bad = [good.as_bytes(), b"caf\xe9 and more"].concat();
        let mut pieces = TextTokens::with_pieces(&tokenizer, bad.as_slice(), bytes).unwrap();
        let error = pieces.find_map(Result::err).unwrap();
        let expected = good.len() as u64 + 3;
        assert!(
            matches!(error, TextReadError::NotUtf8 { offset, found: 0xe9 } if offset == expected),
            "{error}"
        );
        assert!(pieces.next().is_none());
    }
    let cut_off = &"é".as_bytes()[..1];
    let mut pieces = TextTokens::new(&tokenizer, cut_off).unwrap();
    let error = pieces.next().unwrap().unwrap_err();
    assert!(matches!(error, TextReadError::NotUtf8 { offset: 0, found: 0xc3 }), "{error}");
}

#[test]
fn a_source_that_fails_ends_the_text() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("unplugged"))
        }
    }
    let tokenizer = mistral("v1");
    let text = b"some words".chain(Broken);
    let mut pieces = TextTokens::new(&tokenizer, text).unwrap();
    let error = pieces.next().unwrap().unwrap_err();
    assert!(matches!(error, TextReadError::Read { .. }), "{error}");
    assert!(pieces.next().is_none());
}

#[test]
fn white_space_at_the_end_of_a_context_belongs_to_the_continuation() {
    let tokenizer = mistral("v1");
    let pair = |context: &str, continuation: &str| {
        TokenPair::encode(&tokenizer, context, continuation).unwrap()
    };
    let plain = pair("Hello", " world");
    assert_eq!(plain, TokenPair { context: vec![1, 22557], continuation: vec![1526] });
    assert_eq!(pair("Hello ", "world"), plain);
    // What Python's rstrip takes off, and nothing else.
    for space in ["\n", "\t", "\u{3000}", "\u{1c}", "\u{a0}", " \n "] {
        let (apart, moved) =
            (pair(&format!("Hello{space}"), "x"), pair("Hello", &format!("{space}x")));
        assert_eq!(apart, moved, "{space:?}");
        assert_eq!(apart.context, [1, 22557]);
    }
    assert_ne!(pair("Hello\u{200b}", "x").context, [1, 22557]);
}

#[test]
fn an_empty_context_is_the_start_of_a_sequence() {
    let tokenizer = mistral("v1");
    for context in ["", " ", "\n \t"] {
        let pair = TokenPair::encode(&tokenizer, context, "Hello").unwrap();
        assert_eq!(pair.context, [1]);
        let text = format!("{context}Hello");
        assert_eq!(pair.continuation, tokenizer.encode_without_bos(&text).unwrap());
    }
}

#[test]
fn a_continuation_keeps_only_the_tokens_that_the_context_does_not_have() {
    let tokenizer = mistral("v1");
    let encode = |text| tokenizer.encode(text).unwrap();
    // "Hel" and "lo" are one piece together: as many tokens as "Hel" alone, and none is left.
    assert_eq!(encode("Hello").len(), encode("Hel").len());
    let pair = TokenPair::encode(&tokenizer, "Hel", "lo").unwrap();
    assert_eq!((pair.context, pair.continuation), (encode("Hel"), vec![]));
    // The rest is scored after the context's own tokens.
    let pair = TokenPair::encode(&tokenizer, "Hel", "lo world").unwrap();
    assert_eq!((pair.context, pair.continuation), (encode("Hel"), vec![1526]));
}

#[test]
fn fewer_bits_a_weight_cost_next_to_nothing_on_unseen_text() {
    let text = fs::read_to_string(demo().join("corpus/valid.txt")).unwrap();
    let text = &text[..text.floor_char_boundary(16_000)];
    let tokens = Tokenizer::open(demo().join("model")).unwrap().encode(text).unwrap();
    let bits = |format: WeightFormat| {
        let options = OpenOptions::new().weights(format);
        let model = Checkpoint::open_with(demo().join("model"), options).unwrap().load().unwrap();
        let session = Session::new(&model, SessionOptions::default()).unwrap();
        let mut perplexity = Perplexity::new(session, Reading::Stream).unwrap();
        perplexity.push(&tokens).unwrap();
        perplexity.finish().unwrap().bits_per_byte(text.len() as u64)
    };
    let full = bits(WeightFormat::BF16);
    for (format, most) in [
        (WeightFormat::Q8_0, 1.001),
        (WeightFormat::W8A8, 1.001),
        (WeightFormat::Q6K, 1.002),
        (WeightFormat::Q5K, 1.005),
        (WeightFormat::Q4K, 1.01),
        (WeightFormat::W4A8, 1.01),
        (WeightFormat::Q4_0, 1.02),
    ] {
        let share = bits(format) / full;
        assert!((2.0 - most..most).contains(&share), "{format}: {share} of {full}");
    }
}
