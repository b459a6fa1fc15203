//! Constrained output: text that follows a JSON schema, a grammar or a regular expression.
//!
//! The grammar is followed by [`llguidance`](https://docs.rs/llguidance), byte by byte over all
//! pieces of the vocabulary at once. A [`Constraint`] is a [`LogitFilter`]: before each draw it sets
//! the logits of all tokens that cannot follow to minus infinity.

mod error;
mod vocabulary;

use std::fmt;
use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, StopReason, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, earley::SlicedBiasComputer};

pub use self::error::ConstraintError;
use self::vocabulary::Vocabulary;
use super::error::SamplerError;
use super::sampler::LogitFilter;
use crate::tokenizer::Tokenizer;

/// Bytes of a schema, grammar or expression. Compiling takes up to the square of it.
const MAX_BYTES: usize = 64 << 10;

/// States of the lexer, of about 2 kB each. What a text visits counts, not what there could be.
const MAX_LEXER_STATES: usize = 50_000;

/// Makes constraints for one vocabulary, which is indexed once. Any number of threads may share it.
///
/// ```
/// use mistral_model::generate::{Constraints, Sampler};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");
/// use mistral_model::Tokenizer;
///
/// let tokenizer = Tokenizer::open(folder)?;
/// let end = tokenizer.id("</s>").ok_or("no </s>")?;
/// let constraints = Constraints::new(&tokenizer, &[end])?;
///
/// let answer = constraints.json_schema(r#"{"enum": ["fox", "goose"]}"#)?;
/// let mut sampler = Sampler::greedy().with_filter(answer);
/// let logits = vec![0.0; tokenizer.vocab_size()]; // a model without an opinion
/// let mut ids = Vec::new();
/// loop {
///     match sampler.sample(&logits)? {
///         token if token == end => break,
///         token => ids.push(token),
///     }
/// }
/// assert!(["\"fox\"", "\"goose\""].contains(&tokenizer.decode(&ids)?.as_str()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Limits
///
/// A schema may come from a stranger. Its length (64 KiB), its nesting, the size of what it
/// compiles to, and the work for one token are limited, and nothing is fetched: a `$ref` that leaves
/// the schema is refused. Wherever a limit is met, that is an error.
#[derive(Clone)]
pub struct Constraints {
    factory: Arc<ParserFactory>,
    /// Tokens that end a sequence.
    ends: Arc<[u32]>,
    /// Those, and the tokens that add text.
    usable: Arc<SimpleVob>,
    leading_space: bool,
}

impl Constraints {
    /// Indexes a vocabulary. `ends` are the tokens that end a sequence (`eos_tokens` of the model's
    /// configuration): they are allowed where the text may end, and there alone. No other control
    /// token ever is.
    ///
    /// # Errors
    ///
    /// - [`ConstraintError::NoEnd`], [`ConstraintError::UnknownEnd`]: `ends` is empty, or not of the
    ///   vocabulary.
    /// - [`ConstraintError::Vocabulary`]: it cannot be indexed.
    pub fn new(tokenizer: &Tokenizer, ends: &[u32]) -> Result<Self, ConstraintError> {
        let vocabulary = Vocabulary::new(tokenizer, ends)?;
        let usable = Arc::new(vocabulary.usable());
        let vocabulary: TokEnv = Arc::new(vocabulary);
        let mut factory = ParserFactory::new(
            &vocabulary,
            InferenceCapabilities::default(),
            &SlicedBiasComputer::general_slices(),
        )
        .map_err(|error| ConstraintError::Vocabulary { reason: first_line(&error) })?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.verbose_errors = false;
        let factory = Arc::new(factory);
        Ok(Self { factory, ends: ends.into(), usable, leading_space: false })
    }

    /// Allows one space before the text.
    ///
    /// A model that was trained with SentencePiece begins a text with a space, and one that is kept
    /// from it may write worse. [`TextGenerator::new`](super::TextGenerator::new) drops that space,
    /// as for the answer in a chat; behind a prompt it stays in the text.
    pub fn allow_leading_space(mut self) -> Self {
        self.leading_space = true;
        self
    }

