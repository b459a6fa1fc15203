//! A `tokenizer.json`: what is in it, and who encodes with it.
//!
//! The files of Mistral 7B say in another form what SentencePiece's say: merges by rank instead of by
//! score, marks instead of spaces. `bpe/` encodes with those. Others, such as files whose added pieces
//! are found in text or that merge word by word, are left to the [`tokenizers`] crate, whose form this
//! is. Where both can encode, both give the same ids; tests hold one against the other.

mod outline;

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::bpe::{Bpe, Fallback, MergeRule, Rules};
use super::error::TokenizerError;
use super::pieces::{Kind, Pieces, byte_of};
use super::{Encoder, Tokenizer};
pub(super) use outline::MAX_BYTES;
use outline::{Marking, Outline};

/// The start of a sequence where a file does not name it.
const USUAL_BOS: &str = "<s>";

/// What is needed to encode; everything else is in the [`Outline`].
#[derive(Deserialize)]
struct File {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Merges,
}

/// Best first.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merges {
    Pairs(Vec<(String, String)>),
    Lines(Vec<String>),
}

/// A tokenizer from the bytes of a file.
pub(super) fn tokenizer(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let outline = Outline::of(json)?;
    let ours = outline.marking.and_then(|marking| {
        // What cannot be read in this way is for the crate to read, or to refuse.
        let file: File = serde_json::from_slice(json).ok()?;
        let encoder = encoder(&file, &outline, marking)?;
        Some((Encoder::Merges(encoder), file))
    });
    let (encoder, mut pieces) = match ours {
        Some((encoder, file)) => {
            let added = file.added_tokens.into_iter().map(|t| (t.content, t.id, t.special));
            (encoder, pieces(file.model.vocab, added, outline.byte_fallback)?)
        }
        None => {
            let library = library(json)?;
            let vocabulary = library.get_vocab(true);
            let added = library.get_added_tokens_decoder();
            let added = added.into_iter().map(|(id, t)| (t.content, id, t.special));
            let pieces = pieces(vocabulary, added, outline.byte_fallback)?;
            (Encoder::Library(Box::new(library)), pieces)
        }
    };
    let known = |part, piece: &str| {
        let no_such = || TokenizerError::NoSuchPiece { part, piece: piece.to_owned() };
        pieces.id(piece).ok_or_else(no_such)
    };
    let bos = match &outline.bos {
        Some(piece) => Some(known("post_processor", piece)?),
        None => pieces.id(USUAL_BOS),
    };
    let unknown = outline.unknown.as_deref();
    let unknown = unknown.map(|piece| known("model.unk_token", piece)).transpose()?;
    for (id, kind) in [(bos, Kind::Control), (unknown, Kind::Unknown)] {
        if let Some(id) = id {
            pieces.set_kind(id, kind);
        }
    }
    Ok(Tokenizer { encoder, pieces, bos, space_before_text: outline.space_before_text })
}

/// The crate's encoder, without what a file may ask for and would bend ids.
fn library(json: &[u8]) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let inconsistent = |source| TokenizerError::Inconsistent { source };
    let mut library = tokenizers::Tokenizer::from_bytes(json).map_err(inconsistent)?;
    // Cutting, filling up, a template of its own.
    library.with_truncation(None).map_err(inconsistent)?;
    library.with_padding(None);
    library.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    library.set_encode_special_tokens(true);
    Ok(library)
}

/// All pieces of a vocabulary with what they are.
fn pieces(
    vocabulary: impl IntoIterator<Item = (String, u32)>,
    added: impl IntoIterator<Item = (String, u32, bool)>,
    byte_fallback: bool,
) -> Result<Pieces, TokenizerError> {
    let mut pieces = Pieces::default();
    for (written, id) in vocabulary {
        let kind = match byte_of(&written).filter(|_| byte_fallback) {
            Some(byte) => Kind::Byte(byte),
            None => Kind::Text,
        };
        pieces.insert(id, &written, kind)?;
    }
    for (written, id, special) in added {
        pieces.insert(id, &written, if special { Kind::Control } else { Kind::Text })?;
    }
    Ok(pieces)
}

