//! A stranger's tokenizer.json is looked over before anything is built from it.
//!
//! Only the parts that Mistral's tokenizers are made of are let through: byte-pair merges with
//! byte fallback, U+2581 for a space. Others (byte-level pieces, regular expressions, dropout)
//! would need other rules for decoding, or would make the same text give other ids.

use serde::Deserialize;
use serde_json::Value;

use super::error::TokenizerError;
use super::pieces::SPACE_MARK;

/// Bytes accepted: the largest tokenizer.json of a Mistral has 17 MB.
pub(super) const MAX_BYTES: u64 = 32 << 20;

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
    /// Whether encoding puts a space before the text, which decoding then drops.
    pub(super) space_before_text: bool,
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
        let prepended = check_normalizer(file.normalizer.as_ref())?;
        let metaspace = check_pre_tokenizer(file.pre_tokenizer.as_ref())?;
        Ok(Self {
            bos: file.post_processor.as_ref().and_then(bos_of),
            unknown: file.model.unk_token,
            byte_fallback: file.model.byte_fallback,
            space_before_text: prepended || metaspace,
        })
    }
}

/// Refuses more bytes than a tokenizer has.
pub(super) fn check_size(found: u64) -> Result<(), TokenizerError> {
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

/// Whether a mark is put before the text.
fn check_normalizer(normalizer: Option<&Value>) -> Result<bool, TokenizerError> {
    let mut prepends = false;
    for step in steps(normalizer, "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if is_mark(&step["prepend"]) => prepends = true,
            Some("Replace") if step["pattern"]["String"] == " " && is_mark(&step["content"]) => {}
            _ => {
                let expected = "Prepend of U+2581 and Replace of spaces by U+2581, or null";
                return Err(unsupported("normalizer", step, expected));
            }
        }
    }
    Ok(prepends)
}

/// Whether a mark is put before the text.
fn check_pre_tokenizer(pre_tokenizer: Option<&Value>) -> Result<bool, TokenizerError> {
    let mut prepends = false;
    for step in steps(pre_tokenizer, "pretokenizers") {
        if step["type"] != "Metaspace" || !is_mark(&step["replacement"]) {
            let expected = "Metaspace with U+2581, or null";
            return Err(unsupported("pre_tokenizer", step, expected));
        }
        // Older files say `add_prefix_space`; without either, the default is to prepend.
        prepends |= step["prepend_scheme"] != "never" && step["add_prefix_space"] != false;
    }
    Ok(prepends)
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
        assert!(Outline::of(&file(sequence)).unwrap().space_before_text);
        for (scheme, expected) in [("first", true), ("always", true), ("never", false)] {
            let metaspace = format!(
                r#", "pre_tokenizer": {{"type": "Metaspace", "replacement": "▁",
                     "prepend_scheme": "{scheme}", "split": false}}"#
            );
            let outline = Outline::of(&file(&metaspace)).unwrap();
            assert_eq!(outline.space_before_text, expected, "{scheme}");
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