    /// Text that is JSON on one line and follows this schema (draft 2020-12 and before), with at
    /// most one space after each comma and colon. Properties come in the order of the schema.
    ///
    /// What of JSON Schema can be followed is listed in llguidance's documentation; the rest is
    /// refused and never passed over.
    ///
    /// # Errors
    ///
    /// - [`ConstraintError::TooLong`], [`ConstraintError::Json`]: no JSON, or too much of it.
    /// - [`ConstraintError::Refused`]: no schema, an impossible one, or one beyond the limits.
    pub fn json_schema(&self, schema: &str) -> Result<Constraint, ConstraintError> {
        const KIND: &str = "schema";
        check_length(KIND, schema)?;
        let mut schema: serde_json::Value =
            serde_json::from_str(schema).map_err(|error| ConstraintError::Json {
                line: error.line(),
                column: error.column(),
                reason: error.to_string(),
            })?;
        // Over whatever the schema says of itself under this name: it may be a stranger's.
        if schema.is_object() {
            JsonCompileOptions {
                item_separator: ", ?".to_owned(),
                key_separator: ": ?".to_owned(),
                whitespace_flexible: false,
                ..JsonCompileOptions::default()
            }
            .apply_to(&mut schema);
        }
        self.compile(KIND, GrammarWithLexer::from_json_schema(schema))
    }

    /// Text that follows a context-free grammar, in llguidance's variant of Lark, from its rule
    /// `start`.
    ///
    /// # Errors
    ///
    /// [`ConstraintError::TooLong`], [`ConstraintError::Refused`]: too long, no grammar, or one
    /// beyond the limits.
    pub fn grammar(&self, lark: &str) -> Result<Constraint, ConstraintError> {
        const KIND: &str = "grammar";
        check_length(KIND, lark)?;
        self.compile(KIND, GrammarWithLexer::from_lark(lark.to_owned()))
    }

    /// Text that a regular expression matches as a whole, in the syntax of the crate `regex`.
    ///
    /// # Errors
    ///
    /// [`ConstraintError::TooLong`], [`ConstraintError::Refused`]: too long, no expression, or one
    /// beyond the limits.
    pub fn regex(&self, expression: &str) -> Result<Constraint, ConstraintError> {
        const KIND: &str = "regular expression";
        check_length(KIND, expression)?;
        self.compile(KIND, GrammarWithLexer::from_regex(expression))
    }

    fn compile(
        &self,
        kind: &'static str,
        mut grammar: GrammarWithLexer,
    ) -> Result<Constraint, ConstraintError> {
        let grammar = if self.leading_space {
            const INNER: &str = "after_space";
            grammar.name = Some(INNER.to_owned());
            let outer = GrammarWithLexer::from_lark(format!("start: @{INNER} | \" \" @{INNER}"));
            TopLevelGrammar { grammars: vec![outer, grammar], max_tokens: None }
        } else {
            TopLevelGrammar::from_grammar(grammar)
        };
        let refused = |error| ConstraintError::Refused { kind, reason: first_line(&error) };
        let parser = self.factory.create_parser(grammar).map_err(refused)?;
        Ok(Constraint {
            matcher: Matcher::new(Ok(parser)),
            ends: Arc::clone(&self.ends),
            usable: Arc::clone(&self.usable),
            tokens: 0,
        })
    }
}

impl fmt::Debug for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraints")
            .field("ends", &self.ends)
            .field("leading_space", &self.leading_space)
            .finish_non_exhaustive()
    }
}

/// A text that is being held to a schema, a grammar or an expression; made by [`Constraints`].
///
/// It belongs behind filters that only shift logits, and to one text: a fresh one is made, or
/// cloned before the first token, for each. The text may end where one of the tokens that end a
/// sequence is drawn; where it can only end, nothing else is allowed. Text that is cut off before
/// that, by a limit on tokens or a stop string, is the beginning of one that follows.
///
/// # Cost
///
/// For a token, some ten microseconds to some milliseconds, by grammar; it is bounded.
pub struct Constraint {
    matcher: Matcher,
    ends: Arc<[u32]>,
    usable: Arc<SimpleVob>,
    /// Accepted so far.
    tokens: usize,
}

