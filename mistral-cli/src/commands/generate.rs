//! `mistral generate`: a prompt, and how the model goes on with it.

use std::io::{self, IsTerminal, Write};
use std::iter;
use std::time::{Duration, Instant};

use mistral_model::generate::{StopReason, StopStrings, TextGenerator};
use mistral_model::{ModelError, Sampler, Session, Tokenizer, Transformer};
use serde::Serialize;

use super::{print, print_json};
use crate::args::{GenerateArgs, TokenizerKind};
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
}

pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    // Everything that can be wrong with the options, before the weights are read.
    let sampler = Sampler::new(args.sampler())?;
    let stops = StopStrings::new(&args.stop)?;
    let prompt = args.prompt.as_deref().map(input::text).transpose()?;
    let source = ModelSource::new(args.model.as_deref());
    let tokenizer = source.tokenizer(args.tokenizer.map(TokenizerKind::format))?;
    let ids = model::encode(&tokenizer, prompt.as_deref().unwrap_or_default())?;
    if ids.is_empty() || prompt.as_deref() == Some("") {
        return Err(ModelError::EmptyPrompt.into());
    }

    let prompt = prompt.unwrap_or_default();

    let model = source.load(args.compute.open.options())?;
    let mut session = Session::new(&model, args.compute.session(args.kv_dtype, ids.len()))?;
    let prefill = prefill(&mut session, &ids)?;
    // Only now: until here Ctrl-C ends the process, as nothing has been written.
    let interrupt = Interrupt::listen()?;
    if !args.json {
        print(&prompt)?;
    }
    let writer = Writer { args, tokenizer: &tokenizer, interrupt: &interrupt };
    let written = writer.write(&mut session, &ids, sampler, stops)?;

    let report = Report {
        prompt: &prompt,
        text: written.text,
        prompt_tokens: ids.len(),
        generated_tokens: written.tokens,
        stop_reason: written.stop_reason,
        stop_string: written.stop_string,
        seed: args.seed,
        prefill_tokens_per_second: rate(ids.len(), prefill),
        decode_tokens_per_second: rate(written.tokens, written.time),
    };
    if args.json {
        print_json(&report)?;
    } else {
        print("\n")?;
    }
    report.note();
    Ok(())
}

/// Appends the prompt, and tells how long that took.
fn prefill(session: &mut Session<&Transformer>, ids: &[u32]) -> Result<Duration, Failure> {
    let progress = Progress::reading(ids.len(), session.options().max_chunk);
    let start = Instant::now();
    session.prefill_with(ids, |done| progress.reached(done as u64))?;
    Ok(start.elapsed())
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
    tokens: usize,
    stop_reason: &'static str,
    stop_string: Option<String>,
    time: Duration,
}

impl Writer<'_> {
    /// Goes on with the prompt in `session`, showing the text as it comes.
    fn write(
        &self,
        session: &mut Session<&Transformer>,
        prompt: &[u32],
        sampler: Sampler,
        stops: StopStrings,
    ) -> Result<Written, Failure> {
        // The last token is shown and never appended, so one more fits than there is room for.
        let room = session.remaining().map_or(usize::MAX, |room| room.saturating_add(1));
        let limit = self.args.max_tokens.min(room);
        let mut tokens = session.generate_more(sampler)?;
        if self.args.ignore_eos {
            tokens = tokens.ignore_eos();
        }
        // Ends the tokens, and not the text: what is held back still comes out.
        let tokens = iter::from_fn(|| if self.interrupt.pressed() { None } else { tokens.next() });
        let mut pieces =
            TextGenerator::new(tokens, self.tokenizer, stops).after(prompt)?.max_tokens(limit);

        let start = Instant::now();
        let mut text = String::new();
        for piece in pieces.by_ref() {
            let piece = piece?;
            if self.args.json {
                text.push_str(&piece);
            } else {
                print(&piece)?;
            }
        }
        let time = start.elapsed();
        let (stop_reason, stop_string) = match pieces.reason() {
            Some(StopReason::StopString(stop)) => ("stop_string", Some(stop.clone())),
            Some(StopReason::Exhausted) if limit < self.args.max_tokens => ("context_full", None),
            Some(StopReason::Exhausted) => ("max_tokens", None),
            _ if self.interrupt.pressed() => ("interrupted", None),
            _ => ("end_of_sequence", None),
        };
        Ok(Written { text, tokens: pieces.tokens_used(), stop_reason, stop_string, time })
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
