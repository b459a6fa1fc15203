//! What holds for any text, against plain definitions and against another encoder.

use std::collections::HashMap;

use mistral_model::generate::TextStream;
use mistral_model::tokenizer::{PieceType, SentencePieces, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{open, pieces_of};

/// Texts that are hard on merging: any characters, runs of one, pieces of words, spaces and marks.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[ \n\ta-c▁]{0,12}",
        "[a-z]{1,12}( [a-zA-Z]{1,9}){0,6}[.,!]?",
        ("[a-zA-Z0-9 =#*-]", 1..40usize).prop_map(|(text, n)| text.repeat(n)),
        "\\PC{0,20}",
        Just("[INST] </s><s><unk><0x41> [/INST]".to_owned()),
        Just("[REFERENCE_DOC_1][REFERENCE_DOC_12]".to_owned()),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
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
fn any_text_comes_back_from_its_ids() {
    for file in ["v1/tokenizer.model", "v2/tokenizer.json", "v3/tokenizer.model"] {
        let tokenizer = open(file);
        check(512, texts(), |text| {
            let ids = tokenizer.encode(&text).unwrap();
            // A mark in the text is a space: SentencePiece does not tell them apart.
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.replace('\u{2581}', " "));
            Ok(())
        });
    }
}

/// The definition of SentencePiece's merges, in a time that grows with the square of the length.
struct Plain {
    all: SentencePieces,
    ids: HashMap<String, usize>,
}

impl Plain {
    fn new(all: SentencePieces) -> Self {
        let ids = all.pieces.iter().enumerate().map(|(id, (piece, ..))| (piece.clone(), id));
        Self { ids: ids.collect(), all }
    }

    fn id(&self, piece: &str, wanted: PieceType) -> Option<usize> {
        self.ids.get(piece).copied().filter(|id| self.all.pieces[*id].2 == wanted)
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        if text.is_empty() {
            return Vec::new();
        }
        let text = format!("\u{2581}{}", text.replace(' ', "\u{2581}"));
        // Characters, and user-defined pieces, which nothing joins with.
        let mut symbols: Vec<(String, bool)> = Vec::new();
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
            let fixed = ends.filter(|end| self.id(&rest[..*end], PieceType::UserDefined).is_some());
            let fixed = fixed.max();
            let (symbol, after) = rest.split_at(fixed.unwrap_or(first.len_utf8()));
            symbols.push((symbol.to_owned(), fixed.is_some()));
            rest = after;
        }
        loop {
            let mut best: Option<(f32, usize)> = None;
            for at in 1..symbols.len() {
                let ((left, fixed), (right, also_fixed)) = (&symbols[at - 1], &symbols[at]);
                if *fixed || *also_fixed {
                    continue;
                }
                if let Some(id) = self.id(&format!("{left}{right}"), PieceType::Normal) {
                    let score = self.all.pieces[id].1;
                    if best.is_none_or(|(other, _)| score > other) {
                        best = Some((score, at));
                    }
                }
            }
            let Some((_, at)) = best else { break };
            let (right, _) = symbols.remove(at);
            symbols[at - 1].0.push_str(&right);
        }
        let mut ids = Vec::new();
        for (symbol, fixed) in symbols {
            let kind = if fixed { PieceType::UserDefined } else { PieceType::Normal };
            match self.id(&symbol, kind) {
                Some(id) => ids.push(id as u32),
                None => ids.extend(symbol.bytes().map(|byte| {
                    self.id(&format!("<0x{byte:02X}>"), PieceType::Byte).unwrap() as u32
                })),
            }
        }
        ids
    }
}

#[test]
fn ids_are_those_of_the_definition() {
    for name in ["v1", "v3"] {
        let plain = Plain::new(pieces_of(name));
        let tokenizer = Tokenizer::from_pieces(&plain.all).unwrap();
        check(256, texts(), |text| {
            let ids = tokenizer.encode_without_bos(&text).unwrap();
            prop_assert_eq!(ids, plain.encode(&text));
            Ok(())
        });
    }
}

/// All bytes, and pieces of a few letters with few different scores: ties and overlaps abound.
fn small_vocabularies() -> impl Strategy<Value = SentencePieces> {
    let kind = prop_oneof![
        8 => Just(PieceType::Normal), 1 => Just(PieceType::UserDefined), 1 => Just(PieceType::Control),
    ];
    let pieces = prop::collection::btree_map("[ab▁é]{1,5}", (-3i8..0, kind), 0..60);
    pieces.prop_map(|pieces| {
        let mut all = vec![("<unk>".to_owned(), 0.0, PieceType::Unknown)];
        all.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, PieceType::Byte)));
        all.extend(pieces.into_iter().map(|(piece, (score, kind))| (piece, score.into(), kind)));
        SentencePieces { pieces: all, bos: None, space_before_text: true }
    })
}

#[test]
fn ids_are_those_of_the_definition_for_any_vocabulary() {
    check(2000, (small_vocabularies(), "[ab é▁c]{0,40}"), |(all, text)| {
        let tokenizer = Tokenizer::from_pieces(&all).unwrap();
        let ids = tokenizer.encode_without_bos(&text).unwrap();
        prop_assert_eq!(SentencePieces::from_model(&all.to_model()).unwrap(), all.clone());
        prop_assert_eq!(ids, Plain::new(all).encode(&text));
        Ok(())
    });
}

#[test]
fn streams_of_any_tokens_join_to_their_text() {
    let tokenizer = open("v1");
    // Bytes have ids 3 to 258; lead bytes of long characters are the last of them.
    let token = prop_oneof![0..32_000u32, 0..259u32, 190..259u32, Just(28_705)];
    check(256, prop::collection::vec(token, 0..40), |ids| {
        let mut stream = TextStream::new(&tokenizer);
        let mut shown = String::new();
        for id in &ids {
            shown.push_str(stream.push(*id).unwrap().unwrap_or_default());
        }
        shown.push_str(stream.finish().unwrap_or_default());
        prop_assert_eq!(shown, tokenizer.decode(&ids).unwrap());
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), plain_text(&tokenizer, &ids));
        Ok(())
    });
}

/// The definition: all rows of byte pieces joined, then read as UTF-8 with one U+FFFD a bad byte.
fn plain_text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
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
fn text_of_any_length_has_the_ids_of_its_parts_where_no_merge_joins_them() {
    // No piece has a space inside, so that a word's ids do not depend on the words around it.
    let tokenizer = open("v2/tokenizer.model");
    let words = prop::collection::vec("[a-z]{1,8}", 1..20);
    check(64, words, |words| {
        let whole = tokenizer.encode_without_bos(&words.join(" ")).unwrap();
        let parts = words.iter().map(|word| tokenizer.encode_without_bos(word).unwrap());
        prop_assert_eq!(whole, parts.flatten().collect::<Vec<_>>());
        Ok(())
    });
}
