//! A stranger's tokenizer.json is looked over before anything is built from it.
//!
//! Only the parts that Mistral's tokenizers are made of are let through: byte-pair merges with
//! byte fallback, U+2581 for a space. Others (byte-level pieces, regular expressions, dropout)
//! would need other rules for decoding, or would make the same text give other ids.

use serde::Deserialize;
use serde_json::Value;

use crate::tokenizer::bpe::Prefix;
use crate::tokenizer::error::TokenizerError;
use crate::tokenizer::pieces::SPACE_MARK;

/// Bytes accepted: the largest tokenizer.json of a Mistral has 17 MB.
pub(in crate::tokenizer) const MAX_BYTES: u64 = 32 << 20;

/// Levels of brackets accepted: real files have six.
const MAX_DEPTH: usize = 32;

/// What must be known besides the vocabulary.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outline {
    /// The piece that starts a sequence, if the file names one.
    pub(super) bos: Option<String>,
    /// The piece for text without a piece.
    pub(super) unknown: Option<String>,
    /// Whether pieces `<0x00>` to `<0xFF>` stand for bytes.
    pub(super) byte_fallback: bool,
    /// Whether several unknown characters in a row are one unknown piece.
    pub(super) fuse_unknown: bool,
    /// Whether encoding puts a space before the text, which decoding then drops.
    pub(super) space_before_text: bool,
    /// What is done to a text before it is merged, if that is no more than SentencePiece does.
    pub(super) marking: Option<Marking>,
}

/// What is done to a text before it is merged as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marking {
    pub(super) prefix: Prefix,
    /// Whether spaces become marks.
    pub(super) spaces: bool,
}

#[derive(Deserialize)]
struct File {
    model: Model,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    fuse_unk: Option<bool>,
    ignore_merges: Option<bool>,
}

impl Outline {
    /// Checks size, depth and parts.
    pub(super) fn of(json: &[u8]) -> Result<Self, TokenizerError> {
        check_size(json.len() as u64)?;
        check_depth(json)?;
        let file: File =
            serde_json::from_slice(json).map_err(|source| TokenizerError::Json { source })?;
        file.model.check()?;
        check_decoder(file.decoder.as_ref())?;
        let normalizer = check_normalizer(file.normalizer.as_ref())?;
        let metaspace = check_pre_tokenizer(file.pre_tokenizer.as_ref())?;
        let whole_words_first = file.model.ignore_merges == Some(true);
        Ok(Self {
            bos: file.post_processor.as_ref().and_then(bos_of),
            unknown: file.model.unk_token,
            byte_fallback: file.model.byte_fallback,
            fuse_unknown: file.model.fuse_unk == Some(true),
            space_before_text: normalizer.prepends > 0 || metaspace.prepends,
            marking: normalizer.with(&metaspace).filter(|_| !whole_words_first),
        })
    }
}

/// Refuses more bytes than a tokenizer has.
fn check_size(found: u64) -> Result<(), TokenizerError> {
    if found > MAX_BYTES {
        return Err(TokenizerError::TooLong { found, limit: MAX_BYTES });
    }
    Ok(())
}

/// Counts brackets outside strings, so that no parser has to recurse into them.
fn check_depth(json: &[u8]) -> Result<(), TokenizerError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (offset, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(TokenizerError::TooDeep { limit: MAX_DEPTH, offset });
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

impl Model {
    fn check(&self) -> Result<(), TokenizerError> {
        let refuse = |part, found: &dyn ToString, expected| {
            Err(TokenizerError::Unsupported { part, found: found.to_string(), expected })
        };
        if self.kind != "BPE" {
            return refuse("model", &self.kind, "BPE");
        }
        if let Some(dropout) = self.dropout.filter(|d| *d != 0.0) {
            let expected = "null: the same text must give the same ids";
            return refuse("model.dropout", &dropout, expected);
        }
        for (part, affix) in [
            ("model.continuing_subword_prefix", &self.continuing_subword_prefix),
            ("model.end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
                return refuse(part, affix, "null");
            }
        }
        Ok(())
    }
}

/// The steps of a part: none, one, or those of a `Sequence`.
fn steps<'a>(part: Option<&'a Value>, list: &str) -> Vec<&'a Value> {
    match part {
        None => Vec::new(),
        Some(step) if step["type"] == "Sequence" => {
            step[list].as_array().into_iter().flatten().collect()
        }
        Some(step) => vec![step],
    }
}

fn unsupported(part: &'static str, step: &Value, expected: &'static str) -> TokenizerError {
    /// Enough to recognise a step by.
    const SHOWN: usize = 120;
    TokenizerError::Unsupported {
        part,
        found: step.to_string().chars().take(SHOWN).collect(),
        expected,
    }
}

fn is_mark(value: &Value) -> bool {
    let mut buffer = [0; 4];
    value.as_str() == Some(SPACE_MARK.encode_utf8(&mut buffer))
}

/// What the steps of a normalizer do.
#[derive(Debug, Default)]
struct Normalizer {
    /// Marks put before the text.
    prepends: usize,
    /// Whether spaces become marks.
    replaces: bool,
}

impl Normalizer {
    /// What is done to a text that is merged as a whole.
    fn with(&self, metaspace: &Metaspace) -> Option<Marking> {
        let prefix = match self.prepends {
            0 if metaspace.prepends => Prefix::MarkUnlessThere,
            0 => Prefix::None,
            1 => Prefix::Mark,
            _ => return None,
        };
        let spaces = self.replaces || metaspace.steps > 0;
        (metaspace.steps < 2 && !metaspace.splits).then_some(Marking { prefix, spaces })
    }
}

