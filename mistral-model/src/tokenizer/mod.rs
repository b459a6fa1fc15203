//! Text to token ids and back, for the tokenizers of Mistral 7B.
//!
//! | file | read by |
//! |---|---|
//! | `tokenizer.model`, `tokenizer.model.v1` to `.v3`: SentencePiece's own, as Mistral publishes them | `sentencepiece/` |
//! | `tokenizer.json`: Hugging Face's, with merges as `"a b"` or `["a", "b"]` | `json/` |
//! | `*.gguf`: the vocabulary in it | `weights/gguf/` |
//!
//! All three become the same encoder, byte-pair merges in a time of `n log n` for any text (`bpe/`); files
//! whose rules it does not have are encoded by the [`tokenizers`](https://docs.rs/tokenizers) crate.
//! [`TokenizerFile`] says which file of a folder is taken.
//!
//! Decoding follows SentencePiece's rules (`decoder.rs`), a piece at a time, so that a whole text and a
//! stream give the same characters; [`TextStream`](crate::generate::TextStream) is the stream.
//!
//! Text is only ever text: `"</s>"` in a prompt becomes ordinary pieces, never the control piece
//! of that name, which is what [`Tokenizer::id`] is for.
//!
//! Not here: Tekken (`tekken.json`), the byte-level vocabulary of later models. No Mistral 7B has it.

mod bpe;
mod decoder;
mod error;
mod file;
mod json;
mod pieces;
mod sentencepiece;

pub use error::TokenizerError;
pub use file::{TokenizerFile, TokenizerFormat};
pub use sentencepiece::{ModelFileError, PieceProblem, PieceType, SentencePieces};

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use bpe::Bpe;
pub(crate) use decoder::Decoder;
use pieces::{Kind, Pieces, SPACE_MARK, byte_of};

/// A vocabulary with the rules for using it. Immutable: any number of threads may share one.
///
/// ```
/// use mistral_model::tokenizer::Tokenizer;
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer/v1");
/// let tokenizer = Tokenizer::open(folder)?; // the folder of Mistral 7B v0.1
/// let ids = tokenizer.encode("Hello world")?;
/// assert_eq!(ids, [1, 22557, 1526]);
/// assert_eq!(tokenizer.decode(&ids)?, "Hello world");
/// // Text is only ever text.
/// assert_eq!(tokenizer.id("</s>"), Some(2));
/// assert!(!tokenizer.encode("</s>")?.contains(&2));
/// # Ok::<(), mistral_model::tokenizer::TokenizerError>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    encoder: Encoder,
    pieces: Pieces,
    bos: Option<u32>,
    space_before_text: bool,
}

/// Who turns text into ids.
#[derive(Clone)]
enum Encoder {
    Merges(Bpe),
    Library(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// Reads the tokenizer at `path`: a file, or the one in a folder, as [`TokenizerFile`] finds it.
    ///
    /// # Errors
    ///
    /// All of [`TokenizerFile::find`] and of [`TokenizerFile::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        TokenizerFile::find(path, None)?.open()
    }

    /// Reads a tokenizer of this format, whatever else the folder holds.
    ///
    /// ```
    /// use mistral_model::tokenizer::{Tokenizer, TokenizerFormat};
    ///
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer/v2");
    /// // Both files of Mistral 7B v0.3 give the same ids.
    /// let json = Tokenizer::open_as(folder, TokenizerFormat::Json)?;
    /// let model = Tokenizer::open_as(folder, TokenizerFormat::SentencePiece)?;
    /// assert_eq!(json.encode("  four  spaces")?, model.encode("  four  spaces")?);
    /// # Ok::<(), mistral_model::tokenizer::TokenizerError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// All of [`TokenizerFile::find`] and of [`TokenizerFile::open`].
    pub fn open_as(
        path: impl AsRef<Path>,
        format: TokenizerFormat,
    ) -> Result<Self, TokenizerError> {
        TokenizerFile::find(path, Some(format))?.open()
    }

    /// A tokenizer from the bytes of a SentencePiece `.model` file.
    ///
    /// The file may come from a stranger: nothing is allocated that its bytes do not account for.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::ModelFile`]: all errors of [`SentencePieces::from_model`].
    /// - All of [`from_pieces`](Self::from_pieces).
    pub fn from_model(model: &[u8]) -> Result<Self, TokenizerError> {
        Self::from_pieces(&SentencePieces::from_model(model)?)
    }

    /// A tokenizer from a SentencePiece vocabulary.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::Piece`], [`TokenizerError::ModelFile`]: a piece, or a set of byte pieces, that
    ///   no vocabulary has.
    /// - [`TokenizerError::NoSuchPiece`]: the piece that starts a sequence is beyond the vocabulary.
    /// - [`TokenizerError::Unsupported`]: merges form a piece of type unused.
    pub fn from_pieces(all: &SentencePieces) -> Result<Self, TokenizerError> {
        all.check()?;
        let mut pieces = Pieces::default();
        for (index, (id, (written, ..))) in (0u32..).zip(&all.pieces).enumerate() {
            let kind = match all.type_of(index) {
                Some(PieceType::Byte) => byte_of(written).map_or(Kind::Text, Kind::Byte),
                Some(PieceType::Control) => Kind::Control,
                Some(PieceType::Unknown) => Kind::Unknown,
                _ => Kind::Text,
            };
            pieces.insert(id, written, kind)?;
        }
        let encoder = Encoder::Merges(Bpe::of_scores(all)?);
        Ok(Self { encoder, pieces, bos: all.bos, space_before_text: all.space_before_text })
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
        json::tokenizer(json)
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
    /// Cost: `n log n` for `n` characters at worst, and about 30 bytes of memory for each; linear for
    /// texts of words.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::NoPiece`]: a character without a piece, in a vocabulary that has neither
    ///   bytes nor an unknown piece.
    /// - [`TokenizerError::TextTooLong`]: 4 GiB or more.
    /// - [`TokenizerError::Encode`], [`TokenizerError::ControlFromText`]: only with a `tokenizer.json` of
    ///   another kind than Mistral's, whose merges may lead to a control piece.
    pub fn encode_without_bos(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        self.append(text, &mut ids)?;
        Ok(ids)
    }

    fn append(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let library = match &self.encoder {
            Encoder::Merges(bpe) => return bpe.encode(text, ids).map(drop),
            Encoder::Library(library) => library,
        };
        let encoding =
            library.encode_fast(text, false).map_err(|source| TokenizerError::Encode { source })?;
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

    /// The id of a piece, as [`piece`](Self::piece) writes it, control pieces included.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.id(piece)
    }

    /// Whether an id is that of a control piece, as `<s>` and `[INST]`: it steers the model, decodes to
    /// nothing, and comes from no text. Ids without a piece are not.
    pub fn is_control(&self, id: u32) -> bool {
        self.pieces.get(id).is_some_and(|piece| piece.kind == Kind::Control)
    }

    /// The id that starts a sequence, `<s>`.
    pub fn bos_token(&self) -> Option<u32> {
        self.bos
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoder = match self.encoder {
            Encoder::Merges(_) => "merges",
            Encoder::Library(_) => "tokenizers crate",
        };
        f.debug_struct("Tokenizer")
            .field("encoder", &encoder)
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("space_before_text", &self.space_before_text)
            .finish_non_exhaustive()
    }
}