/// Our encoder, if it gives the ids that the crate would.
///
/// It does where text becomes ordinary pieces alone: no merge leads to, or through, a byte, a control
/// or the unknown piece, and nothing added is found in text.
fn encoder(file: &File, outline: &Outline, marking: Marking) -> Option<Bpe> {
    if file.version.as_deref().is_some_and(|version| version != "1.0") {
        return None;
    }
    let vocabulary = &file.model.vocab;
    let added = added_pieces(file)?;
    let fallback = if outline.byte_fallback {
        let mut bytes = Box::new([0; 256]);
        for (byte, id) in bytes.iter_mut().enumerate() {
            *id = *vocabulary.get(&format!("<0x{byte:02X}>"))?;
        }
        Fallback::Bytes(bytes)
    } else {
        let id = *vocabulary.get(outline.unknown.as_ref()?)?;
        Fallback::Unknown { id, fused: outline.fuse_unknown }
    };
    let reserved = |piece: &str| {
        added.contains(piece)
            || outline.unknown.as_deref() == Some(piece)
            || outline.byte_fallback && byte_of(piece).is_some()
    };
    // As a character it would come from text.
    if added.iter().copied().chain(outline.unknown.as_deref()).any(|p| p.chars().nth(1).is_none()) {
        return None;
    }
    let ordinary = vocabulary.iter().filter(|(piece, _)| !reserved(piece));
    let pieces: HashMap<&str, u32> = ordinary.map(|(piece, id)| (piece.as_str(), *id)).collect();
    let merges = merge_rules(&file.model.merges, &pieces)?;
    let rules = Rules {
        pieces,
        user_pieces: Vec::new(),
        fallback,
        prefix: marking.prefix,
        marks_spaces: marking.spaces,
    };
    Some(Bpe::new(rules, merges))
}

/// What is added to the vocabulary, if all of it only steers the model, and has the ids that the crate
/// gives: those of the vocabulary, or else the next.
fn added_pieces(file: &File) -> Option<HashSet<&str>> {
    let mut next = u32::try_from(file.model.vocab.len()).ok()?;
    let mut added = HashSet::new();
    for token in &file.added_tokens {
        let id = file.model.vocab.get(&token.content).copied();
        let new = id.is_none() && added.insert(token.content.as_str());
        if !token.special || token.id != id.unwrap_or(next) {
            return None;
        }
        added.insert(&token.content);
        next += u32::from(new);
    }
    Some(added)
}

/// The merges with their ranks, if all are of pieces that text may become.
fn merge_rules<'a>(
    merges: &'a Merges,
    pieces: &HashMap<&'a str, u32>,
) -> Option<Vec<MergeRule<'a>>> {
    let two_parts = |line: &'a String| {
        let parts = line.split_once(' ')?;
        (!parts.1.contains(' ')).then_some(parts)
    };
    let pairs: Vec<(&str, &str)> = match merges {
        Merges::Pairs(pairs) => pairs.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect(),
        Merges::Lines(lines) => lines.iter().map(two_parts).collect::<Option<_>>()?,
    };
    let mut rules = Vec::with_capacity(pairs.len());
    let mut joined = String::new();
    for ((left, right), rank) in pairs.into_iter().zip(0..) {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let parts_known = pieces.contains_key(left) && pieces.contains_key(right);
        let joined = *pieces.get(joined.as_str()).filter(|_| parts_known)?;
        rules.push(MergeRule { left, right, rank, joined });
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether our encoder serves a file with these parts of the model, and these added tokens.
    fn is_ours(model: &str, added: &str, rest: &str) -> bool {
        let json = format!(
            r#"{{"version": "1.0", {rest} "added_tokens": [{added}], "model": {{"type": "BPE",
            "unk_token": "<unk>", {model}}}}}"#
        );
        matches!(tokenizer(json.as_bytes()).unwrap().encoder, Encoder::Merges(_))
    }

    const MODEL: &str = r#""vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]"#;

    fn token(id: u32, content: &str, special: bool) -> String {
        format!(
            r#"{{"id": {id}, "content": "{content}", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": {special}}}"#
        )
    }

    #[test]
    fn files_of_mistrals_kind_are_ours() {
        assert!(is_ours(MODEL, "", ""));
        assert!(is_ours(MODEL, &token(0, "<unk>", true), ""));
        let chat = [token(4, "<|im_start|>", true), token(5, "<|im_end|>", true)].join(",");
        assert!(is_ours(MODEL, &chat, ""));
        let metaspace = r#""pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": "first", "split": false},"#;
        assert!(is_ours(MODEL, "", metaspace));
    }

    #[test]
    fn what_our_encoder_would_do_otherwise_is_left_to_the_crate() {
        assert!(!is_ours(MODEL, &token(4, "[X]", false), ""), "found in text");
        assert!(!is_ours(MODEL, &token(9, "[X]", true), ""), "another id");
        assert!(!is_ours(MODEL, &token(1, "a", true), ""), "a control of one character");
        assert!(!is_ours(MODEL, &token(3, "ab", true), ""), "merges form a control");
        let split = r#""pre_tokenizer": {"type": "Metaspace", "replacement": "▁"},"#;
        assert!(!is_ours(MODEL, "", split), "word by word");
        assert!(!is_ours(&format!("{MODEL}, \"ignore_merges\": true"), "", ""), "whole words");
        assert!(!is_ours(&format!("{MODEL}, \"byte_fallback\": true"), "", ""), "some bytes");
    }
}
