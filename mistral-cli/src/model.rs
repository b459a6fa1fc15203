//! Where a model comes from: a folder, a GGUF file, or the program itself.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use mistral_model::tokenizer::{TokenizerFile, TokenizerFormat};
use mistral_model::weights::WeightsError;
use mistral_model::{
    Adapter, Checkpoint, ModelError, OpenOptions, Session, SessionOptions, Tokenizer, Transformer,
};

use crate::demo;
use crate::failure::Failure;
use crate::progress::Progress;

/// A model that has not been read yet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ModelSource<'a> {
    Demo,
    Folder(&'a Path),
}

impl<'a> ModelSource<'a> {
    /// The folder that was named, or else the demo model.
    pub(crate) fn new(folder: Option<&'a Path>) -> Self {
        folder.map_or(Self::Demo, Self::Folder)
    }

    /// The model, once its files are checked.
    pub(crate) fn load(self, options: OpenOptions) -> Result<Transformer, Failure> {
        load(&self.checkpoint(options)?)
    }

    /// The checked files; what they leave open is told.
    pub(crate) fn checkpoint(self, options: OpenOptions) -> Result<Checkpoint<'static>, Failure> {
        let checkpoint = self.open(options)?;
        for warning in checkpoint.warnings() {
            // If nobody listens, nobody wants to know.
            let _ =
                writeln!(io::stderr(), "warning: {warning}; use --window 4096 or --window none");
        }
        Ok(checkpoint)
    }

    /// The checked files, in silence: for those that were opened before.
    pub(crate) fn open(self, options: OpenOptions) -> Result<Checkpoint<'static>, Failure> {
        let opened: Result<_, WeightsError> = match self {
            Self::Demo => demo::checkpoint(options),
            Self::Folder(folder) => Checkpoint::open_with(folder, options),
        };
        Ok(opened.map_err(ModelError::from)?)
    }

    /// The tokenizer, from a file of this format if the folder has several. The demo model has one.
    pub(crate) fn tokenizer(self, format: Option<TokenizerFormat>) -> Result<Tokenizer, Failure> {
        Ok(match self {
            Self::Demo => demo::tokenizer()?,
            Self::Folder(folder) => TokenizerFile::find(folder, format)?.open()?,
        })
    }
}

/// Reads the weights of an open checkpoint, and shows how far it has come.
pub(crate) fn load(checkpoint: &Checkpoint<'_>) -> Result<Transformer, Failure> {
    let bytes = checkpoint.tensors().map(|(_, info)| info.bytes).sum();
    let progress = Progress::loading(bytes);
    Ok(checkpoint.load_with(|loaded| progress.reached(loaded.bytes))?)
}

/// An empty session of a model, with an adapter if there is one.
pub(crate) fn session(
    model: &Transformer,
    options: SessionOptions,
    adapter: Option<Arc<Adapter>>,
) -> Result<Session<&Transformer>, ModelError> {
    let session = Session::new(model, options)?;
    match adapter {
        Some(adapter) => session.with_adapter(adapter),
        None => Ok(session),
    }
}

/// The ids of a text that starts a sequence.
///
/// A tokenizer without a piece for the start gives those of the text alone.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Failure> {
    Ok(match tokenizer.bos_token() {
        Some(_) => tokenizer.encode(text)?,
        None => tokenizer.encode_without_bos(text)?,
    })
}
