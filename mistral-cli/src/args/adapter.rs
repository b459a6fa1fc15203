//! The argument for an adapter.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mistral_model::{Adapter, Config, ModelError};

use crate::failure::Failure;

/// A low-rank adapter for the model.
#[derive(Debug, Args)]
pub(crate) struct AdapterArgs {
    /// Folder of a LoRA adapter for the model
    ///
    /// Holds adapter_config.json and adapter_model.safetensors, as peft writes them, or the
    /// lora.safetensors of mistral-finetune.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
}

impl AdapterArgs {
    /// The adapter that was named, for a model.
    pub(crate) fn open(&self, config: &Config) -> Result<Option<Arc<Adapter>>, Failure> {
        let open = |path: &PathBuf| Adapter::open(path, config).map(Arc::new);
        Ok(self.adapter.as_ref().map(open).transpose().map_err(ModelError::from)?)
    }
}
