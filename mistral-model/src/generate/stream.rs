//! Tokens to text while they are generated.

use crate::tokenizer::{Decoder, Tokenizer, TokenizerError};

/// Decodes tokens one at a time; the pieces of text joined are the text of the whole sequence.
///
/// A character comes out with the token that completes it, never in parts, and a space is never
/// lost: decoding tokens one by one with [`Tokenizer::decode`] would drop the space before each
/// word, as each would be a sequence of its own.
///
/// ```no_run
/// use mistral_model::generate::TextStream;
/// use mistral_model::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::open("mistral-7b-v0.1")?;
/// let mut stream = TextStream::new(&tokenizer);
/// assert_eq!(stream.push(22557)?, Some("Hello"));
/// assert_eq!(stream.push(1526)?, Some(" world"));
/// assert_eq!(stream.push(240)?, None); // <0xED>: the first byte of three
/// # Ok::<(), mistral_model::tokenizer::TokenizerError>(())
/// ```
#[derive(Debug, Clone)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    decoder: Decoder,
    text: String,
}

impl<'t> TextStream<'t> {
    /// At the start of a sequence: the space before its first word is dropped.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, decoder: tokenizer.decoder(), text: String::new() }
    }

    /// Behind tokens whose text is known already: the text to come goes on where theirs ends.
    ///
    /// After the prompt `"Once upon a"` the token `▁time` gives `" time"`. A character that the
    /// prompt has begun comes out whole.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`]: an id that no piece has.
    pub fn after(tokenizer: &'t Tokenizer, prompt: &[u32]) -> Result<Self, TokenizerError> {
        let mut stream = Self::new(tokenizer);
        for &token in prompt {
            stream.push(token)?;
        }
        Ok(stream)
    }

    /// The text that is certain with this token; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`]: an id that no piece has. The stream stays as it was.
    pub fn push(&mut self, token: u32) -> Result<Option<&str>, TokenizerError> {
        self.text.clear();
        self.tokenizer.decode_one(&mut self.decoder, token, &mut self.text)?;
        Ok(self.decoded())
    }

    /// No token follows: a U+FFFD for each byte of a character that was begun.
    pub fn finish(&mut self) -> Option<&str> {
        self.text.clear();
        self.decoder.finish(&mut self.text);
        self.decoded()
    }

    fn decoded(&self) -> Option<&str> {
        Some(self.text.as_str()).filter(|text| !text.is_empty())
    }
}
