//! Template v3 as Mistral 7B v0.3 has it: that of `v3.rs`, on a vocabulary that names no control
//! piece behind `[/TOOL_RESULTS]`.
//!
//! 7B v0.3 was published with the vocabulary that mistral-common calls "v2", byte for byte, and
//! trained with template v3. So the vocabulary cannot tell template v2 from it; of the models
//! named 7B none has template v2.

use super::controls::is_control;
use super::v3;
use crate::tokenizer::Tokenizer;

/// Whether a vocabulary is that of 7B v0.3.
pub(super) fn fits(tokenizer: &Tokenizer) -> bool {
    is_control(tokenizer, "[INST]") && !v3::fits(tokenizer)
}
