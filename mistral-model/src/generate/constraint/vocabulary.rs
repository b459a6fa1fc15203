//! The tokenizer's vocabulary as a tree of byte strings.

use llguidance::toktrie::{SimpleVob, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::error::ConstraintError;
use crate::tokenizer::Tokenizer;

/// The bytes that each token adds to a text.
pub(super) struct Vocabulary {
    tree: TokTrie,
}

impl Vocabulary {
    /// Tokens that add no text (controls, the unknown piece, gaps) lie outside the tree, so that no
    /// constraint leads to them, but for those that `ends` a sequence.
    pub(super) fn new(tokenizer: &Tokenizer, ends: &[u32]) -> Result<Self, ConstraintError> {
        let vocab_size = tokenizer.vocab_size();
        let &first_end = ends.first().ok_or(ConstraintError::NoEnd)?;
        if let Some(&token) = ends.iter().find(|end| **end as usize >= vocab_size) {
            return Err(ConstraintError::UnknownEnd { token, vocab_size });
        }
        let size = u32::try_from(vocab_size)
            .map_err(|error| ConstraintError::Vocabulary { reason: error.to_string() })?;
        let texts: Vec<Vec<u8>> = (0..size)
            .map(|id| match tokenizer.bytes(id) {
                Some(bytes) if !ends.contains(&id) && !is_marker(&bytes) => bytes.into_owned(),
                _ if ends.contains(&id) => end_marker(id),
                _ => Vec::new(),
            })
            .collect();
        let tree = TokTrie::from(&TokRxInfo::new(size, first_end), &texts).with_eos_tokens(ends);
        Ok(Self { tree })
    }

    /// The tokens that add text, and those that end a sequence.
    pub(super) fn usable(&self) -> SimpleVob {
        let mut usable = self.tree.alloc_token_set();
        for id in (0u32..).take(self.tree.vocab_size()) {
            if !self.tree.token(id).is_empty() {
                usable.allow_token(id);
            }
        }
        usable
    }
}

/// Begins the name of a token without text; as a byte it occurs in no UTF-8.
const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// A name of which no grammar can speak by accident.
fn end_marker(id: u32) -> Vec<u8> {
    [&[MARKER], format!("<end {id}>").as_bytes()].concat()
}

/// Bytes that would be taken for a name.
fn is_marker(bytes: &[u8]) -> bool {
    bytes.first() == Some(&MARKER)
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.tree
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.tree.greedy_tokenize(bytes)
    }

    /// The longest piece first, and not the model's own way: so no tokens are forced.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
