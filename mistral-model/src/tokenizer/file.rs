//! Which file of a folder is the tokenizer.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::Tokenizer;
use super::error::TokenizerError;
use super::json;
use super::sentencepiece::{MAX_BYTES, ModelFileError, SentencePieces};
use crate::weights::{gguf, is_gguf, only_gguf};

/// SentencePiece's files by the names that they are published under, the newest first.
const MODEL_NAMES: [&str; 4] =
    ["tokenizer.model", "tokenizer.model.v3", "tokenizer.model.v2", "tokenizer.model.v1"];

const JSON_NAME: &str = "tokenizer.json";

/// A vocabulary without weights.
const GGUF_NAME: &str = "tokenizer.gguf";

/// Beside it, the other files of a model that was trained further may lack pieces.
const ADDED_NAME: &str = "added_tokens.json";

/// A kind of file that holds a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenizerFormat {
    /// SentencePiece's own, which Mistral's models were trained with: `tokenizer.model`,
    /// `tokenizer.model.v3`.
    SentencePiece,
    /// Hugging Face's `tokenizer.json`.
    Json,
    /// The vocabulary in a GGUF file.
    Gguf,
}

impl TokenizerFormat {
    /// Names of files that would do.
    fn names(self) -> &'static str {
        match self {
            Self::SentencePiece => "tokenizer.model (or tokenizer.model.v1 to .v3)",
            Self::Json => "tokenizer.json",
            Self::Gguf => "tokenizer.gguf or a single GGUF file",
        }
    }

    /// The format of a file, by its name, or else by how it begins.
    fn of_file(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if is_gguf(path) {
            Self::Gguf
        } else if name.ends_with(".json") {
            Self::Json
        } else if name.ends_with(".model") || name.contains(".model.") {
            Self::SentencePiece
        } else {
            let mut first = [0];
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
            if read.is_ok() && first == *b"{" { Self::Json } else { Self::SentencePiece }
        }
    }

    /// The file of this format in a folder.
    fn in_folder(self, folder: &Path) -> Option<PathBuf> {
        let existing = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
        match self {
            Self::SentencePiece => MODEL_NAMES.into_iter().find_map(existing),
            Self::Json => existing(JSON_NAME),
            Self::Gguf => existing(GGUF_NAME).or_else(|| only_gguf(folder).ok().flatten()),
        }
    }
}

/// `model`, `json` or `gguf`.
impl fmt::Display for TokenizerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SentencePiece => "model",
            Self::Json => "json",
            Self::Gguf => "gguf",
        })
    }
}

/// The file that a tokenizer is read from.
///
/// A folder may hold several. In this order, the first that is there counts:
///
/// 1. `tokenizer.model`, `tokenizer.model.v3`, `tokenizer.model.v2`, `tokenizer.model.v1`: what the model
///    was trained with. Converted files at times differ from it, for instance by the mark before a
///    leading space.
/// 2. `tokenizer.json`. It comes before 1 where `added_tokens.json` lies beside it: the model was trained
///    further with more pieces, which only the JSON file knows.
/// 3. `tokenizer.gguf`, or the only GGUF file.
///
/// A [`TokenizerFormat`] that is asked for is taken, whatever else is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFile {
    path: PathBuf,
    format: TokenizerFormat,
}

impl TokenizerFile {
    /// The file at `path`, or the one in the folder at `path`, of any format or of a given one.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::NoFile`]: a folder without one.
    pub fn find(
        path: impl AsRef<Path>,
        format: Option<TokenizerFormat>,
    ) -> Result<Self, TokenizerError> {
        use TokenizerFormat::{Gguf, Json, SentencePiece};
        let path = path.as_ref();
        if !path.is_dir() {
            let format = format.unwrap_or_else(|| TokenizerFormat::of_file(path));
            return Ok(Self { path: path.to_owned(), format });
        }
        let order = if path.join(ADDED_NAME).exists() {
            [Json, SentencePiece, Gguf]
        } else {
            [SentencePiece, Json, Gguf]
        };
        let asked_for = |candidate: &TokenizerFormat| format.is_none_or(|f| f == *candidate);
        let mut candidates = order.into_iter().filter(asked_for);
        let found =
            candidates.find_map(|format| Some(Self { path: format.in_folder(path)?, format }));
        found.ok_or_else(|| TokenizerError::NoFile {
            folder: path.to_owned(),
            expected: format
                .map_or("tokenizer.model, tokenizer.json or a GGUF file", |format| format.names()),
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn format(&self) -> TokenizerFormat {
        self.format
    }

    /// The tokenizer in the file.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::Read`]: the file cannot be read.
    /// - [`TokenizerError::Gguf`]: a GGUF file without a SentencePiece vocabulary.
    /// - [`TokenizerError::File`]: another file that cannot be used, with the error of
    ///   [`Tokenizer::from_json`], [`Tokenizer::from_model`] or [`Tokenizer::from_pieces`] as its source.
    pub fn open(&self) -> Result<Tokenizer, TokenizerError> {
        let tokenizer = match self.format {
            TokenizerFormat::SentencePiece => Tokenizer::from_model(&self.bytes()?),
            TokenizerFormat::Json => Tokenizer::from_json(&self.bytes()?),
            TokenizerFormat::Gguf => Tokenizer::from_pieces(&self.gguf_pieces()?),
        };
        tokenizer.map_err(|error| self.unusable(error))
    }

    /// Name and bytes of a file that gives the same ids, to lie in another folder.
    ///
    /// The vocabulary of a GGUF file becomes a `tokenizer.model`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Read`], [`TokenizerError::Gguf`], [`TokenizerError::File`] for one that is too
    /// long: as for [`open`](Self::open). Nothing else is looked at: what does not open does not open
    /// as a copy.
    pub fn copy(&self) -> Result<(&'static str, Vec<u8>), TokenizerError> {
        Ok(match self.format {
            TokenizerFormat::SentencePiece => (MODEL_NAMES[0], self.bytes()?),
            TokenizerFormat::Json => (JSON_NAME, self.bytes()?),
            TokenizerFormat::Gguf => (MODEL_NAMES[0], self.gguf_pieces()?.to_model()),
        })
    }

    fn unusable(&self, error: TokenizerError) -> TokenizerError {
        TokenizerError::File { path: self.path.clone(), source: Box::new(error) }
    }

    fn failed(&self, source: std::io::Error) -> TokenizerError {
        TokenizerError::Read { path: self.path.clone(), source }
    }

    /// All bytes, if there are not too many.
    fn bytes(&self) -> Result<Vec<u8>, TokenizerError> {
        let is_json = self.format == TokenizerFormat::Json;
        let limit = if is_json { json::MAX_BYTES } else { MAX_BYTES };
        let mut bytes = Vec::new();
        // One byte beyond the limit is enough to know that there are too many.
        File::open(&self.path)
            .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
            .map_err(|source| self.failed(source))?;
        let found = bytes.len() as u64;
        match found > limit {
            true if is_json => Err(self.unusable(TokenizerError::TooLong { found, limit })),
            true => Err(self.unusable(ModelFileError::TooLong { found, limit }.into())),
            false => Ok(bytes),
        }
    }

    /// The SentencePiece vocabulary in a GGUF file.
    fn gguf_pieces(&self) -> Result<SentencePieces, TokenizerError> {
        let file = File::open(&self.path).map_err(|source| self.failed(source))?;
        let len = file.metadata().map_err(|source| self.failed(source))?.len();
        gguf::Header::read(BufReader::new(file), len)
            .and_then(|header| gguf::pieces(&header))
            .map_err(|source| TokenizerError::Gguf { path: self.path.clone(), source })
    }
}
