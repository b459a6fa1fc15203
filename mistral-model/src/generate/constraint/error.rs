//! What can be wrong with a constraint, and with text under one.

/// A schema, grammar or expression that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// A text that could never end.
    #[error("no token ends a sequence, expected at least one: a constrained text could never end")]
    NoEnd,
    /// A token that the vocabulary does not have.
    #[error("token {token} is to end a sequence, expected less than {vocab_size}")]
    UnknownEnd {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The vocabulary cannot be indexed.
    #[error("the vocabulary cannot be indexed: {reason}")]
    Vocabulary {
        /// Why.
        reason: String,
    },
    /// Longer than anybody writes by hand.
    #[error("the {kind} has {found} bytes, expected at most {limit}")]
    TooLong {
        /// Schema, grammar or expression.
        kind: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// No JSON at all.
    #[error("the schema is no JSON at line {line}, column {column}: {reason}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// Why.
        reason: String,
    },
    /// Wrong, contradictory, too complex, or with a part that cannot be followed.
    #[error("the {kind} cannot be followed: {reason}")]
    Refused {
        /// Schema, grammar or expression.
        kind: &'static str,
        /// Why.
        reason: String,
    },
    /// The text has come to where nothing can follow.
    #[error(
        "after {tokens} tokens no token of the vocabulary can follow: the constraint asks for \
         characters that the vocabulary lacks, or has a branch without an end"
    )]
    DeadEnd {
        /// Tokens accepted.
        tokens: usize,
    },
    /// What may follow takes too long to find out.
    #[error("after {tokens} tokens the constraint is too complex to go on: {reason}")]
    TooComplex {
        /// Tokens accepted.
        tokens: usize,
        /// Why.
        reason: String,
    },
    /// A token from elsewhere.
    #[error(
        "token {token} does not follow the constraint after {tokens} tokens: was it allowed again \
         by a later filter?"
    )]
    Forbidden {
        /// The token.
        token: u32,
        /// Tokens accepted before it.
        tokens: usize,
    },
}
