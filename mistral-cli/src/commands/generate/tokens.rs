//! Tokens one by one, or several a pass where they can be guessed.

use mistral_model::generate::{
    DraftModel, Drafter, PromptLookup, SpeculationOptions, SpeculativeGenerator,
};
use mistral_model::{Generator, ModelError, Sampler, Session, SessionOptions, Transformer};

use crate::args::{GenerateArgs, Speculation};
use crate::failure::Failure;
use crate::model::ModelSource;

/// The tokens that the model writes; the same either way.
pub(super) enum Tokens<'s, 'm> {
    Plain(Box<Generator<'s, &'m Transformer>>),
    Guessed(Box<SpeculativeGenerator<'s, &'m Transformer, Box<dyn Drafter>>>),
}

impl<'s, 'm> Tokens<'s, 'm> {
    pub(super) fn new(
        args: &GenerateArgs,
        session: &'s mut Session<&'m Transformer>,
        sampler: Sampler,
        drafter: Option<Box<dyn Drafter>>,
    ) -> Result<Self, Failure> {
        let Some(drafter) = drafter else {
            let tokens = session.generate_more(sampler)?;
            let tokens = if args.ignore_eos { tokens.ignore_eos() } else { tokens };
            return Ok(Self::Plain(Box::new(tokens)));
        };
        let options = SpeculationOptions::default();
        let tokens = SpeculativeGenerator::new(session, sampler, drafter, options)?;
        let tokens = if args.ignore_eos { tokens.ignore_eos() } else { tokens };
        Ok(Self::Guessed(Box::new(tokens)))
    }
}

/// What guesses tokens, if that was asked for.
pub(super) fn drafter(
    args: &GenerateArgs,
    options: SessionOptions,
) -> Result<Option<Box<dyn Drafter>>, Failure> {
    Ok(match &args.speculate {
        None => None,
        Some(Speculation::Lookup) => Some(Box::new(PromptLookup::new())),
        Some(Speculation::Model(folder)) => {
            let model = ModelSource::Folder(folder).load(args.compute.open.options())?;
            Some(Box::new(DraftModel::new(model, options)?))
        }
    })
}

/// Options of a session whose tokens may be guessed.
pub(super) fn session_options(args: &GenerateArgs, tokens: usize) -> SessionOptions {
    let options = args.compute.session(args.kv_dtype, tokens);
    let options = SessionOptions { sinks: args.sinks, ..options };
    match args.speculate {
        None => options,
        Some(_) => {
            let drafts = SpeculationOptions::default().max_drafts;
            let max_chunk = options.max_chunk.max(1 + drafts);
            SessionOptions { rewind_slack: drafts, max_chunk, ..options }
        }
    }
}

impl Iterator for Tokens<'_, '_> {
    type Item = Result<u32, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Plain(tokens) => tokens.next(),
            Self::Guessed(tokens) => tokens.next(),
        }
    }
}
