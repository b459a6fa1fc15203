//! `mistral score`: how likely continuations are, and which choice a model takes.

use std::io::{self, Write};
use std::path::Path;

use mistral_model::score::{Choices, LogLikelihood, Scorer, TokenPair};
use mistral_model::{SessionOptions, Tokenizer, Transformer};
use serde::Serialize;

use super::print;
use crate::args::ScoreArgs;
use crate::failure::Failure;
use crate::input;
use crate::model::{self, ModelSource};
use crate::progress::Progress;
use crate::requests::{Kind, Request};

/// Requests that are scored together: enough to find much in common, few enough to show progress.
const TOGETHER: usize = 64;

/// A line of output for one continuation.
#[derive(Debug, Serialize)]
struct Continuation {
    log_likelihood: f64,
    tokens: usize,
    greedy: bool,
    per_token: Vec<f64>,
}

/// A line of output for choices.
#[derive(Debug, Serialize)]
struct Question {
    log_likelihoods: Vec<f64>,
    tokens: Vec<usize>,
    greedy: Vec<bool>,
    best: usize,
    best_per_character: usize,
    best_per_byte: usize,
    #[serde(flatten)]
    marks: Option<Marks>,
}

/// Whether the choices taken are right: 1 or 0, by the names that harnesses have for the averages.
#[derive(Debug, Clone, Copy, Serialize)]
struct Marks {
    answer: usize,
    acc: u8,
    acc_norm: u8,
    acc_bytes: u8,
}

pub(crate) fn run(args: &ScoreArgs) -> Result<(), Failure> {
    let requests = requests(args)?;
    let source = ModelSource::new(args.model.as_deref());
    let tokenizer = source.tokenizer(args.tokenizer.format())?;
    let mut pairs = requests
        .iter()
        .map(|request| pairs(request, &tokenizer, &args.delimiter))
        .collect::<Result<Vec<_>, Failure>>()?;
    let checkpoint = source.checkpoint(args.compute.open.options())?;
    let adapter = args.adapter.open(checkpoint.config())?;
    let model = model::load(&checkpoint)?;
    let options = SessionOptions {
        kv_dtype: args.kv_dtype,
        max_chunk: args.compute.chunk.get(),
        ..Default::default()
    };
    let mut scorer = Scorer::new(model::session(&model, options, adapter)?)?;
    if let Some(longest) = scorer.longest().filter(|_| args.truncate) {
        pairs.iter_mut().flatten().for_each(|pair| pair.keep_last(longest));
    }
    if let Some(file) = &args.file {
        check(&scorer, &pairs, file)?;
    }

    let progress = Progress::scoring_requests(requests.len());
    let mut summary = Summary::default();
    let groups = requests.chunks(TOGETHER).zip(pairs.chunks(TOGETHER));
    for (done, (requests, pairs)) in groups.enumerate() {
        let lines = group(&mut scorer, requests, pairs, &mut summary)?;
        print(&lines)?;
        progress.reached((done * TOGETHER + requests.len()) as u64);
    }
    drop(progress);
    if args.file.is_some() {
        summary.show();
    }
    Ok(())
}

/// What is asked for, all of it well formed.
fn requests(args: &ScoreArgs) -> Result<Vec<Request>, Failure> {
    let Some(path) = &args.file else {
        let context = args.context.clone().unwrap_or_default();
        return Ok(vec![Request::new(context, args.continuations.clone())]);
    };
    let requests = input::lines(path)?.into_iter().enumerate().map(|(index, line)| {
        Request::from_json(&line).map_err(|source| Failure::Request {
            name: input::name(path),
            line: index + 1,
            source,
        })
    });
    requests.collect()
}

/// The tokens of a request: a pair for each continuation.
fn pairs(
    request: &Request,
    tokenizer: &Tokenizer,
    delimiter: &str,
) -> Result<Vec<TokenPair>, Failure> {
    let delimiter = if request.kind == Kind::Continuation { "" } else { delimiter };
    let pairs = request.continuations.iter().map(|continuation| {
        Ok(TokenPair::encode(tokenizer, &request.context, &[delimiter, continuation].concat())?)
    });
    pairs.collect()
}

