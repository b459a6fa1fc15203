//! Pieces of text from tokens, and why they end.
#![cfg(feature = "tokenizer")]
#![allow(clippy::unwrap_used)] // a test that cannot set up has failed

use std::io::Error;
use std::path::PathBuf;

use mistral_model::generate::{StopReason, StopStrings, TextError, TextGenerator};
use mistral_model::tokenizer::Tokenizer;

fn tokenizer() -> Tokenizer {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer/v1");
    Tokenizer::open(golden).unwrap()
}

/// The text, and why it ended.
fn run(text: &str, stops: &[&str], limit: usize) -> (Vec<String>, Option<StopReason>) {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode_without_bos(text).unwrap();
    let tokens = ids.into_iter().map(Ok::<_, Error>);
    let stops = StopStrings::new(stops.iter().copied()).unwrap();
    let mut generator = TextGenerator::new(tokens, &tokenizer, stops).max_tokens(limit);
    let pieces = generator.by_ref().map(Result::unwrap).collect();
    assert!(generator.next().is_none(), "an ended text stays ended");
    (pieces, generator.reason().cloned())
}

#[test]
fn without_stop_strings_the_text_ends_with_the_tokens() {
    let (pieces, reason) = run("Hello world", &[], 10);
    assert_eq!(pieces, ["Hello", " world"]);
    assert_eq!(reason, Some(StopReason::EndOfSequence));
}

#[test]
fn a_stop_string_across_tokens_ends_the_text_before_it() {
    // "▁Hello", "▁world", "!": the stop string begins in one token and ends in another.
    let (pieces, reason) = run("Hello world! And so on", &["o world!"], 100);
    assert_eq!(pieces, ["Hell"]);
    assert_eq!(reason, Some(StopReason::StopString("o world!".to_owned())));
}

#[test]
fn what_only_began_a_stop_string_is_shown_at_the_end() {
    let (pieces, reason) = run("Hello world", &["world!", "Hello world."], 100);
    assert_eq!(pieces.concat(), "Hello world");
    assert_eq!(reason, Some(StopReason::EndOfSequence));
}

#[test]
fn a_limit_is_told_from_the_end_and_takes_no_token_more() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode_without_bos("Hello world again").unwrap();
    let mut asked = 0;
    let tokens = ids.iter().map(|id| {
        asked += 1;
        Ok::<_, Error>(*id)
    });
    let mut text = TextGenerator::new(tokens, &tokenizer, StopStrings::default()).max_tokens(2);
    let pieces: Result<String, _> = text.by_ref().collect();
    assert_eq!(pieces.unwrap(), "Hello world");
    assert_eq!(text.reason(), Some(&StopReason::Exhausted));
    assert_eq!(text.tokens_used(), 2);
    drop(text);
    assert_eq!(asked, 2);
}

#[test]
fn a_stop_token_ends_the_text_before_it_and_is_told_from_the_end() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode_without_bos("Hello world again").unwrap();
    let text_of = |stops: &[u32], limit| {
        let tokens = ids.iter().map(|id| Ok::<_, Error>(*id));
        let held = StopStrings::new([" world again"]).unwrap();
        let mut text = TextGenerator::new(tokens, &tokenizer, held)
            .stop_tokens(stops.iter().copied())
            .max_tokens(limit);
        let pieces: Result<String, _> = text.by_ref().collect();
        (pieces.unwrap(), text.tokens_used(), text.reason().cloned())
    };
    // What a stop string held back comes out, as it can be completed no more.
    let stopped = Some(StopReason::StopToken(ids[2]));
    assert_eq!(text_of(&[7, ids[2]], 9), ("Hello world".to_owned(), 2, stopped));
    assert_eq!(text_of(&[ids[0]], 9).0, "");
    let string = StopReason::StopString(" world again".to_owned());
    assert_eq!(text_of(&[7], 9), ("Hello".to_owned(), ids.len(), Some(string)));
    // A limit that is used up takes no token more, not even one that stops.
    assert_eq!(text_of(&[ids[2]], 2).2, Some(StopReason::Exhausted));
}

#[test]
fn a_character_cut_off_by_the_limit_is_replaced_and_may_complete_a_stop_string() {
    // "▁", then four bytes of which two arrive.
    let (pieces, reason) = run("𝔘", &[], 3);
    assert_eq!(pieces, ["\u{fffd}\u{fffd}"]);
    assert_eq!(reason, Some(StopReason::Exhausted));
    let (pieces, reason) = run("𝔘", &["\u{fffd}"], 3);
    assert!(pieces.is_empty());
    assert_eq!(reason, Some(StopReason::StopString("\u{fffd}".to_owned())));
}

#[test]
fn an_error_is_passed_on_and_ends_the_text() {
    let tokenizer = tokenizer();
    let failing = [Ok(22557), Err(Error::other("out of memory")), Ok(1526)];
    let mut text = TextGenerator::new(failing, &tokenizer, StopStrings::default());
    assert_eq!(text.next().unwrap().unwrap(), "Hello");
    let error = text.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "out of memory");
    assert!(text.next().is_none());
    assert_eq!(text.reason(), None);

    let stranger = [Ok::<u32, Error>(40_000)];
    let mut text = TextGenerator::new(stranger, &tokenizer, StopStrings::default());
    let error = text.next().unwrap().unwrap_err();
    assert!(matches!(error, TextError::Decode { .. }));
    assert!(text.next().is_none());
}

#[test]
fn text_goes_on_behind_a_prompt() {
    let tokenizer = tokenizer();
    let prompt = tokenizer.encode("Hello").unwrap();
    let tokens = [Ok::<_, Error>(1526)];
    let mut text =
        TextGenerator::new(tokens, &tokenizer, StopStrings::default()).after(&prompt).unwrap();
    assert_eq!(text.next().unwrap().unwrap(), " world");
}
