//! `mistral moderate`: a model's verdict on a text.

use std::collections::BTreeMap;

use mistral_model::chat::{Subject, Verdict, moderate};
use serde::Serialize;

use super::{print, print_json};
use crate::args::ModerateArgs;
use crate::failure::Failure;
use crate::input;
use crate::model::{self, ModelSource};
use crate::template;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    verdict: &'static str,
    probabilities: BTreeMap<&'static str, f64>,
    share: f64,
}

pub(crate) fn run(args: &ModerateArgs) -> Result<(), Failure> {
    let text = input::text(&args.text)?;
    let source = ModelSource::new(args.model.as_deref());
    let tokenizer = source.tokenizer(args.tokenizer.format())?;
    let format = template::format(&tokenizer, args.model.as_deref(), args.template.template)?;
    let subject = match &args.prompt {
        Some(prompt) => Subject::Answer { prompt, answer: &text },
        None => Subject::Prompt(&text),
    };
    let checkpoint = source.checkpoint(args.compute.open.options())?;
    let adapter = args.adapter.open(checkpoint.config())?;
    let model = model::load(&checkpoint)?;
    let options = args.compute.session(args.kv_dtype, usize::MAX);
    let mut session = model::session(&model, options, adapter)?;
    let found = moderate(&*format, &mut session, subject, args.min_share)?;
    if !args.json {
        return print(&format!("{}\n", found.verdict));
    }
    let probabilities = Verdict::ALL.map(|verdict| (verdict.name(), found.probability(verdict)));
    print_json(&Report {
        verdict: found.verdict.name(),
        probabilities: probabilities.into(),
        share: found.share(),
    })
}
