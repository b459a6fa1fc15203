//! `mistral generate`: a prompt, and how the model goes on with it.

mod batch;
mod journal;
mod line;
mod log_probs;
mod queue;
mod tokens;

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::iter;
use std::time::{Duration, Instant};

use mistral_model::generate::{Drafter, StopReason, StopStrings, TextGenerator, TokenLogProbs};
use mistral_model::{ModelError, Sampler, Session, Tokenizer, Transformer};
use serde::Serialize;

use self::log_probs::TokenReport;
use self::tokens::Tokens;
use super::{print, print_json, print_json_line};
use crate::args::GenerateArgs;
use crate::failure::Failure;
use crate::input;
use crate::interrupt::Interrupt;
use crate::model::{self, ModelSource};
use crate::progress::Progress;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    prompt: &'a str,
    text: String,
    prompt_tokens: usize,
    generated_tokens: usize,
    stop_reason: &'static str,
    stop_string: Option<String>,
    seed: u64,
    /// `null` where there was nothing to measure.
    prefill_tokens_per_second: Option<f64>,
    decode_tokens_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Vec<TokenReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<TokenReport>>,
}

pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    if let (Some(input), Some(out)) = (&args.batch, &args.out) {
        return batch::run(args, input, out);
    }
    // Everything that can be wrong with the options, before the weights are read.
    let mut sampler = args.sampling.sampler()?;
    let stops = StopStrings::new(&args.stop)?;
    let prompt = args.prompt.as_deref().map(input::text).transpose()?;
    let source = ModelSource::new(args.model.as_deref());
    let tokenizer = source.tokenizer(args.tokenizer.format())?;
    check_tokens(args, &tokenizer)?;
    let ids = model::encode(&tokenizer, prompt.as_deref().unwrap_or_default())?;
    if ids.is_empty() || prompt.as_deref() == Some("") {
        return Err(ModelError::EmptyPrompt.into());
    }
    let prompt = prompt.unwrap_or_default();
    let form = args.constraint.read()?;
    let checkpoint = source.checkpoint(args.compute.open.options())?;
    if let Some(constraint) = form.constraint(&tokenizer, &checkpoint.config().eos_tokens)? {
        sampler = sampler.with_filter(constraint);
    }

    let adapter = args.adapter.open(checkpoint.config())?;
    let model = model::load(&checkpoint)?;
    let options = tokens::session_options(args, ids.len());
    let mut session = model::session(&model, options, adapter)?;
    let drafter = tokens::drafter(args, session.options())?;
    let (prompt_logprobs, prefill) = prefill(args, &tokenizer, &mut session, &ids)?;
    sampler.observe(&ids);
    // Only now: until here Ctrl-C ends the process, as nothing has been written.
    let interrupt = Interrupt::listen()?;
    let show_prompt = || match &prompt_logprobs {
        _ if args.json => Ok(()),
        Some(tokens) => tokens.iter().try_for_each(print_json_line),
        None if args.logprobs.is_none() => print(&prompt),
        None => Ok(()),
    };
    let writer = Writer { args, tokenizer: &tokenizer, interrupt: &interrupt };
    let written = writer.write((&mut session, &ids), (sampler, drafter), stops, show_prompt)?;

    let report = Report {
        prompt: &prompt,
        text: written.text,
        prompt_tokens: ids.len(),
        generated_tokens: written.tokens,
        stop_reason: written.stop_reason,
        stop_string: written.stop_string,
        seed: args.sampling.seed,
        prefill_tokens_per_second: rate(ids.len(), prefill),
        decode_tokens_per_second: rate(written.tokens, written.time),
        prompt_logprobs,
        logprobs: args.logprobs.map(|_| written.logprobs),
    };
    if args.json {
        print_json(&report)?;
    } else if args.logprobs.is_none() {
        print("\n")?;
    }
    report.note();
    Ok(())
}

/// Ids among the options that the vocabulary lacks would do nothing, or fail late.
fn check_tokens(args: &GenerateArgs, tokenizer: &Tokenizer) -> Result<(), Failure> {
    let stops = args.stop_token.iter().map(|token| ("--stop-token", *token));
    let biases = args.sampling.biased().map(|token| ("--logit-bias", token));
    match stops.chain(biases).find(|(_, token)| tokenizer.piece(*token).is_none()) {
        Some((option, token)) => {
            Err(Failure::NoSuchToken { option, token, vocab_size: tokenizer.vocab_size() })
        }
        None => Ok(()),
    }
}

