//! `--tokenizer`: which of a folder's tokenizer files is read.

use clap::ValueEnum;
use mistral_model::tokenizer::TokenizerFormat;

/// The formats of tokenizer files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenizerKind {
    /// SentencePiece's own: tokenizer.model, or tokenizer.model.v1 to .v3
    Model,
    /// Hugging Face's tokenizer.json
    Json,
    /// tokenizer.gguf, or a single GGUF file
    Gguf,
}

impl TokenizerKind {
    pub(crate) fn format(self) -> TokenizerFormat {
        match self {
            Self::Model => TokenizerFormat::SentencePiece,
            Self::Json => TokenizerFormat::Json,
            Self::Gguf => TokenizerFormat::Gguf,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_one_name_here_and_in_the_library() {
        for kind in TokenizerKind::value_variants() {
            let name = kind.to_possible_value().map(|value| value.get_name().to_owned());
            assert_eq!(name, Some(kind.format().to_string()));
        }
    }
}
