//! `--tokenizer`: which of a folder's tokenizer files is read.

use clap::{Args, ValueEnum};
use mistral_model::tokenizer::TokenizerFormat;

/// Which tokenizer file is read.
#[derive(Debug, Args)]
pub(crate) struct TokenizerArgs {
    /// Which tokenizer file of the folder to read [default: model, or else json, or else gguf]
    ///
    /// Where added_tokens.json lies beside them, json comes first: it alone knows the added pieces.
    #[arg(long, value_name = "FORMAT", requires = "model")]
    tokenizer: Option<TokenizerKind>,
}

impl TokenizerArgs {
    /// The format that was named.
    pub(crate) fn format(&self) -> Option<TokenizerFormat> {
        self.tokenizer.map(TokenizerKind::format)
    }
}

/// The formats of tokenizer files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TokenizerKind {
    /// SentencePiece's own: tokenizer.model, or tokenizer.model.v1 to .v3
    Model,
    /// Hugging Face's tokenizer.json
    Json,
    /// tokenizer.gguf, or a single GGUF file
    Gguf,
}

impl TokenizerKind {
    fn format(self) -> TokenizerFormat {
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