/// Appends the prompt, and tells how likely its tokens were, if asked, and how long it took.
fn prefill(
    args: &GenerateArgs,
    tokenizer: &Tokenizer,
    session: &mut Session<&Transformer>,
    ids: &[u32],
) -> Result<(Option<Vec<TokenReport>>, Duration), Failure> {
    let start = Instant::now();
    let top = args.logprobs.filter(|_| args.prompt_logprobs);
    let Some(top) = top else {
        let progress = Progress::reading(ids.len(), session.options().max_chunk);
        session.prefill_with(ids, |done| progress.reached(done as u64))?;
        return Ok((None, start.elapsed()));
    };
    let found = session.log_probs_of(ids, top)?;
    let time = start.elapsed();
    let reports = ids.iter().zip(&found).map(|(id, found)| match found {
        Some(found) => TokenReport::new(tokenizer, found),
        None => TokenReport::first(tokenizer, *id),
    });
    Ok((Some(reports.collect()), time))
}

/// What the model is to write, and for whom.
struct Writer<'a> {
    args: &'a GenerateArgs,
    tokenizer: &'a Tokenizer,
    interrupt: &'a Interrupt,
}

/// What the model has written.
struct Written {
    text: String,
    /// Of every token taken from the model, those of a stop string included.
    logprobs: Vec<TokenReport>,
    tokens: usize,
    stop_reason: &'static str,
    stop_string: Option<String>,
    time: Duration,
}

impl Writer<'_> {
    /// Goes on with the prompt in `session`, showing it and the text as it comes.
    fn write(
        &self,
        (session, prompt): (&mut Session<&Transformer>, &[u32]),
        (sampler, drafter): (Sampler, Option<Box<dyn Drafter>>),
        stops: StopStrings,
        show_prompt: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Written, Failure> {
        // The last token is shown and never appended, so one more fits than there is room for.
        let room = session.remaining().map_or(usize::MAX, |room| room.saturating_add(1));
        let limit = self.args.max_tokens.min(room);
        let told = RefCell::new(Vec::new());
        let mut tokens: Box<dyn Iterator<Item = _>> = match self.args.logprobs {
            None => Box::new(Tokens::new(self.args, session, sampler, drafter)?),
            Some(top) => {
                let tokens = session.generate_more(sampler)?;
                let tokens = if self.args.ignore_eos { tokens.ignore_eos() } else { tokens };
                Box::new(tokens.log_probs(top).map(|token| {
                    token.map(|token| {
                        let id = token.token;
                        told.borrow_mut().push(token);
                        id
                    })
                }))
            }
        };
        // Ends the tokens, and not the text: what is held back still comes out.
        let tokens = iter::from_fn(|| if self.interrupt.pressed() { None } else { tokens.next() });
        let mut pieces = TextGenerator::new(tokens, self.tokenizer, stops)
            .after(prompt)?
            .stop_tokens(self.args.stop_token.iter().copied())
            .max_tokens(limit);
        // Nothing can be wrong any more.
        show_prompt()?;

        let start = Instant::now();
        let mut text = String::new();
        let mut logprobs = Vec::new();
        while let Some(piece) = pieces.next().transpose()? {
            logprobs.extend(self.report(told.take())?);
            match self.args {
                GenerateArgs { json: true, .. } => text.push_str(&piece),
                GenerateArgs { logprobs: None, .. } => print(&piece)?,
                _ => {}
            }
        }
        logprobs.extend(self.report(told.take())?);
        let time = start.elapsed();
        let (stop_reason, stop_string) = match pieces.reason() {
            Some(StopReason::StopString(stop)) => ("stop_string", Some(stop.clone())),
            Some(StopReason::StopToken(_)) => ("stop_token", None),
            Some(StopReason::Exhausted) if limit < self.args.max_tokens => ("context_full", None),
            Some(StopReason::Exhausted) => ("max_tokens", None),
            _ if self.interrupt.pressed() => ("interrupted", None),
            _ => ("end_of_sequence", None),
        };
        let tokens = pieces.tokens_used();
        Ok(Written { text, logprobs, tokens, stop_reason, stop_string, time })
    }

    /// Shows tokens that have come, or keeps them for the report.
    fn report(&self, tokens: Vec<TokenLogProbs>) -> Result<Vec<TokenReport>, Failure> {
        let reports = tokens.iter().map(|token| TokenReport::new(self.tokenizer, token));
        if self.args.json {
            return Ok(reports.collect());
        }
        reports.into_iter().try_for_each(|report| print_json_line(&report))?;
        Ok(Vec::new())
    }
}

impl Report<'_> {
    /// A last line for a person who watches.
    fn note(&self) {
        if !io::stderr().is_terminal() {
            return;
        }
        let speed = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |r| format!("{r:.1}"));
        // If nobody listens any more, nothing is lost.
        let _ = writeln!(
            io::stderr(),
            "{} prompt tokens ({} a second), {} written ({} a second), {}",
            self.prompt_tokens,
            speed(self.prefill_tokens_per_second),
            self.generated_tokens,
            speed(self.decode_tokens_per_second),
            self.stop_reason,
        );
    }
}

/// Tokens a second; `None` for no tokens, or no time.
fn rate(tokens: usize, time: Duration) -> Option<f64> {
    let rate = tokens as f64 / time.as_secs_f64();
    (tokens > 0 && rate.is_finite()).then_some(rate)
}
