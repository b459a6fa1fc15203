//! `mistral generate --batch`: many prompts, one pass over the weights for all of them.

use std::collections::HashMap;
use std::path::Path;

use mistral_model::generate::StopStrings;
use mistral_model::scheduler::{Progress, RequestId};
use mistral_model::{Adapter, Checkpoint, ModelError, Scheduler, SchedulerOptions, Transformer};

use super::journal::{Journal, digest};
use super::line::{Settings, Text};
use super::queue::Queue;
use super::tokens;
use crate::args::{Form, GenerateArgs};
use crate::failure::Failure;
use crate::model::{self, ModelSource};
use crate::{input, progress};

/// Lines that may have gone out before the first one is written, for each that is answered at a
/// time: so many answers wait behind a slow line at most, and nothing waits for it before.
const AHEAD: usize = 64;

pub(super) fn run(args: &GenerateArgs, batch: &Path, out: &Path) -> Result<(), Failure> {
    // What is wrong with the options is wrong with every line.
    args.sampling.sampler()?;
    StopStrings::new(&args.stop)?;
    let lines = input::lines(batch)?;
    let form = args.constraint.read()?;
    let source = ModelSource::new(args.model.as_deref());
    let tokenizer = source.tokenizer(args.tokenizer.format())?;
    super::check_tokens(args, &tokenizer)?;
    let checkpoint = source.checkpoint(args.compute.open.options())?;
    let constraint = form.constraint(&tokenizer, &checkpoint.config().eos_tokens)?;
    let adapter = args.adapter.open(checkpoint.config())?;

    // Of the files alone: whether there is anything to do is known before the weights are read.
    let contents = checkpoint.fingerprint()?;
    let asked = settings(args, &form, contents, &checkpoint, adapter.as_deref())?;
    let digests: Vec<u64> = lines.iter().map(|line| digest(&[asked.as_bytes(), line])).collect();
    let mut journal = Journal::open(out, &digests)?;
    if journal.lines() == lines.len() {
        return Ok(());
    }
    let model = model::load(&checkpoint)?;
    if model.fingerprint()? != contents {
        return Err(Failure::ModelChanged);
    }
    let options = SchedulerOptions {
        session: tokens::session_options(args, usize::MAX),
        max_running: args.parallel.get(),
        ..SchedulerOptions::default()
    };
    let mut work = Work {
        settings: Settings { args, tokenizer: &tokenizer, constraint, adapter },
        scheduler: Scheduler::new(&model, options)?,
        queue: Queue::new(&lines, journal.lines(), args.parallel.get() * AHEAD),
        texts: HashMap::new(),
    };
    let bar = progress::Progress::answering(lines.len());
    while let Some(digest) = digests.get(journal.lines()) {
        bar.reached(journal.lines() as u64);
        match work.queue.take() {
            Some(answer) => journal.write(*digest, &answer)?,
            None => work.step()?,
        }
    }
    Ok(())
}

/// What an answer depends on beside its line. Where files lie does not count, only what they hold.
fn settings(
    args: &GenerateArgs,
    form: &Form,
    contents: [u8; 32],
    checkpoint: &Checkpoint<'_>,
    adapter: Option<&Adapter>,
) -> Result<String, ModelError> {
    let numbers = (contents, adapter.map(Adapter::fingerprint).transpose()?);
    let ends = (args.max_tokens, &args.stop, &args.stop_token, args.ignore_eos);
    let settings =
        (checkpoint.config(), &args.tokenizer, args.sinks, args.kv_dtype, &args.sampling);
    Ok(format!("{numbers:?} {settings:?} {form:?} {ends:?}"))
}

/// The requests on their way.
struct Work<'a> {
    settings: Settings<'a>,
    scheduler: Scheduler<&'a Transformer>,
    queue: Queue<'a>,
    texts: HashMap<RequestId, Text<'a>>,
}

impl Work<'_> {
    /// Submits what there is room for, and moves all requests on.
    fn step(&mut self) -> Result<(), Failure> {
        while self.texts.len() < self.settings.args.parallel.get()
            && let Some((index, line)) = self.queue.line()
        {
            self.submit(index, line);
        }
        for event in self.scheduler.step()? {
            let Some(mut text) = self.texts.remove(&event.request) else {
                continue;
            };
            let index = text.index;
            let answer = match event.progress {
                Progress::Token(token) => match text.push(token) {
                    Ok(false) => {
                        self.texts.insert(event.request, text);
                        continue;
                    }
                    Ok(true) => {
                        self.scheduler.cancel(event.request);
                        text.answer(None)
                    }
                    Err(error) => {
                        self.scheduler.cancel(event.request);
                        text.refuse(&error)
                    }
                },
                Progress::Finished(finish) => text.answer(Some(finish)),
                Progress::Failed(error) => text.refuse(&error),
            };
            self.queue.answer(index, answer);
        }
        Ok(())
    }

    fn submit(&mut self, index: usize, line: &[u8]) {
        let answer = match Text::read(&self.settings, index, line) {
            Err(refusal) => refusal,
            Ok((text, request)) => match self.scheduler.submit(request) {
                Err(error) => text.refuse(&error),
                Ok(id) => {
                    self.texts.insert(id, text);
                    return;
                }
            },
        };
        self.queue.answer(index, answer);
    }
}