impl Constraint {
    /// Whether the text may end here.
    ///
    /// # Errors
    ///
    /// [`ConstraintError::TooComplex`]: it takes too long to find out.
    pub fn may_end(&mut self) -> Result<bool, ConstraintError> {
        if self.matcher.is_stopped() && self.matcher.stop_reason().is_ok() {
            return Ok(true);
        }
        let tokens = self.tokens;
        self.matcher
            .is_accepting()
            .map_err(|error| ConstraintError::TooComplex { tokens, reason: first_line(&error) })
    }

    /// The tokens that can follow.
    fn allowed(&mut self) -> Result<SimpleVob, ConstraintError> {
        let tokens = self.tokens;
        let mut allowed = self.matcher.compute_mask_or_eos().map_err(|error| {
            let reason = first_line(&error);
            let no_way = [StopReason::NoExtension, StopReason::NoExtensionBias];
            if no_way.iter().any(|stop| reason == stop.to_string()) {
                ConstraintError::DeadEnd { tokens }
            } else {
                ConstraintError::TooComplex { tokens, reason }
            }
        })?;
        // A grammar may name the end by its id, where the text is not complete.
        if !self.may_end()? {
            self.ends.iter().for_each(|end| allowed.disallow_token(*end));
        }
        Ok(allowed)
    }

    fn forbid(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let allowed = self.allowed()?;
        // Ids beyond the vocabulary are a model's padding.
        let known = allowed.len().min(self.usable.len());
        let mut any = false;
        for (token, logit) in logits.iter_mut().enumerate() {
            if token < known && allowed.get(token) && self.usable.get(token) {
                any = true;
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
        if any { Ok(()) } else { Err(ConstraintError::DeadEnd { tokens: self.tokens }) }
    }

    fn follow(&mut self, token: u32) -> Result<(), ConstraintError> {
        let tokens = self.tokens;
        let ended = self.matcher.is_stopped() && self.matcher.stop_reason().is_ok();
        if !(ended && self.ends.contains(&token)) {
            self.matcher
                .consume_token(token)
                .map_err(|_| ConstraintError::Forbidden { token, tokens })?;
        }
        self.tokens += 1;
        Ok(())
    }
}

impl Clone for Constraint {
    fn clone(&self) -> Self {
        Self {
            // Without shared caches: clones may be used on several threads at once.
            matcher: self.matcher.deep_clone(),
            ends: Arc::clone(&self.ends),
            usable: Arc::clone(&self.usable),
            tokens: self.tokens,
        }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint")
            .field("tokens", &self.tokens)
            .field("stopped", &self.matcher.is_stopped())
            .finish_non_exhaustive()
    }
}

impl LogitFilter for Constraint {
    /// # Errors
    ///
    /// [`SamplerError::Constraint`] with [`ConstraintError::DeadEnd`] or
    /// [`ConstraintError::TooComplex`].
    fn filter(&mut self, _history: &[u32], logits: &mut [f32]) -> Result<(), SamplerError> {
        Ok(self.forbid(logits)?)
    }

    /// # Errors
    ///
    /// [`SamplerError::Constraint`] with [`ConstraintError::Forbidden`]: a later filter allowed the
    /// token again.
    fn accept(&mut self, token: u32) -> Result<(), SamplerError> {
        Ok(self.follow(token)?)
    }
}

fn check_length(kind: &'static str, text: &str) -> Result<(), ConstraintError> {
    let found = text.len();
    if found > MAX_BYTES {
        return Err(ConstraintError::TooLong { kind, found, limit: MAX_BYTES });
    }
    Ok(())
}

/// What a library says, without the dump that may follow, and no longer than a person reads.
fn first_line(error: &dyn fmt::Display) -> String {
    const MOST: usize = 300;
    let text = error.to_string();
    text.lines().next().unwrap_or_default().chars().take(MOST).collect()
}
