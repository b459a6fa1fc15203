//! Tokens to text with stop strings: what an application shows.

use std::iter::FusedIterator;

use super::stop::StopStrings;
use super::stream::TextStream;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Why a text ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The source of tokens came to its end: the model chose an end-of-sequence token.
    EndOfSequence,
    /// This stop string came up. It is not part of the text.
    StopString(String),
    /// This token of [`TextGenerator::stop_tokens`] came up. It is not part of the text.
    StopToken(u32),
    /// The limit of [`TextGenerator::max_tokens`] is used up.
    Exhausted,
}

/// Why there is no next piece of text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError<E: std::error::Error + 'static> {
    /// The source of tokens failed.
    #[error(transparent)]
    Generate(E),
    /// A token has no text in this tokenizer.
    #[error("a generated token cannot be decoded: does the tokenizer belong to the model?")]
    Decode {
        /// The token.
        #[from]
        source: TokenizerError,
    },
}

/// An iterator over pieces of text, none of them empty, made from an iterator over tokens.
///
/// Pull-driven: a token is generated when the text of those before it is used up. Dropping it
/// cancels. It ends after an error.
///
/// ```no_run
/// use mistral_model::generate::{StopReason, StopStrings, TextGenerator};
/// use mistral_model::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::open("mistral-7b-v0.1")?;
/// let prompt = tokenizer.encode("Once upon a")?;
/// let tokens = [727, 736, 403].into_iter().map(Ok::<u32, std::io::Error>); // a `Generator`
/// let mut text = TextGenerator::new(tokens, &tokenizer, StopStrings::new(["was"])?)
///     .after(&prompt)?
///     .max_tokens(100);
/// let pieces: Result<String, _> = text.by_ref().collect();
/// assert_eq!(pieces?, " time there ");
/// assert_eq!(text.reason(), Some(&StopReason::StopString("was".to_owned())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "an iterator does nothing until it is asked for the next item"]
pub struct TextGenerator<'t, I> {
    tokens: I,
    tokenizer: &'t Tokenizer,
    stream: TextStream<'t>,
    stops: StopStrings,
    stop_tokens: Vec<u32>,
    limit: usize,
    used: usize,
    ended: bool,
    reason: Option<StopReason>,
}

impl<'t, I> TextGenerator<'t, I> {
    /// Text from the start of a sequence: the space before its first word is dropped, as for the
    /// answer in a chat. [`after`](Self::after) goes on with a prompt's text instead.
    pub fn new(
        tokens: impl IntoIterator<IntoIter = I>,
        tokenizer: &'t Tokenizer,
        stops: StopStrings,
    ) -> Self {
        Self {
            tokens: tokens.into_iter(),
            tokenizer,
            stream: TextStream::new(tokenizer),
            stops,
            stop_tokens: Vec::new(),
            limit: usize::MAX,
            used: 0,
            ended: false,
            reason: None,
        }
    }

    /// Goes on where the text of `prompt` ends, as [`TextStream::after`]. Stop strings are looked
    /// for behind the prompt only.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`]: an id that no piece has.
    pub fn after(mut self, prompt: &[u32]) -> Result<Self, TokenizerError> {
        self.stream = TextStream::after(self.tokenizer, prompt)?;
        Ok(self)
    }

    /// Ends before any of these tokens, whatever their text. Those that end a sequence need not be
    /// among them: before them the source of tokens comes to its end.
    pub fn stop_tokens(mut self, tokens: impl IntoIterator<Item = u32>) -> Self {
        self.stop_tokens.extend(tokens);
        self
    }

    /// Takes at most this many tokens. A limit set here, and not by `take` on the tokens, can be
    /// told from the end of the sequence in [`reason`](Self::reason).
    pub fn max_tokens(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Why the text ended; `None` while it has not, and after an error.
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.as_ref()
    }

    /// Tokens taken so far.
    pub fn tokens_used(&self) -> usize {
        self.used
    }

    /// Ends with the stop string that came up, if one did.
    fn note_stop(&mut self) {
        if let Some(stop) = self.stops.stopped() {
            self.reason = Some(StopReason::StopString(stop.to_owned()));
            self.ended = true;
        }
    }

    /// No token follows: what was begun and what was held back comes out.
    fn end(&mut self, reason: StopReason) -> String {
        self.ended = true;
        self.reason = Some(reason);
        let begun = self.stream.finish().unwrap_or_default();
        let mut rest = self.stops.push(begun).to_owned();
        self.note_stop();
        rest.push_str(self.stops.finish());
        rest
    }
}

impl<I, E> Iterator for TextGenerator<'_, I>
where
    I: Iterator<Item = Result<u32, E>>,
    E: std::error::Error + 'static,
{
    type Item = Result<String, TextError<E>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let token = if self.used < self.limit {
                self.tokens.next()
            } else {
                return some_text(self.end(StopReason::Exhausted));
            };
            let token = match token {
                Some(Ok(token)) => token,
                None => return some_text(self.end(StopReason::EndOfSequence)),
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(TextError::Generate(error)));
                }
            };
            if self.stop_tokens.contains(&token) {
                return some_text(self.end(StopReason::StopToken(token)));
            }
            self.used += 1;
            let decoded = match self.stream.push(token) {
                Ok(decoded) => decoded.unwrap_or_default(),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error.into()));
                }
            };
            let shown = self.stops.push(decoded).to_owned();
            self.note_stop();
            if !shown.is_empty() {
                return Some(Ok(shown));
            }
        }
        None
    }
}

impl<I, E> FusedIterator for TextGenerator<'_, I>
where
    I: Iterator<Item = Result<u32, E>>,
    E: std::error::Error + 'static,
{
}

fn some_text<E>(text: String) -> Option<Result<String, E>> {
    Some(text).filter(|text| !text.is_empty()).map(Ok)
}
