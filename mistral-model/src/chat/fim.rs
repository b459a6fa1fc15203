//! Fill in the middle: what stands before a gap and what stands behind it to token ids, for the
//! model to write what belongs between them.
//!
//! ```text
//! <s>[SUFFIX]"{suffix}"[PREFIX]"{prefix}"
//! ```
//!
//! Each pair of quotes is encoded on its own. The suffix comes first, so that the answer goes on
//! from the prefix.

use super::template::find_control;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Put before a suffix to be encoded and taken off again, as mistral-common does: it joins no other
/// character, so the suffix gets the ids of a text that goes on, without a space in front.
const FENCE: &str = "☺";

/// Turns a text with a gap into the token ids that models for code were trained on.
///
/// Among SentencePiece vocabularies only that of Mixtral 8x22B and Codestral 22B ("v3") has the
/// pieces. 7B v0.3 has another, and never learned to fill a gap; mistral-common writes `<unk>` for
/// them there, which is refused here.
///
/// As in a chat, control pieces are written as ids: `[PREFIX]` in a text stays text.
///
/// ```
/// use mistral_model::chat::{FimEncoder, FimError};
/// use mistral_model::Tokenizer;
///
/// # let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer");
/// let tokenizer = Tokenizer::open(format!("{golden}/v3/tokenizer.model"))?;
/// let ids = FimEncoder::new(&tokenizer)?.encode("def f(", "return a + b")?;
/// let pieces: Vec<_> = ids.iter().filter_map(|id| tokenizer.piece(*id)).collect();
/// assert_eq!(pieces.concat(), "<s>[SUFFIX]return▁a▁+▁b[PREFIX]▁def▁f(");
///
/// let of_7b = Tokenizer::open(format!("{golden}/v2"))?;
/// assert!(matches!(FimEncoder::new(&of_7b), Err(FimError::NoPiece { piece: "[SUFFIX]" })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct FimEncoder<'t> {
    tokenizer: &'t Tokenizer,
    bos: u32,
    suffix: u32,
    prefix: u32,
}

/// Why a gap cannot be filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FimError {
    /// A vocabulary of a model that was not trained for it.
    #[error(
        "the vocabulary has no control piece {piece}, which marks a gap to fill: use a model that \
         was trained for it, such as Codestral 22B"
    )]
    NoPiece {
        /// The piece.
        piece: &'static str,
    },
    /// A text cannot be encoded.
    #[error("the text around the gap cannot be encoded")]
    Tokenizer {
        /// Why.
        #[from]
        source: TokenizerError,
    },
}

impl<'t> FimEncoder<'t> {
    /// Finds the pieces.
    ///
    /// # Errors
    ///
    /// [`FimError::NoPiece`]: the vocabulary lacks `<s>`, `[SUFFIX]` or `[PREFIX]`, or has it as text.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self, FimError> {
        let control = |piece| find_control(tokenizer, piece).ok_or(FimError::NoPiece { piece });
        Ok(Self {
            tokenizer,
            bos: control("<s>")?,
            suffix: control("[SUFFIX]")?,
            prefix: control("[PREFIX]")?,
        })
    }

    /// The ids of a text with a gap between `prefix` and `suffix`, either of which may be empty:
    /// those of mistral-common 1.13. The answer ends with `</s>`.
    ///
    /// Cost: linear in the texts.
    ///
    /// # Errors
    ///
    /// [`FimError::Tokenizer`]: all of [`Tokenizer::encode_without_bos`].
    pub fn encode(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>, FimError> {
        let fence = self.tokenizer.encode_without_bos(FENCE)?;
        let fenced = self.tokenizer.encode_without_bos(&format!("{FENCE}{suffix}"))?;
        let mut ids = vec![self.bos, self.suffix];
        ids.extend_from_slice(fenced.get(fence.len()..).unwrap_or_default());
        ids.push(self.prefix);
        ids.extend(self.tokenizer.encode_without_bos(prefix)?);
        Ok(ids)
    }
}