fn check_normalizer(normalizer: Option<&Value>) -> Result<Normalizer, TokenizerError> {
    let mut found = Normalizer::default();
    for step in steps(normalizer, "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if is_mark(&step["prepend"]) => found.prepends += 1,
            Some("Replace") if step["pattern"]["String"] == " " && is_mark(&step["content"]) => {
                found.replaces = true;
            }
            _ => {
                let expected = "Prepend of U+2581 and Replace of spaces by U+2581, or null";
                return Err(unsupported("normalizer", step, expected));
            }
        }
    }
    Ok(found)
}

/// What the steps of a pre-tokenizer do.
#[derive(Debug, Default)]
struct Metaspace {
    steps: usize,
    /// A mark is put before a text that does not begin with one.
    prepends: bool,
    /// Words are merged one by one.
    splits: bool,
}

fn check_pre_tokenizer(pre_tokenizer: Option<&Value>) -> Result<Metaspace, TokenizerError> {
    let mut found = Metaspace::default();
    for step in steps(pre_tokenizer, "pretokenizers") {
        if step["type"] != "Metaspace" || !is_mark(&step["replacement"]) {
            let expected = "Metaspace with U+2581, or null";
            return Err(unsupported("pre_tokenizer", step, expected));
        }
        found.steps += 1;
        // Older files say `add_prefix_space`; without either, the default is to prepend.
        found.prepends |= step["prepend_scheme"] != "never" && step["add_prefix_space"] != false;
        found.splits |= step["split"] != false;
    }
    Ok(found)
}

fn check_decoder(decoder: Option<&Value>) -> Result<(), TokenizerError> {
    for step in steps(decoder, "decoders") {
        let known = match step["type"].as_str() {
            Some("ByteFallback" | "Fuse") => true,
            Some("Replace") => is_mark(&step["pattern"]["String"]) && step["content"] == " ",
            Some("Strip") => step["content"] == " ",
            Some("Metaspace") => is_mark(&step["replacement"]),
            _ => false,
        };
        if !known {
            let expected = "Replace of U+2581 by a space, ByteFallback, Fuse, Strip or Metaspace";
            return Err(unsupported("decoder", step, expected));
        }
    }
    Ok(())
}

/// The special token that a template puts first.
fn bos_of(post_processor: &Value) -> Option<String> {
    steps(Some(post_processor), "processors")
        .into_iter()
        .find(|step| step["type"] == "TemplateProcessing")
        .and_then(|step| step["single"][0]["SpecialToken"]["id"].as_str())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(extra: &str) -> Vec<u8> {
        format!(r#"{{"model": {{"type": "BPE", "byte_fallback": true}}{extra}}}"#).into_bytes()
    }

    #[test]
    fn a_plain_bpe_passes() {
        let outline = Outline::of(&file("")).unwrap();
        assert!(outline.byte_fallback);
        assert!(!outline.space_before_text);
        assert_eq!((outline.bos, outline.unknown), (None, None));
    }

    #[test]
    fn both_ways_to_put_a_space_before_the_text_are_seen() {
        let sequence = r#", "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}"#;
        let outline = Outline::of(&file(sequence)).unwrap();
        assert!(outline.space_before_text);
        assert_eq!(outline.marking, Some(Marking { prefix: Prefix::Mark, spaces: true }));
        for (scheme, expected) in [("first", true), ("always", true), ("never", false)] {
            let metaspace = format!(
                r#", "pre_tokenizer": {{"type": "Metaspace", "replacement": "▁",
                     "prepend_scheme": "{scheme}", "split": false}}"#
            );
            let outline = Outline::of(&file(&metaspace)).unwrap();
            assert_eq!(outline.space_before_text, expected, "{scheme}");
            let prefix = if expected { Prefix::MarkUnlessThere } else { Prefix::None };
            assert_eq!(outline.marking, Some(Marking { prefix, spaces: true }), "{scheme}");
            let split = metaspace.replace("\"split\": false", "\"split\": true");
            assert_eq!(Outline::of(&file(&split)).unwrap().marking, None, "{scheme}");
        }
    }

    #[test]
    fn parts_of_other_tokenizers_are_refused_by_name() {
        let named = |json: &[u8]| match Outline::of(json) {
            Err(TokenizerError::Unsupported { part, .. }) => part,
            other => panic!("{other:?}"),
        };
        for part in ["normalizer", "pre_tokenizer", "decoder"] {
            let extra = format!(r#", "{part}": {{"type": "ByteLevel"}}"#);
            assert_eq!(named(&file(&extra)), part);
        }
        assert_eq!(named(br#"{"model": {"type": "Unigram"}}"#), "model");
        let dropout = br#"{"model": {"type": "BPE", "dropout": 0.1}}"#;
        assert_eq!(named(dropout), "model.dropout");
        let suffix = br#"{"model": {"type": "BPE", "end_of_word_suffix": "</w>"}}"#;
        assert_eq!(named(suffix), "model.end_of_word_suffix");
    }

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        let quoted = format!(r#", "x": "\"{}""#, "[".repeat(100));
        assert!(Outline::of(&file(&quoted)).is_ok());
        let nested = file(&format!(", \"x\": {}", "[".repeat(100)));
        let offset = nested.iter().position(|b| *b == b'[').unwrap() + MAX_DEPTH - 1;
        match Outline::of(&nested) {
            Err(TokenizerError::TooDeep { offset: found, .. }) => assert_eq!(found, offset),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_template_names_the_start_of_a_sequence() {
        let template = r#", "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]}"#;
        let outline = Outline::of(&file(template)).unwrap();
        assert_eq!(outline.bos.as_deref(), Some("<s>"));
    }
}
