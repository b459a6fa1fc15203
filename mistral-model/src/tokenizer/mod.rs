//! Text to token ids and back, for the tokenizers of Mistral 7B.
//!
//! Encoding is byte-pair merging by the [`tokenizers`](https://docs.rs/tokenizers) crate, from a
//! `tokenizer.json`. Decoding is done here, by SentencePiece's rules (`decoder.rs`), and a piece
//! at a time, so that a whole text and a stream give the same characters;
//! [`TextStream`](crate::generate::TextStream) is the stream.
//!
//! Text is only ever text: `"</s>"` in a prompt becomes ordinary pieces, never the control piece
//! of that name.

mod decoder;
mod error;
mod outline;
mod pieces;
mod sentencepiece;

pub use error::TokenizerError;
pub use sentencepiece::{PieceType, SentencePieces};

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

pub(crate) use decoder::Decoder;
use outline::{MAX_BYTES, Outline};
use pieces::{Kind, Pieces, SPACE_MARK, byte_of};

use crate::weights::{gguf, is_gguf, only_gguf};

/// Name of the file in a checkpoint's folder.
const FILE_NAME: &str = "tokenizer.json";

/// The start of a sequence where a file does not name it.
const USUAL_BOS: &str = "<s>";

/// A vocabulary with the rules for using it. Immutable: any number of threads may share one.
///
/// ```no_run
/// use mistral_model::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::open("mistral-7b-v0.1")?;
/// let ids = tokenizer.encode("Hello world")?;
/// assert_eq!(ids, [1, 22557, 1526]);
/// assert_eq!(tokenizer.decode(&ids)?, "Hello world");
/// # Ok::<(), mistral_model::tokenizer::TokenizerError>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    encoder: tokenizers::Tokenizer,
    pieces: Pieces,
    bos: Option<u32>,
    space_before_text: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or the one in a folder, or the vocabulary in a GGUF file.
    ///
    /// # Errors
    ///
    /// All of [`read_json`](Self::read_json) and of [`from_json`](Self::from_json).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        Self::from_json(&Self::read_json(path)?)
    }

    /// The bytes of a `tokenizer.json`, of the one in a folder, or of one made from the vocabulary
    /// in a GGUF file. A folder without the former may hold one of the latter.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::NoFile`]: a folder without either.
    /// - [`TokenizerError::Read`]: the file cannot be read.
    /// - [`TokenizerError::TooLong`]: it is longer than any tokenizer.
    /// - [`TokenizerError::Gguf`]: a GGUF file without a SentencePiece vocabulary, and all errors of
    ///   [`SentencePieces::to_tokenizer_json`].
    pub fn read_json(path: impl AsRef<Path>) -> Result<Vec<u8>, TokenizerError> {
        let path = path.as_ref();
        let file = if path.is_dir() {
            let file = path.join(FILE_NAME);
            let there = file.exists().then_some(file).or_else(|| only_gguf(path).ok().flatten());
            there.ok_or_else(|| TokenizerError::NoFile { folder: path.to_owned() })?
        } else {
            path.to_owned()
        };
        if is_gguf(&file) {
            return Ok(gguf_pieces(&file)?.to_tokenizer_json()?.into_bytes());
        }
        let mut json = Vec::new();
        // One byte beyond the limit is enough to know that there are too many.
        File::open(&file)
            .and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut json))
            .map_err(|source| TokenizerError::Read { path: file, source })?;
        outline::check_size(json.len() as u64)?;
        Ok(json)
    }

    /// A tokenizer from a SentencePiece vocabulary.
    ///
    /// # Errors
    ///
    /// All of [`SentencePieces::to_tokenizer_json`] and of [`from_json`](Self::from_json).
    pub fn from_pieces(pieces: &SentencePieces) -> Result<Self, TokenizerError> {
        Self::from_json(pieces.to_tokenizer_json()?.as_bytes())
    }

    /// A tokenizer from the bytes of a `tokenizer.json`, with merges as `"a b"` or `["a", "b"]`.
    ///
    /// The file may come from a stranger: its size, its nesting and the ids in it are limited.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::TooLong`], [`TokenizerError::TooDeep`]: beyond the limits.
    /// - [`TokenizerError::Json`]: no JSON, or no tokenizer.
    /// - [`TokenizerError::Unsupported`]: a part that Mistral 7B's tokenizers do not have.
    /// - [`TokenizerError::Inconsistent`]: merges of pieces that the vocabulary lacks.
    /// - [`TokenizerError::IdTooLarge`], [`TokenizerError::DuplicateId`]: ids that cannot be.
    /// - [`TokenizerError::NoSuchPiece`]: the unknown piece, or the first of a sequence, is not
    ///   in the vocabulary.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let outline = Outline::of(json)?;
        let mut encoder = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|source| TokenizerError::Inconsistent { source })?;
        // What a file may ask for and would bend ids: cutting, filling up, a template of its own.
        encoder.with_truncation(None).map_err(|source| TokenizerError::Inconsistent { source })?;
        encoder.with_padding(None);
        encoder.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        encoder.set_encode_special_tokens(true);

        let mut pieces = pieces_of(&encoder, outline.byte_fallback)?;
        let bos = match outline.bos {
            Some(piece) => Some(known(&encoder, "post_processor", piece)?),
            None => encoder.token_to_id(USUAL_BOS),
        };
        if let Some(id) = bos {
            let written = encoder.id_to_token(id).unwrap_or_default();
            pieces.insert(id, &written, Kind::Control)?;
        }
        if let Some(piece) = outline.unknown {
            let id = known(&encoder, "model.unk_token", piece.clone())?;
            pieces.insert(id, &piece, Kind::Unknown)?;
        }
        Ok(Self { encoder, pieces, bos, space_before_text: outline.space_before_text })
    }

    /// The ids of a text that starts a sequence: `<s>`, then the text.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::NoBos`]: no piece starts a sequence.
    /// - All of [`encode_without_bos`](Self::encode_without_bos).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = vec![self.bos.ok_or(TokenizerError::NoBos)?];
        self.append(text, &mut ids)?;
        Ok(ids)
    }

    /// The ids of a text alone. The empty text has none.
    ///
    /// A space comes before each text that is encoded (SentencePiece's dummy prefix), so that
    /// encoding two parts is not the same as encoding them joined.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::Encode`]: a character without a piece, in a vocabulary that has neither
    ///   bytes nor an unknown piece.
    /// - [`TokenizerError::ControlFromText`]: merges of this vocabulary lead to a control piece.
    pub fn encode_without_bos(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        self.append(text, &mut ids)?;
        Ok(ids)
    }

    fn append(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let encoding = self
            .encoder
            .encode_fast(text, false)
            .map_err(|source| TokenizerError::Encode { source })?;
        for &id in encoding.get_ids() {
            if let Some(piece) = self.pieces.get(id).filter(|p| p.kind == Kind::Control) {
                let piece = piece.written.to_string();
                return Err(TokenizerError::ControlFromText { id, piece });
            }
            ids.push(id);
        }
        Ok(())
    }

    /// The text of a whole sequence: controls vanish, and so does the space before the text.
    ///
    /// Bytes that form no character become U+FFFD, one for each byte; the unknown piece becomes
    /// `" ⁇ "`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`]: an id that no piece has.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let mut decoder = self.decoder();
        let mut text = String::new();
        for &id in ids {
            self.decode_one(&mut decoder, id, &mut text)?;
        }
        decoder.finish(&mut text);
        Ok(text)
    }

    /// A decoder at the start of a sequence.
    pub(crate) fn decoder(&self) -> Decoder {
        Decoder::new(self.space_before_text)
    }

    /// Appends to `text` what `id` makes certain.
    pub(crate) fn decode_one(
        &self,
        decoder: &mut Decoder,
        id: u32,
        text: &mut String,
    ) -> Result<(), TokenizerError> {
        let piece = self
            .pieces
            .get(id)
            .ok_or(TokenizerError::UnknownId { id, vocab_size: self.vocab_size() })?;
        decoder.push(piece, text);
        Ok(())
    }

    /// Number of ids: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The piece of an id, as it is written in the vocabulary: `"▁Hello"`, `"<0x0A>"`, `"</s>"`.
    pub fn piece(&self, id: u32) -> Option<&str> {
        Some(&self.pieces.get(id)?.written)
    }

    /// The bytes that a piece adds to a text, behind others: `" Hello"`, `"\n"`. They need not be
    /// whole characters. `None` for an id that adds no text of its own: a control, the unknown piece,
    /// or no piece at all.
    pub fn bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let piece = self.pieces.get(id)?;
        match piece.kind {
            Kind::Byte(byte) => Some(vec![byte].into()),
            Kind::Text if piece.written.contains(SPACE_MARK) => {
                Some(piece.written.replace(SPACE_MARK, " ").into_bytes().into())
            }
            Kind::Text => Some(piece.written.as_bytes().into()),
            Kind::Control | Kind::Unknown => None,
        }
    }

    /// The id of a piece, as [`piece`](Self::piece) writes it.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.encoder.token_to_id(piece)
    }

    /// The id that starts a sequence, `<s>`.
    pub fn bos_token(&self) -> Option<u32> {
        self.bos
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("space_before_text", &self.space_before_text)
            .finish_non_exhaustive()
    }
}

