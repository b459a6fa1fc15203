//! A folder may hold several tokenizers: the choice is fixed, and can be forced.

use std::fs;
use std::path::Path;

use mistral_model::tokenizer::{
    ModelFileError, Tokenizer, TokenizerError, TokenizerFile, TokenizerFormat,
};

use super::{folder, pieces_of};
use TokenizerFormat::{Gguf, Json, SentencePiece};

fn name(file: &TokenizerFile) -> &str {
    file.path().file_name().unwrap().to_str().unwrap()
}

/// A folder with files of these names, which need not hold anything to be found.
fn with(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    names.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
    folder
}

#[test]
fn the_order_of_files_is_the_documented_one() {
    for (there, chosen) in [
        (&["tokenizer.json", "tokenizer.model"][..], "tokenizer.model"),
        (&["tokenizer.model.v1", "tokenizer.model.v3", "tokenizer.model.v2"], "tokenizer.model.v3"),
        (&["tokenizer.model.v3", "tokenizer.model"], "tokenizer.model"),
        (&["tokenizer.json", "model.gguf"], "tokenizer.json"),
        (&["model.gguf", "tokenizer.gguf"], "tokenizer.gguf"),
        (&["model.gguf"], "model.gguf"),
        (&["added_tokens.json", "tokenizer.json", "tokenizer.model"], "tokenizer.json"),
        (&["added_tokens.json", "tokenizer.model"], "tokenizer.model"),
    ] {
        let folder = with(there);
        let file = TokenizerFile::find(folder.path(), None).unwrap();
        assert_eq!(name(&file), chosen, "{there:?}");
    }
}

#[test]
fn a_format_that_is_asked_for_is_taken_or_missed() {
    let all = with(&["tokenizer.json", "tokenizer.model.v2", "model.gguf", "added_tokens.json"]);
    for (format, chosen) in
        [(SentencePiece, "tokenizer.model.v2"), (Json, "tokenizer.json"), (Gguf, "model.gguf")]
    {
        let file = TokenizerFile::find(all.path(), Some(format)).unwrap();
        assert_eq!((name(&file), file.format()), (chosen, format));
    }
    let none = with(&["tokenizer.model", "a.gguf", "b.gguf"]);
    for (format, expected) in [(Json, "tokenizer.json"), (Gguf, "tokenizer.gguf")] {
        let error = Tokenizer::open_as(none.path(), format).unwrap_err();
        assert!(matches!(error, TokenizerError::NoFile { .. }));
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_named_file_is_read_as_what_its_name_or_its_beginning_says() {
    let folder = folder();
    let format = |path: &Path| TokenizerFile::find(path, None).unwrap().format();
    assert_eq!(format(&folder.join("v1/tokenizer.model")), SentencePiece);
    assert_eq!(format(&folder.join("v1/tokenizer.json")), Json);
    assert_eq!(format(&folder.join("../gguf/f32.gguf")), Gguf);
    let other = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        fs::copy(folder.join(from), other.path().join(to)).unwrap();
        other.path().join(to)
    };
    let published = copy("v2/tokenizer.model", "mistral_instruct_tokenizer_240216.model.v2");
    assert_eq!(format(&published), SentencePiece);
    assert_eq!(Tokenizer::open(&published).unwrap().vocab_size(), 32_768);
    assert_eq!(format(&copy("v1/tokenizer.json", "vocabulary")), Json);
    assert_eq!(format(&copy("v1/tokenizer.model", "vocabulary")), SentencePiece);
    // Forced, the name does not matter.
    let json = copy("v1/tokenizer.json", "json.model");
    assert!(Tokenizer::open(&json).is_err());
    assert_eq!(Tokenizer::open_as(&json, Json).unwrap().vocab_size(), 32_000);
}

#[test]
fn a_copy_gives_the_same_ids() {
    let text = "the rest</s> of  it\u{e9}\n";
    for (from, called) in [
        ("v1/tokenizer.model", "tokenizer.model"),
        ("v1/tokenizer.json", "tokenizer.json"),
        ("../gguf/f32.gguf", "tokenizer.model"),
    ] {
        let file = TokenizerFile::find(folder().join(from), None).unwrap();
        let (name, bytes) = file.copy().unwrap();
        assert_eq!(name, called);
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join(name), bytes).unwrap();
        let ids = Tokenizer::open(other.path()).unwrap().encode(text).unwrap();
        assert_eq!(ids, file.open().unwrap().encode(text).unwrap(), "{from}");
    }
}

#[test]
fn a_folder_without_a_tokenizer_and_a_missing_file_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err();
    assert!(matches!(error, TokenizerError::NoFile { .. }));
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer.gguf", "tokenizer"] {
        let error = Tokenizer::open(folder.path().join(name)).unwrap_err();
        assert!(matches!(error, TokenizerError::Read { .. }), "{name}: {error}");
    }
}

#[test]
fn files_longer_than_any_tokenizer_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let sparse = |name: &str, len: u64| {
        let path = folder.path().join(name);
        fs::File::create(&path).unwrap().set_len(len).unwrap();
        match Tokenizer::open(&path).unwrap_err() {
            TokenizerError::File { path: named, source } if named == path => *source,
            error => panic!("expected the name of the file: {error}"),
        }
    };
    let error = sparse("tokenizer.json", (32 << 20) + 1);
    assert!(matches!(error, TokenizerError::TooLong { .. }));
    let TokenizerError::ModelFile { source } = sparse("tokenizer.model", (8 << 20) + 1) else {
        panic!("expected an error of the model file")
    };
    assert!(matches!(source, ModelFileError::TooLong { .. }), "{source}");
    assert!(matches!(
        sparse("tokenizer.model", 8 << 20),
        TokenizerError::ModelFile { source: ModelFileError::FieldNumber { .. } }
    ));
    assert!(pieces_of("v3").to_model().len() < 1 << 20);
}
