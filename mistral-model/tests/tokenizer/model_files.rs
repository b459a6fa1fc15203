//! SentencePiece's `.model` files.

use std::fs;

use mistral_model::tokenizer::{
    ModelFileError, PieceType, SentencePieces, Tokenizer, TokenizerError,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{cases, folder, open, pieces_of};

#[test]
fn the_published_files_hold_the_pieces_that_they_are_known_for() {
    for (name, size, controls, user_defined, first_byte) in
        [("v1", 32_000, 2, 0, 3), ("v2", 32_768, 770, 0, 771), ("v3", 32_768, 750, 20, 771)]
    {
        let all = pieces_of(name);
        let count = |kind| all.pieces.iter().filter(|piece| piece.2 == kind).count();
        assert_eq!(all.pieces.len(), size, "{name}");
        assert_eq!(count(PieceType::Control), controls, "{name}");
        assert_eq!(count(PieceType::UserDefined), user_defined, "{name}");
        assert_eq!((count(PieceType::Byte), count(PieceType::Unknown)), (256, 1), "{name}");
        assert_eq!(all.pieces[first_byte], ("<0x00>".to_owned(), 0.0, PieceType::Byte), "{name}");
        assert_eq!((all.bos, all.space_before_text), (Some(1), true), "{name}");
        let spaces = all.pieces.iter().find(|piece| piece.0 == "\u{2581}\u{2581}").unwrap();
        assert_eq!(spaces.1, -1e9, "{name}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    for name in ["v1", "v2", "v3"] {
        let all = pieces_of(name);
        assert_eq!(SentencePieces::from_model(&all.to_model()).unwrap(), all, "{name}");
    }
}

#[test]
fn a_line_of_megabytes_comes_back_whatever_it_is_made_of() {
    let tokenizer = open("v3/tokenizer.model");
    let random = |n: usize| {
        let step = |x: &mut u32| {
            *x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(char::from(b' ' + (*x >> 24) as u8 % 95))
        };
        std::iter::successors(Some(7u32), |x| Some(x.wrapping_add(0x9E37_79B9)))
            .filter_map(|mut x| step(&mut x))
            .take(n)
            .collect::<String>()
    };
    let n = 1 << 20;
    for text in ["a".repeat(n), " ".repeat(n), "\u{1F600}".repeat(n / 4), random(n)] {
        let ids = tokenizer.encode_without_bos(&text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

/// What follows a damaged file: an error, or pieces that encode and decode.
fn opens(bytes: &[u8]) -> bool {
    let Ok(tokenizer) = Tokenizer::from_model(bytes) else { return false };
    let ids = tokenizer.encode_without_bos("a b</s>\u{e9}").unwrap();
    tokenizer.decode(&ids).unwrap();
    true
}

#[test]
fn a_cut_file_is_an_error_wherever_it_is_cut() {
    let whole = fs::read(folder().join("v1/tokenizer.model")).unwrap();
    // The settings come last, so that no beginning of the file is whole.
    for cut in (0..whole.len()).step_by(997).chain(whole.len() - 40..whole.len()) {
        let error = SentencePieces::from_model(&whole[..cut]).unwrap_err();
        match error {
            ModelFileError::NoPieces => assert_eq!(cut, 0),
            ModelFileError::Truncated { offset, .. } => assert!(offset <= cut, "{offset} {cut}"),
            // Cut between two fields.
            ModelFileError::Unsupported { offset, .. } => assert!(offset <= cut, "{offset} {cut}"),
            ModelFileError::BytePieces { .. } | ModelFileError::Piece { .. } => {}
            other => panic!("{cut}: {other:?}"),
        }
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let mut all = pieces_of("v3");
    // Some of every type.
    all.pieces.truncate(1100);
    let whole = all.to_model();
    assert!(opens(&whole));
    let place = 0..whole.len();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) };
    let check = |(places, byte): (Vec<usize>, u8)| {
        let mut damaged = whole.clone();
        places.iter().for_each(|at| damaged[*at] = byte);
        opens(&damaged);
        Ok(())
    };
    let strategy = (prop::collection::vec(place, 1..4), any::<u8>());
    TestRunner::new(config).run(&strategy, check).unwrap();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) };
    let noise = prop::collection::vec(any::<u8>(), 0..80);
    TestRunner::new(config)
        .run(&noise, |bytes| {
            opens(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused_with_their_place() {
    // A piece that says it has 2^62 bytes, and one of 2^62 inside an honest one.
    let huge = [&[0x80; 8][..], &[0x40]].concat();
    let outer = [&[0x0A][..], &huge].concat();
    let error = SentencePieces::from_model(&outer).unwrap_err();
    assert!(matches!(
        error,
        ModelFileError::Truncated { offset: 10, needed: 0x4000_0000_0000_0000, left: 0 }
    ));
    let inner = [&[0x0A, 10, 0x0A][..], &huge].concat();
    let error = SentencePieces::from_model(&inner).unwrap_err();
    assert!(matches!(error, ModelFileError::Truncated { offset: 12, left: 0, .. }));
}

#[test]
fn other_files_are_told_apart() {
    for other in
        [&b"{\"version\": \"1.0\"}"[..], b"PK\x03\x04", b"GGUF\x03\x00", b"\x80\x00\x00\x00"]
    {
        let error = Tokenizer::from_model(other).unwrap_err();
        assert!(matches!(error, TokenizerError::ModelFile { .. }), "{error}");
    }
    // A vocabulary of the other algorithm, as T5 and others have.
    let mut unigram = pieces_of("v1");
    unigram.pieces.truncate(300);
    let mut bytes = unigram.to_model();
    bytes.extend([0x12, 2, 0x18, 1]); // trainer_spec { model_type: UNIGRAM }
    let error = SentencePieces::from_model(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "trainer_spec.model_type at byte {} is 1 (UNIGRAM), expected 2 (BPE)",
            bytes.len() - 2
        )
    );
}

#[test]
fn a_text_without_pieces_is_an_error_that_names_the_character() {
    let pieces = vec![
        ("\u{2581}".to_owned(), 0.0, PieceType::Normal),
        ("a".to_owned(), 0.0, PieceType::Normal),
    ];
    let tokenizer =
        Tokenizer::from_pieces(&SentencePieces { pieces, bos: None, space_before_text: true })
            .unwrap();
    assert_eq!(tokenizer.encode_without_bos("a a").unwrap(), [0, 1, 0, 1]);
    let error = tokenizer.encode_without_bos("a\u{e9}").unwrap_err();
    assert!(matches!(error, TokenizerError::NoPiece { character: '\u{e9}' }), "{error}");
}

#[test]
fn a_sequence_of_the_fixture_survives_any_vocabulary_order() {
    // Ids are places in the file: with the pieces in another order the texts are the same.
    let mut all = pieces_of("v1");
    all.pieces[3..].reverse();
    let turned = Tokenizer::from_pieces(&all).unwrap();
    for case in cases("v1").encode {
        let ids = turned.encode_without_bos(&case.text).unwrap();
        let pieces: Vec<_> = ids.iter().map(|id| turned.piece(*id).unwrap()).collect();
        assert_eq!(pieces, case.pieces, "{:?}", case.text);
    }
}
