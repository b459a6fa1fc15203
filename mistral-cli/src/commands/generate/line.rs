//! A line of a batch: what it asks for, and what is answered.

use std::error::Error;
use std::sync::Arc;

use mistral_model::generate::{Constraint, StopStrings, TextStream};
use mistral_model::scheduler::Finish;
use mistral_model::tokenizer::TokenizerError;
use mistral_model::{Adapter, ModelError, Request, SamplerOptions, Tokenizer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::args::GenerateArgs;
use crate::failure::Failure;
use crate::{model, requests};

/// What a line asks for. What it leaves out is as the options say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with a prompt")]
pub(super) struct Line {
    prompt: String,
    /// As it is written: a number may have more digits than any type here.
    #[serde(default, deserialize_with = "written")]
    id: Option<Box<RawValue>>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    seed: Option<u64>,
    stop: Option<Vec<String>>,
}

/// A field that is there, even if it is null.
fn written<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(field).map(Some)
}

/// What is answered to a request that came to its end.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    prompt: &'a str,
    text: &'a str,
    prompt_tokens: usize,
    generated_tokens: usize,
    stop_reason: &'static str,
    stop_string: Option<&'a str>,
    seed: u64,
}

/// What is answered to a request that cannot be served.
#[derive(Debug, Serialize)]
struct Refusal {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Box<RawValue>>,
    error: String,
}

/// What lines do not say.
pub(super) struct Settings<'t> {
    pub(super) args: &'t GenerateArgs,
    pub(super) tokenizer: &'t Tokenizer,
    /// What every text is held to.
    pub(super) constraint: Option<Constraint>,
    pub(super) adapter: Option<Arc<Adapter>>,
}

/// A request, and what was written for it.
pub(super) struct Text<'t> {
    /// Which line it is.
    pub(super) index: usize,
    line: Line,
    seed: u64,
    prompt_tokens: usize,
    tokens: usize,
    stream: TextStream<'t>,
    stops: StopStrings,
    text: String,
}

impl Line {
    fn from_json(index: usize, line: &[u8]) -> Result<Self, Failure> {
        let read = requests::text(line).and_then(|text| Ok(serde_json::from_str(text)?));
        let line = index + 1;
        read.map_err(|source| Failure::Request { name: "the batch".to_owned(), line, source })
    }
}

impl<'t> Text<'t> {
    /// Reads a line. What is wrong with it is an answer.
    pub(super) fn read(
        settings: &Settings<'t>,
        index: usize,
        line: &[u8],
    ) -> Result<(Self, Request), String> {
        let line = Line::from_json(index, line).map_err(|error| refusal(None, &error))?;
        match Self::begin(settings, &line) {
            Err(error) => Err(refusal(line.id, &error)),
            Ok((request, stream, stops)) => {
                let seed = sampling(settings.args, &line).seed;
                let prompt_tokens = request.prompt.len();
                let (tokens, text) = (0, String::new());
                let text = Self { index, line, seed, prompt_tokens, tokens, stream, stops, text };
                Ok((text, request))
            }
        }
    }

    fn begin(
        settings: &Settings<'t>,
        line: &Line,
    ) -> Result<(Request, TextStream<'t>, StopStrings), Failure> {
        let Settings { args, tokenizer, constraint, adapter } = settings;
        let prompt = model::encode(tokenizer, &line.prompt)?;
        if line.prompt.is_empty() {
            return Err(ModelError::EmptyPrompt.into());
        }
        let stream = TextStream::after(tokenizer, &prompt)?;
        let stops = StopStrings::new(line.stop.as_ref().unwrap_or(&args.stop))?;
        let mut sampler = args.sampling.sampler_with(sampling(args, line))?;
        if let Some(constraint) = constraint {
            sampler = sampler.with_filter(constraint.clone());
        }
        let max_tokens = line.max_tokens.unwrap_or(args.max_tokens);
        let request = Request::new(prompt, sampler).max_tokens(max_tokens);
        let mut request = request.stop_at(args.stop_token.as_slice());
        request.ignore_eos = args.ignore_eos;
        request.adapters.extend(adapter.clone());
        Ok((request, stream, stops))
    }

    /// Adds a token; whether a stop string has come up.
    pub(super) fn push(&mut self, token: u32) -> Result<bool, TokenizerError> {
        self.tokens += 1;
        let decoded = self.stream.push(token)?.unwrap_or_default();
        self.text.push_str(self.stops.push(decoded));
        Ok(self.stops.stopped().is_some())
    }

    /// The answer, when no token follows.
    pub(super) fn answer(mut self, finish: Option<Finish>) -> String {
        let begun = self.stream.finish().unwrap_or_default();
        self.text.push_str(self.stops.push(begun));
        self.text.push_str(self.stops.finish());
        let stop_reason = match finish {
            _ if self.stops.stopped().is_some() => "stop_string",
            Some(Finish::StopToken(_)) => "stop_token",
            Some(Finish::MaxTokens) => "max_tokens",
            Some(Finish::ContextFull) => "context_full",
            _ => "end_of_sequence",
        };
        fields(&Answer {
            id: self.line.id.as_deref(),
            prompt: &self.line.prompt,
            text: &self.text,
            prompt_tokens: self.prompt_tokens,
            generated_tokens: self.tokens,
            stop_reason,
            stop_string: self.stops.stopped(),
            seed: self.seed,
        })
    }

    /// The answer to a request that failed.
    pub(super) fn refuse(self, error: &dyn Error) -> String {
        refusal(self.line.id, error)
    }
}

/// How a line's tokens are drawn.
fn sampling(args: &GenerateArgs, line: &Line) -> SamplerOptions {
    let options = args.sampling.options();
    SamplerOptions {
        temperature: line.temperature.unwrap_or(options.temperature),
        top_k: line.top_k.or(options.top_k),
        top_p: line.top_p.unwrap_or(options.top_p),
        min_p: line.min_p.unwrap_or(options.min_p),
        seed: line.seed.unwrap_or(options.seed),
        ..options
    }
}

/// An error with its causes, as an answer.
fn refusal(id: Option<Box<RawValue>>, error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    fields(&Refusal { id, error: text })
}

/// An object's fields with its closing brace.
fn fields(answer: &impl Serialize) -> String {
    let object = serde_json::to_string(answer).unwrap_or_default();
    object.strip_prefix('{').unwrap_or("}").to_owned()
}
