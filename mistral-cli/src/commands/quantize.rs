//! `mistral quantize`: a model in another format, ready to be computed with.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use indicatif::BinaryBytes;
use mistral_model::tokenizer::{TokenizerError, TokenizerFile};
use mistral_model::weights::GgufError;
use mistral_model::{ModelError, OpenOptions};

use super::print;
use crate::args::QuantizeArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::model::ModelSource;
use crate::output::WholeFolder;
use crate::progress::Progress;

pub(crate) fn run(args: &QuantizeArgs) -> Result<(), Failure> {
    let options = OpenOptions::new().weights(args.formats());
    let options = match args.window {
        Some(window) => options.window(window.0),
        None => options,
    };
    let start = Instant::now();
    let mut checkpoint = ModelSource::new(Some(&args.input)).checkpoint(options)?;
    if let Some(adapter) = args.adapter.open(checkpoint.config())? {
        checkpoint = checkpoint.with_adapter(adapter).map_err(ModelError::from)?;
    }
    let folder = WholeFolder::create(&args.out)?;
    let temporary = folder.temporary().to_owned();
    interrupt::clean_up_and_exit(move || {
        let _ = fs::remove_dir_all(&temporary);
    })?;

    folder.write("config.json", checkpoint.config().to_hf_json().as_bytes())?;
    let tokenizer = tokenizer(&args.input)?;
    if let Some((name, bytes)) = &tokenizer {
        folder.write(name, bytes)?;
    }
    let total = checkpoint.weight_bytes().unwrap_or(0) as u64;
    let progress = Progress::writing(total);
    let mut out = BufWriter::with_capacity(1 << 20, folder.file("model.safetensors")?);
    checkpoint.write(&mut out, |written| progress.reached(written.bytes))?;
    out.flush().map_err(|source| folder.failure(source))?;
    drop(progress);
    folder.commit()?;

    let read: u64 = checkpoint.tensors().map(|(_, info)| info.bytes).sum();
    let seconds = start.elapsed().as_secs_f64();
    let (read, total) = (BinaryBytes(read), BinaryBytes(total));
    let out = args.out.display();
    print(&format!("{out}: {total} of weights, from {read}, in {seconds:.1} s\n"))?;
    match tokenizer {
        Some(_) => Ok(()),
        None => print(&format!("{}: no tokenizer found, none written\n", args.input.display())),
    }
}

/// Name and bytes of a file with the model's tokenizer, if it has one.
fn tokenizer(model: &Path) -> Result<Option<(&'static str, Vec<u8>)>, Failure> {
    match TokenizerFile::find(model, None) {
        Ok(file) => copied(&file),
        Err(TokenizerError::NoFile { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same of a file that is there. A GGUF file may have none, or one of another kind of model.
fn copied(file: &TokenizerFile) -> Result<Option<(&'static str, Vec<u8>)>, Failure> {
    match file.copy() {
        Ok(copy) => Ok(Some(copy)),
        Err(TokenizerError::Gguf { path, source: source @ GgufError::OtherTokenizer { .. } }) => {
            // If nobody listens, nobody wants to know.
            let _ = writeln!(io::stderr(), "warning: {}: {source}", path.display());
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
