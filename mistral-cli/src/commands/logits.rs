//! `mistral logits`: the logits of every position, for comparing with another engine.

use std::fs;

use mistral_model::ModelError;

use crate::args::{LogitsArgs, TokensArgs};
use crate::failure::Failure;
use crate::input;
use crate::interrupt;
use crate::model::{self, ModelSource};
use crate::output::WholeFile;
use crate::progress::Progress;
use crate::token_list::TokenList;

pub(crate) fn run(args: &LogitsArgs) -> Result<(), Failure> {
    let ids = ids(&args.tokens)?;
    // Opened before the weights are read: a name that cannot be written is found at once.
    let mut out = WholeFile::create(&args.out)?;
    let temporary = out.temporary().to_owned();
    interrupt::clean_up_and_exit(move || {
        let _ = fs::remove_file(&temporary);
    })?;

    let options = args.compute.open.options();
    let checkpoint = ModelSource::new(args.model.as_deref()).checkpoint(options)?;
    let adapter = args.adapter.open(checkpoint.config())?;
    let model = model::load(&checkpoint)?;
    let options = args.compute.session(args.kv_dtype, ids.len());
    let mut session = model::session(&model, options, adapter)?;
    let progress = Progress::reading(ids.len(), session.options().max_chunk);
    out.write(&header(ids.len(), model.config().vocab_size))?;
    let mut bytes = Vec::new();
    session.logits_of_all(&ids, |first, logits| {
        bytes.clear();
        bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        progress.reached((first + logits.nrows()) as u64);
        out.write(&bytes)
    })?;
    out.commit()
}

fn ids(args: &TokensArgs) -> Result<Vec<u32>, Failure> {
    let list = match (&args.tokens, &args.tokens_file) {
        (Some(list), _) => list.clone(),
        (None, Some(path)) => input::file(path, input::TEXT)?.parse()?,
        // The command line requires one of the two.
        (None, None) => TokenList(Vec::new()),
    };
    if list.0.is_empty() {
        return Err(ModelError::EmptyPrompt.into());
    }
    Ok(list.0)
}

/// The beginning of a safetensors file with the one tensor `logits`, `(tokens, vocab_size)` f32.
///
/// Written by hand, because the crate's writer wants all bytes at once: 4 GB for 32k tokens of a
/// 7B model.
fn header(tokens: usize, vocab_size: usize) -> Vec<u8> {
    let bytes = tokens as u64 * vocab_size as u64 * size_of::<f32>() as u64;
    let mut json = format!(
        r#"{{"logits":{{"dtype":"F32","shape":[{tokens},{vocab_size}],"data_offsets":[0,{bytes}]}}}}"#
    );
    // The data begin at a multiple of 8.
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json.into_bytes());
    header
}