/// Refuses a file with a request that cannot be scored, before anything is printed.
fn check(
    scorer: &Scorer<&Transformer>,
    pairs: &[Vec<TokenPair>],
    file: &Path,
) -> Result<(), Failure> {
    for (index, pairs) in pairs.iter().enumerate() {
        for pair in pairs {
            scorer.check(pair).map_err(|source| Failure::Unscorable {
                name: input::name(file),
                line: index + 1,
                source: Box::new(source),
            })?;
        }
    }
    Ok(())
}

/// Scores some requests together: a line for each.
fn group(
    scorer: &mut Scorer<&Transformer>,
    requests: &[Request],
    pairs: &[Vec<TokenPair>],
    summary: &mut Summary,
) -> Result<String, Failure> {
    let mut scores = scorer.log_likelihoods(&pairs.concat())?.into_iter();
    let mut lines = String::new();
    for request in requests {
        let found: Vec<_> = scores.by_ref().take(request.continuations.len()).collect();
        match request.kind {
            Kind::Continuation => {
                for found in found {
                    summary.continuation(&found);
                    append(&mut lines, &Continuation::from(found))?;
                }
            }
            Kind::Choices { answer } => {
                let question = Question::new(&Choices::new(&request.continuations, found)?, answer);
                summary.question(&question);
                append(&mut lines, &question)?;
            }
        }
    }
    Ok(lines)
}

/// Appends a line of JSON.
fn append(lines: &mut String, value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(value).map_err(io::Error::from);
    lines.push_str(&json.map_err(|source| Failure::Stdout { source })?);
    lines.push('\n');
    Ok(())
}

impl From<LogLikelihood> for Continuation {
    fn from(found: LogLikelihood) -> Self {
        Self {
            log_likelihood: found.sum,
            tokens: found.tokens(),
            greedy: found.greedy,
            per_token: found.per_token,
        }
    }
}

impl Question {
    fn new(choices: &Choices, answer: Option<usize>) -> Self {
        let found = choices.likelihoods();
        let best = choices.best();
        let best_per_character = choices.best_per_character();
        let best_per_byte = choices.best_per_byte();
        let marks = answer.map(|answer| Marks {
            answer,
            acc: (best == answer).into(),
            acc_norm: (best_per_character == answer).into(),
            acc_bytes: (best_per_byte == answer).into(),
        });
        Self {
            log_likelihoods: found.iter().map(|found| found.sum).collect(),
            tokens: found.iter().map(LogLikelihood::tokens).collect(),
            greedy: found.iter().map(|found| found.greedy).collect(),
            best,
            best_per_character,
            best_per_byte,
            marks,
        }
    }
}

/// What a whole file came to.
#[derive(Debug, Default)]
struct Summary {
    questions: usize,
    /// Of questions with an answer: how many there are, and how many were right in each way.
    answered: usize,
    right: [usize; 3],
    continuations: usize,
    greedy: usize,
    log_likelihood: f64,
}

impl Summary {
    fn continuation(&mut self, found: &LogLikelihood) {
        self.continuations += 1;
        self.greedy += usize::from(found.greedy);
        self.log_likelihood += found.sum;
    }

    fn question(&mut self, question: &Question) {
        self.questions += 1;
        if let Some(Marks { acc, acc_norm, acc_bytes, .. }) = question.marks {
            self.answered += 1;
            for (right, mark) in self.right.iter_mut().zip([acc, acc_norm, acc_bytes]) {
                *right += usize::from(mark);
            }
        }
    }

    /// The last lines, for whoever watches.
    fn show(&self) {
        let mut text = String::new();
        if self.continuations > 0 {
            let share = |x| x / self.continuations as f64;
            text.push_str(&format!(
                "continuations: {}, greedy {:.4}, mean log-likelihood {:.4}\n",
                self.continuations,
                share(self.greedy as f64),
                share(self.log_likelihood),
            ));
        }
        if self.answered > 0 {
            let [acc, norm, bytes] = self.right.map(|n| n as f64 / self.answered as f64);
            text.push_str(&format!(
                "questions: {}, with an answer: {}, acc {acc:.4}, acc_norm {norm:.4}, acc_bytes \
                 {bytes:.4}\n",
                self.questions, self.answered
            ));
        }
        // If nobody listens any more, nothing is lost.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
