//! The model that is built into the program. `demo/` has the script that trained it.

use mistral_model::tokenizer::{Tokenizer, TokenizerError};
use mistral_model::{Checkpoint, OpenOptions, WeightsError};

const CONFIG: &str = include_str!("../demo/model/config.json");
const TOKENIZER: &[u8] = include_bytes!("../demo/model/tokenizer.json");
const WEIGHTS: &[u8] = include_bytes!("../demo/model/model.safetensors");

pub(crate) fn checkpoint(options: OpenOptions) -> Result<Checkpoint<'static>, WeightsError> {
    Checkpoint::from_bytes_with(CONFIG, WEIGHTS, options)
}

pub(crate) fn tokenizer() -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_json(TOKENIZER)
}