/// The SentencePiece vocabulary in a GGUF file.
fn gguf_pieces(path: &Path) -> Result<SentencePieces, TokenizerError> {
    let read = |source| TokenizerError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let len = file.metadata().map_err(read)?.len();
    gguf::Header::read(BufReader::new(file), len)
        .and_then(|header| gguf::pieces(&header))
        .map_err(|source| TokenizerError::Gguf { path: path.to_owned(), source })
}

/// All pieces of the vocabulary with what they are.
fn pieces_of(
    encoder: &tokenizers::Tokenizer,
    byte_fallback: bool,
) -> Result<Pieces, TokenizerError> {
    let mut pieces = Pieces::default();
    for (written, id) in encoder.get_vocab(true) {
        let kind = match byte_of(&written).filter(|_| byte_fallback) {
            Some(byte) => Kind::Byte(byte),
            None => Kind::Text,
        };
        pieces.insert(id, &written, kind)?;
    }
    for (id, added) in encoder.get_added_tokens_decoder() {
        let kind = if added.special { Kind::Control } else { Kind::Text };
        pieces.insert(id, &added.content, kind)?;
    }
    Ok(pieces)
}

/// The id of a piece that a part of the file names.
fn known(
    encoder: &tokenizers::Tokenizer,
    part: &'static str,
    piece: String,
) -> Result<u32, TokenizerError> {
    encoder.token_to_id(&piece).ok_or(TokenizerError::NoSuchPiece { part, piece })
}
