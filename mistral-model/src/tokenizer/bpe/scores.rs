//! Merges from the scores of a SentencePiece vocabulary.
//!
//! SentencePiece joins any neighbours whose text is a piece, the best score first. So each piece is
//! cut in every way into two parts, and the rank of the merge is the place of the piece's score
//! among all scores. Equal scores have equal ranks: the leftmost comes first, as `run.rs` does it.

use std::collections::HashMap;

use super::{Bpe, Fallback, MergeRule, Prefix, Rules};
use crate::tokenizer::error::TokenizerError;
use crate::tokenizer::pieces::byte_of;
use crate::tokenizer::sentencepiece::{PieceType, SentencePieces};

impl Bpe {
    /// The encoder of a vocabulary that was checked.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Unsupported`]: merges form an unused piece, which SentencePiece would take
    /// apart again. No Mistral has such a piece.
    pub(in crate::tokenizer) fn of_scores(all: &SentencePieces) -> Result<Self, TokenizerError> {
        let mut pieces = HashMap::new();
        let mut unused = HashMap::new();
        let mut user_pieces = Vec::new();
        let mut bytes = Box::new([0; 256]);
        let mut fallback = Fallback::None;
        let mut has_bytes = false;
        for (index, (id, (piece, ..))) in (0u32..).zip(&all.pieces).enumerate() {
            match all.type_of(index) {
                Some(PieceType::Normal) => {
                    pieces.insert(piece.as_str(), id);
                }
                Some(PieceType::Unused) => {
                    unused.insert(piece.as_str(), id);
                }
                Some(PieceType::UserDefined) => user_pieces.push((piece.as_str().into(), id)),
                Some(PieceType::Unknown) => fallback = Fallback::Unknown { id, fused: true },
                Some(PieceType::Byte) => {
                    if let Some(byte) = byte_of(piece) {
                        bytes[usize::from(byte)] = id;
                        has_bytes = true;
                    }
                }
                Some(PieceType::Control) | None => {}
            }
        }
        if has_bytes {
            fallback = Fallback::Bytes(bytes);
        }
        // A character may be part of a merge without being a piece.
        let is_part = |text: &str| pieces.contains_key(text) || is_character(text);
        let formed = |piece: &&&str| cuts(piece).any(|(l, r)| is_part(l) && is_part(r));
        if let Some(piece) = unused.keys().find(formed) {
            return Err(TokenizerError::Unsupported {
                part: "vocabulary",
                found: format!("has the unused piece {piece:?}, which merges form"),
                expected: "unused pieces that nothing forms",
            });
        }
        pieces.extend(unused.into_iter().filter(|(piece, _)| is_character(piece)));

        let ranks = Ranks::of(all);
        let normal = |(index, _): &(usize, _)| all.type_of(*index) == Some(PieceType::Normal);
        let merges = all.pieces.iter().enumerate().filter(normal).flat_map(|(id, piece)| {
            let (text, rank, joined) = (piece.0.as_str(), ranks.of_score(piece.1), id as u32);
            cuts(text).map(move |(left, right)| MergeRule { left, right, rank, joined })
        });
        let prefix = if all.space_before_text { Prefix::Mark } else { Prefix::None };
        let rules = Rules { pieces, user_pieces, fallback, prefix, marks_spaces: true };
        Ok(Self::new(rules, merges))
    }
}

fn is_character(text: &str) -> bool {
    text.chars().nth(1).is_none()
}

/// All ways to cut a text into two parts.
fn cuts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).map(|(at, _)| text.split_at(at))
}

/// Scores in order.
struct Ranks {
    /// The best first, all of them different.
    scores: Vec<f32>,
}

impl Ranks {
    fn of(all: &SentencePieces) -> Self {
        let mut scores: Vec<f32> = all.pieces.iter().map(|(_, score, _)| *score).collect();
        scores.sort_unstable_by(|a, b| b.total_cmp(a));
        // The two zeros are equal.
        scores.dedup_by(|a, b| a == b);
        Self { scores }
    }

    fn of_score(&self, score: f32) -> u32 {
        self.scores.partition_point(|better| *better > score) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(pieces: &[(&str, f32, PieceType)], text: &str) -> Result<Vec<u32>, TokenizerError> {
        let pieces = pieces.iter().map(|(text, score, kind)| ((*text).to_owned(), *score, *kind));
        let all = SentencePieces { pieces: pieces.collect(), bos: None, space_before_text: false };
        let mut ids = Vec::new();
        Bpe::of_scores(&all)?.encode(text, &mut ids)?;
        Ok(ids)
    }

    use PieceType::{Control, Normal, Unknown, Unused, UserDefined};

    #[test]
    fn equal_scores_join_from_the_left_and_both_zeros_are_equal() {
        let all =
            [("a", -0.0, Normal), ("aa", 0.0, Normal), ("b", -1.0, Normal), ("ab", -0.0, Normal)];
        assert_eq!(ids(&all, "aab").unwrap(), [1, 2]);
        assert_eq!(ids(&all, "aaab").unwrap(), [1, 3]);
    }

    #[test]
    fn a_character_without_a_piece_can_still_be_part_of_one() {
        let all = [("ab", 0.0, Normal), ("b", 0.0, Normal), ("?", 0.0, Unknown)];
        assert_eq!(ids(&all, "abb").unwrap(), [0, 1]);
        // Two unknown characters in a row are one unknown piece, as SentencePiece has it.
        assert_eq!(ids(&all, "aab").unwrap(), [2, 0]);
        assert_eq!(ids(&all, "axab").unwrap(), [2, 0]);
        assert_eq!(ids(&all, "xaxb").unwrap(), [2, 1]);
        assert_eq!(ids(&all, "xbx").unwrap(), [2, 1, 2]);
    }

    #[test]
    fn text_never_becomes_a_control_piece() {
        let all =
            [("a", 0.0, Control), ("b", 0.0, Normal), ("ab", 1.0, Control), ("?", 0.0, Unknown)];
        assert_eq!(ids(&all, "ab").unwrap(), [3, 1]);
        let error = ids(&all[..3], "ba").unwrap_err();
        assert!(matches!(error, TokenizerError::NoPiece { character: 'a' }));
    }

    #[test]
    fn user_defined_pieces_are_found_first_and_nothing_merges_with_them() {
        let all = [
            ("a", 0.0, Normal),
            ("b", 0.0, Normal),
            ("ab", 0.0, Normal),
            ("ba", 0.0, UserDefined),
            ("baa", 0.0, UserDefined),
        ];
        assert_eq!(ids(&all, "abab").unwrap(), [0, 3, 1]);
        assert_eq!(ids(&all, "baabaab").unwrap(), [4, 4, 1]);
    }

    #[test]
    fn unused_pieces_are_taken_where_nothing_forms_them() {
        let alone = [("a", 0.0, Normal), ("[PAD]", 0.0, Unused), ("b", 0.0, Unused)];
        assert_eq!(ids(&alone, "aba").unwrap(), [0, 2, 0]);
        let formed = [("a", 0.0, Normal), ("ab", 0.0, Unused), ("b", 0.0, Normal)];
        let error = ids(&formed, "a").unwrap_err();
        assert!(error.to_string().contains("unused piece \"ab\""), "{error}");
    }
}
