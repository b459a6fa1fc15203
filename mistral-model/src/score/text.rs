//! Tokens of a text that is too long to hold.

use std::io::{self, Read};

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Bytes that are encoded together, if a border is found soon enough.
const PIECE: usize = 64 << 10;

/// How SentencePiece writes a space.
const SPACE_MARK: &str = "\u{2581}";

/// Why the tokens of a text end early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextReadError {
    /// The bytes cannot be read.
    #[error("the text cannot be read")]
    Read {
        /// Why.
        #[from]
        source: io::Error,
    },
    /// The bytes are no text.
    #[error("the text is not UTF-8: byte {offset} is {found:#04x}")]
    NotUtf8 {
        /// Where, from the start of the text.
        offset: u64,
        /// The byte.
        found: u8,
    },
    /// The text cannot be encoded.
    #[error("the text cannot be encoded")]
    Encode {
        /// Why.
        #[from]
        source: TokenizerError,
    },
}

/// An iterator over the tokens of a text, some thousands at a time.
///
/// Together they are exactly those of [`Tokenizer::encode`] for the whole text (without the start
/// of a sequence if the tokenizer has none). The text is cut where a word ends: a space between two
/// other characters, if no piece of the vocabulary has a space behind anything else. The part behind
/// the border loses that space and gets it back as the one that comes before each text.
///
/// Memory is that of some tens of kilobytes of text, however long it is. Where there is no
/// border, as between words of Chinese or in a vocabulary of another kind, it grows until there is
/// one or the text ends.
///
/// ```
/// # use mistral_model::{Tokenizer, score::TextTokens};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");
/// let tokenizer = Tokenizer::open(folder)?;
/// let text = "Once upon a time there was a fox. ".repeat(9000);
/// let mut pieces = TextTokens::new(&tokenizer, text.as_bytes())?;
/// let tokens: Vec<Vec<u32>> = pieces.by_ref().collect::<Result<_, _>>()?;
/// assert!(tokens.len() > 1);
/// assert_eq!(tokens.concat(), tokenizer.encode(&text)?);
/// assert_eq!(pieces.bytes(), text.len() as u64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TextTokens<'t, R> {
    tokenizer: &'t Tokenizer,
    text: R,
    /// Bytes read and not yet encoded.
    pending: Vec<u8>,
    /// Bytes encoded.
    bytes: u64,
    /// Bytes to encode together at least.
    piece: usize,
    /// Whether words can be encoded apart.
    has_borders: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Middle,
    End,
}

impl<'t, R: Read> TextTokens<'t, R> {
    /// Reads from the start of a text. Looks once at every piece of the vocabulary.
    ///
    /// # Errors
    ///
    /// [`TextReadError::Encode`]: the tokenizer cannot encode a word.
    pub fn new(tokenizer: &'t Tokenizer, text: R) -> Result<Self, TextReadError> {
        Self::with_pieces(tokenizer, text, PIECE)
    }

    /// [`new`](Self::new), with at least `bytes` of text for each item but the last.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_pieces(
        tokenizer: &'t Tokenizer,
        text: R,
        bytes: usize,
    ) -> Result<Self, TextReadError> {
        Ok(Self {
            tokenizer,
            text,
            pending: Vec::new(),
            bytes: 0,
            piece: bytes.max(1),
            has_borders: has_borders(tokenizer)?,
            stage: Stage::Start,
        })
    }

    /// Bytes of the text whose tokens have come out.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part of the text, up to a border or the end.
    fn part(&mut self) -> Result<String, TextReadError> {
        let mut searched = 0;
        loop {
            // Twice as much each time, so that no byte is searched often.
            let wanted = self.piece.max(2 * self.pending.len());
            let missing = (wanted - self.pending.len()) as u64;
            let read = self.text.by_ref().take(missing).read_to_end(&mut self.pending)?;
            if (read as u64) < missing {
                self.stage = Stage::End;
                let part = std::mem::take(&mut self.pending);
                return self.text_of(part);
            }
            let border = self.has_borders.then(|| last_border(&self.pending, searched)).flatten();
            if let Some(space) = border {
                let behind = self.pending.split_off(space + 1);
                self.pending.truncate(space);
                let part = std::mem::replace(&mut self.pending, behind);
                let text = self.text_of(part)?;
                self.bytes += 1;
                return Ok(text);
            }
            // The last bytes may be half a border.
            searched = self.pending.len().saturating_sub(8);
        }
    }

    fn text_of(&mut self, part: Vec<u8>) -> Result<String, TextReadError> {
        let bytes = part.len() as u64;
        let text = String::from_utf8(part).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let found = error.as_bytes().get(at).copied().unwrap_or_default();
            TextReadError::NotUtf8 { offset: self.bytes + at as u64, found }
        })?;
        self.bytes += bytes;
        Ok(text)
    }
}

impl<R: Read> Iterator for TextTokens<'_, R> {
    type Item = Result<Vec<u32>, TextReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.stage == Stage::End {
            return None;
        }
        let starts = self.stage == Stage::Start && self.tokenizer.bos_token().is_some();
        self.stage = Stage::Middle;
        let tokens = self.part().and_then(|text| {
            Ok(match starts {
                true => self.tokenizer.encode(&text)?,
                false => self.tokenizer.encode_without_bos(&text)?,
            })
        });
        if tokens.is_err() {
            self.stage = Stage::End;
        }
        Some(tokens)
    }
}

/// Whether words encoded apart have the tokens that they have together: a space comes before each
/// text, and no piece reaches over a space behind another character.
fn has_borders(tokenizer: &Tokenizer) -> Result<bool, TokenizerError> {
    let is_space = |c: char| c == ' ' || SPACE_MARK.contains(c);
    let apart = (0..tokenizer.vocab_size()).all(|id| {
        let piece = u32::try_from(id).ok().and_then(|id| tokenizer.piece(id)).unwrap_or_default();
        !piece.trim_start_matches(is_space).contains(is_space)
    });
    if !apart || tokenizer.id(SPACE_MARK).is_none() {
        return Ok(false);
    }
    let encode = |text| tokenizer.encode_without_bos(text);
    Ok([encode("a")?, encode("b")?].concat() == encode("a b")?)
}

/// The last space between two characters that are none, at `from` or behind.
fn last_border(text: &[u8], from: usize) -> Option<usize> {
    let mark = SPACE_MARK.as_bytes();
    // So many bytes behind a space tell what stands there.
    (from.max(1)..text.len().saturating_sub(mark.len())).rev().find(|&at| {
        let (before, behind) = (&text[..at], &text[at + 1..]);
        let beside_space = before.ends_with(b" ") || behind.starts_with(b" ");
        text[at] == b' ' && !beside_space && !before.ends_with(mark) && !behind.starts_with(mark)
    })
}
