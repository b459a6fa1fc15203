//! A SentencePiece vocabulary in the form of a `tokenizer.json`, for programs that read nothing else.
//!
//! SentencePiece joins the neighbours that form the piece with the best score; a `tokenizer.json`
//! joins by a list of merges, best first. So each piece is cut in every way into two others, and
//! the cuts are sorted by the score of what they form. Among equal scores, as those of the runs of
//! spaces, a longer left part comes first.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::{PieceType, SentencePieces};
use crate::tokenizer::error::TokenizerError;
use crate::tokenizer::pieces::SPACE_MARK;

impl SentencePieces {
    /// The `tokenizer.json` that gives the same ids to text without user-defined pieces.
    ///
    /// The form has no exact counterpart of those: programs that read it put a space before the text
    /// that follows one. Mistral's v1 and v2 vocabularies have none.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::Piece`]: a piece that cannot be.
    /// - [`TokenizerError::NoSuchPiece`]: the piece that starts a sequence is beyond the vocabulary.
    pub fn to_tokenizer_json(&self) -> Result<String, TokenizerError> {
        self.check()?;
        let ids: HashMap<&str, usize> =
            self.pieces.iter().enumerate().map(|(id, (piece, ..))| (piece.as_str(), id)).collect();
        let mark = SPACE_MARK.to_string();
        let of_type = |kind| self.pieces.iter().position(|piece| piece.2 == kind);
        let unknown = of_type(PieceType::Unknown).map(|id| &self.pieces[id].0);
        let mut normalizers =
            vec![json!({ "type": "Replace", "pattern": { "String": " " }, "content": mark })];
        if self.space_before_text {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": mark }));
        }
        let vocabulary: serde_json::Map<String, Value> =
            ids.iter().map(|(piece, id)| ((*piece).to_owned(), json!(id))).collect();
        let file = json!({
            "version": "1.0",
            "added_tokens": self.added_tokens(),
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "post_processor": self.template()?,
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": mark }, "content": " " },
                { "type": "ByteFallback" },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
            ] },
            "model": {
                "type": "BPE",
                "unk_token": unknown,
                "fuse_unk": true,
                "byte_fallback": of_type(PieceType::Byte).is_some(),
                "vocab": vocabulary,
                "merges": self.merges(&ids),
            },
        });
        Ok(file.to_string())
    }

    /// Pieces that no merge forms.
    fn added_tokens(&self) -> Vec<Value> {
        let added = self.pieces.iter().enumerate().filter_map(|(id, (piece, _, kind))| {
            let special = match kind {
                PieceType::Control | PieceType::Unknown => true,
                PieceType::UserDefined => false,
                PieceType::Normal | PieceType::Unused | PieceType::Byte => return None,
            };
            Some(json!({
                "id": id, "content": piece, "special": special, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }))
        });
        added.collect()
    }

    /// What comes before a text.
    fn template(&self) -> Result<Value, TokenizerError> {
        let Some(bos) = self.bos else { return Ok(Value::Null) };
        let no_such = || TokenizerError::NoSuchPiece { part: "bos", piece: bos.to_string() };
        let (piece, ..) = self.pieces.get(bos as usize).ok_or_else(no_such)?;
        let special = json!({ "SpecialToken": { "id": piece, "type_id": 0 } });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        Ok(json!({
            "type": "TemplateProcessing",
            "single": [special, text("A")],
            "pair": [special, text("A"), text("B")],
            "special_tokens": { piece: { "id": piece, "ids": [bos], "tokens": [piece] } },
        }))
    }

    /// All pairs of pieces that form a piece, the best first.
    fn merges(&self, ids: &HashMap<&str, usize>) -> Vec<[&str; 2]> {
        let normal = |piece: &str| {
            ids.get(piece).copied().filter(|id| self.pieces[*id].2 == PieceType::Normal)
        };
        let mut merges = Vec::new();
        for (piece, score, kind) in &self.pieces {
            if *kind != PieceType::Normal {
                continue;
            }
            let cuts = piece.char_indices().skip(1).filter_map(|(at, _)| {
                let (left, right) = piece.split_at(at);
                Some((normal(left)?, normal(right)?, left, right))
            });
            let mut cuts: Vec<_> = cuts.collect();
            cuts.sort_by_key(|(left, right, ..)| (*left, *right));
            merges.extend(cuts.into_iter().map(|(_, _, left, right)| (*score, left, right)));
        }
        let chars = |text: &str| text.chars().count();
        merges.sort_by(|(score, left, right), (other, other_left, other_right)| {
            let by_score = other.partial_cmp(score).unwrap_or(Ordering::Equal);
            by_score
                .then_with(|| chars(other_left).cmp(&chars(left)))
                .then_with(|| chars(other_right).cmp(&chars(right)))
        });
        merges.into_iter().map(|(_, left, right)| [left, right]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(all: &[(&str, f32)]) -> SentencePieces {
        let pieces =
            all.iter().map(|(text, score)| ((*text).to_owned(), *score, PieceType::Normal));
        SentencePieces { pieces: pieces.collect(), bos: None, space_before_text: true }
    }

    #[test]
    fn merges_follow_scores_and_then_the_longer_left_part() {
        let vocabulary = pieces(&[
            ("a", 0.0),
            ("b", 0.0),
            ("ab", -2.0),
            ("abb", -1.0),
            ("bb", -3.0),
            ("aab", -1.0),
        ]);
        let ids = vocabulary.pieces.iter().enumerate().map(|(id, p)| (p.0.as_str(), id)).collect();
        assert_eq!(
            vocabulary.merges(&ids),
            [["ab", "b"], ["a", "bb"], ["a", "ab"], ["a", "b"], ["b", "b"]]
        );
    }
}
