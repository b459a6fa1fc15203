//! Ids and texts must be those of SentencePiece, which Mistral's models were trained with.
#![cfg(feature = "tokenizer")]
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot set up has failed

mod damaged_files;
mod golden;
mod json_files;
mod model_files;
mod properties;
mod which_file;

use std::fs;
use std::path::PathBuf;

use mistral_model::tokenizer::{SentencePieces, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize, Default)]
struct Golden {
    encode: Vec<Encode>,
    decode: Vec<Decode>,
    #[serde(default)]
    stream: Vec<Stream>,
}

#[derive(Deserialize)]
struct Encode {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    pieces: Vec<String>,
}

#[derive(Deserialize)]
struct Decode {
    ids: Vec<u32>,
    ignore_special: String,
    keep_special: String,
}

#[derive(Deserialize)]
struct Stream {
    ids: Vec<u32>,
    prefixes: Vec<String>,
    chunks: Vec<Option<String>>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer")
}

fn open(file: &str) -> Tokenizer {
    Tokenizer::open(folder().join(file)).unwrap()
}

/// The pieces of a golden `.model` file.
fn pieces_of(name: &str) -> SentencePieces {
    let bytes = fs::read(folder().join(name).join("tokenizer.model")).unwrap();
    SentencePieces::from_model(&bytes).unwrap()
}

fn cases(name: &str) -> Golden {
    let file = fs::read(folder().join(format!("{name}.json"))).unwrap();
    let mut cases: Golden = serde_json::from_slice(&file).unwrap();
    if name == "v3" {
        // The file holds what differs from v2 alone.
        let v2 = self::cases("v2");
        let differs = |text: &str, of: &Golden| of.encode.iter().any(|case| case.text == text);
        let same = v2.encode.into_iter().filter(|case| !differs(&case.text, &cases));
        let same: Vec<_> = same.collect();
        cases.encode.extend(same);
        cases.decode.extend(v2.decode);
        cases.stream.extend(v2.stream);
    }
    cases
}

/// Every golden file with its cases.
fn each(check: impl Fn(&str, &Tokenizer, Golden)) {
    for file in [
        "v1/tokenizer.model",
        "v2/tokenizer.model",
        "v3/tokenizer.model",
        "v1/tokenizer.json",
        "v2/tokenizer.json",
    ] {
        check(file, &open(file), cases(&file[..2]));
    }
}
