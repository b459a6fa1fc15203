//! A context and what comes after it, as tokens.

#[cfg(feature = "tokenizer")]
use crate::tokenizer::{Tokenizer, TokenizerError};

/// A context, and the continuation whose likelihood is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// What stands before; at least one token.
    pub context: Vec<u32>,
    /// What is scored; at least one token.
    pub continuation: Vec<u32>,
}

impl TokenPair {
    /// The tokens of a text after another, as EleutherAI's evaluation harness finds them.
    ///
    /// White space at the end of the context is moved to the continuation, because most pieces
    /// begin with a space and none end with one. Then both texts are encoded together, and as many
    /// tokens are cut off as the context alone has; those of the context alone come before the rest.
    /// The start of a sequence comes first if the tokenizer has one.
    ///
    /// The continuation can come out without a token: if it is empty, or if its first characters
    /// and the context's last ones are one piece together. A [`Scorer`](super::Scorer) refuses it.
    ///
    /// ```
    /// # use mistral_model::{Tokenizer, score::TokenPair};
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");
    /// let tokenizer = Tokenizer::open(folder)?;
    /// let pair = TokenPair::encode(&tokenizer, "Once upon ", "a time")?;
    /// assert_eq!(pair, TokenPair::encode(&tokenizer, "Once upon", " a time")?);
    /// assert_eq!([pair.context, pair.continuation].concat(), tokenizer.encode("Once upon a time")?);
    /// # Ok::<(), mistral_model::tokenizer::TokenizerError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// All of [`Tokenizer::encode_without_bos`].
    #[cfg(feature = "tokenizer")]
    pub fn encode(
        tokenizer: &Tokenizer,
        context: &str,
        continuation: &str,
    ) -> Result<Self, TokenizerError> {
        let encode = |text: &str| match tokenizer.bos_token() {
            Some(_) => tokenizer.encode(text),
            None => tokenizer.encode_without_bos(text),
        };
        let kept = context.trim_end_matches(is_space).len();
        let mut both = encode(&[context, continuation].concat())?;
        let context = encode(&context[..kept])?;
        let continuation = both.split_off(context.len().min(both.len()));
        Ok(Self { context, continuation })
    }

    /// Tokens of both.
    pub fn len(&self) -> usize {
        self.context.len() + self.continuation.len()
    }

    /// Whether there is no token in either.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops tokens from the start of the context until at most `longest` tokens are left in all,
    /// or one of context.
    ///
    /// What harnesses do with questions that are too long for a model. The start of the sequence
    /// goes first.
    pub fn keep_last(&mut self, longest: usize) {
        let surplus = self.len().saturating_sub(longest);
        let droppable = self.context.len().saturating_sub(1);
        self.context.drain(..surplus.min(droppable));
    }
}

/// What Python's `str.rstrip` takes off: white space of Unicode, and four separators.
#[cfg(feature = "tokenizer")]
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
