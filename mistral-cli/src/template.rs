//! How a conversation becomes tokens: one of Mistral's templates, or the model's own in Jinja.

use std::path::Path;
use std::str::FromStr;

use mistral_model::Tokenizer;
use mistral_model::chat::{
    ChatEncoder, ChatError, ChatFormat, JinjaEncoder, JinjaTemplate, TemplateVersion,
};

use crate::failure::Failure;

/// What Mistral's own templates write, and hardly another.
const MISTRALS: &str = "[INST]";

/// A template by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TemplateName {
    Version(TemplateVersion),
    Jinja,
}

/// A name that no template has.
#[derive(Debug, thiserror::Error)]
#[error("no chat template is called {found:?}, expected v1, v2, v3, v3-7b, plain or jinja")]
pub(crate) struct UnknownTemplate {
    found: String,
}

impl FromStr for TemplateName {
    type Err = UnknownTemplate;

    fn from_str(name: &str) -> Result<Self, UnknownTemplate> {
        if name == "jinja" {
            return Ok(Self::Jinja);
        }
        name.parse().map(Self::Version).map_err(|_| UnknownTemplate { found: name.to_owned() })
    }
}

/// The template that was asked for. Otherwise the one in the model's folder, if it is not
/// Mistral's own, and else the one that the vocabulary is for.
pub(crate) fn format<'t>(
    tokenizer: &'t Tokenizer,
    model: Option<&Path>,
    name: Option<TemplateName>,
) -> Result<Box<dyn ChatFormat + 't>, Failure> {
    if let Some(TemplateName::Version(version)) = name {
        return Ok(Box::new(ChatEncoder::with_template(tokenizer, version)?));
    }
    let folder = model.filter(|path| path.is_dir());
    let own = folder.map(JinjaTemplate::open).transpose().map_err(ChatError::from)?.flatten();
    match own.filter(|own| name.is_some() || !own.source().contains(MISTRALS)) {
        Some(own) => Ok(Box::new(JinjaEncoder::new(tokenizer, own))),
        None if name.is_some() => Err(Failure::NoTemplate),
        None => Ok(Box::new(ChatEncoder::new(tokenizer)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::TemplateName;

    #[test]
    fn every_template_has_a_name() {
        for name in ["v1", "v2", "v3", "v3-7b", "plain", "jinja"] {
            assert!(name.parse::<TemplateName>().is_ok(), "{name}");
        }
        assert!("V1".parse::<TemplateName>().is_err());
    }
}
