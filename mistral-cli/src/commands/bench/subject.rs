//! What `mistral bench` measures.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use clap::ValueEnum;
use mistral_model::weights::Stored;
use mistral_model::{
    Checkpoint, Config, ModelError, OpenOptions, SessionOptions, Transformer, WeightFormat,
};

use crate::args::{BenchArgs, Preset};
use crate::failure::Failure;
use crate::memory;
use crate::model::{self, ModelSource};

/// What is measured: one model in one format, of which no weight is there yet.
pub(super) enum Subject {
    Random(Config, WeightFormat),
    /// In the format that was asked for, or as the files have it.
    Files(Checkpoint<'static>, Option<WeightFormat>),
}

impl Subject {
    /// One for each format that was asked for.
    pub(super) fn all(args: &BenchArgs) -> Result<Vec<Self>, Failure> {
        let Some(folder) = &args.model else {
            let config = shape(args)?;
            let formats = match args.weights.as_slice() {
                [] => &[WeightFormat::Q8_0],
                formats => formats,
            };
            return Ok(formats
                .iter()
                .map(|format| Self::Random(config.clone(), *format))
                .collect());
        };
        let source = ModelSource::new(Some(folder));
        let own = OpenOptions::new().mmap(args.mmap);
        let own = args.window.map_or(own, |window| own.window(window.0));
        let Some((first, others)) = args.weights.split_first() else {
            return Ok(vec![Self::Files(source.checkpoint(own)?, None)]);
        };
        // What the files leave open is told once.
        let first = Self::Files(source.checkpoint(own.weights(*first))?, Some(*first));
        let open = |format: &WeightFormat| {
            Ok(Self::Files(source.open(own.weights(*format))?, Some(*format)))
        };
        std::iter::once(Ok(first)).chain(others.iter().map(open)).collect()
    }

    fn config(&self) -> &Config {
        match self {
            Self::Random(config, _) => config,
            Self::Files(checkpoint, _) => checkpoint.config(),
        }
    }

    /// The format that most weights have.
    pub(super) fn format(&self) -> WeightFormat {
        match self {
            Self::Random(_, format) | Self::Files(_, Some(format)) => *format,
            Self::Files(checkpoint, None) => {
                let mut bytes = BTreeMap::new();
                for (_, tensor) in checkpoint.tensors() {
                    let format = match tensor.stored {
                        Stored::Rows(format) | Stored::Panels(format) => format,
                        Stored::Int8 => WeightFormat::Q8_0,
                        _ => WeightFormat::F32,
                    };
                    *bytes.entry(format).or_insert(0) += tensor.bytes;
                }
                let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
                most.map_or(WeightFormat::F32, |(format, _)| format)
            }
        }
    }

    /// Refuses sizes that are none, and sequences that are too long.
    pub(super) fn check(&self, args: &BenchArgs) -> Result<(), Failure> {
        let config = self.config();
        config.validate()?;
        if let Self::Random(config, format) = self
            && config.weight_bytes(*format).is_none()
        {
            return Err(Failure::Misfit { format: *format, block: format.block() });
        }
        // A batch goes on from round to round; a single sequence starts anew.
        let rounds = if args.batch.get() > 1 { args.repeat.get() } else { 1 };
        let tokens = args.prompt.get() + rounds * args.generated.get();
        let position = args.depth;
        match config.cache().limit() {
            Some(context_len) if position + tokens > context_len => {
                Err(ModelError::ContextFull { tokens, position, context_len }.into())
            }
            _ => self.check_memory(args, position + tokens),
        }
    }

    /// Refuses what does not fit into the memory that is free, where the system tells it.
    fn check_memory(&self, args: &BenchArgs, tokens: usize) -> Result<(), Failure> {
        let Some(available) = memory::available() else { return Ok(()) };
        let weights = match self {
            Self::Random(config, format) => config.weight_bytes(*format),
            // Panels stay in the file.
            Self::Files(checkpoint, None) if args.mmap && has_panels(checkpoint) => Some(0),
            Self::Files(checkpoint, _) => checkpoint.weight_bytes(),
        };
        let weights = weights.unwrap_or(usize::MAX) as u64;
        let [first, other] =
            sessions(args).map(|options| options.cache_bytes(self.config(), tokens));
        let others = (args.batch.get() as u64 - 1).saturating_mul(other? as u64);
        let cache = others.saturating_add(first? as u64);
        match weights.saturating_add(cache) <= available {
            true => Ok(()),
            false => Err(Failure::Memory { weights, cache, available }),
        }
    }

    pub(super) fn load(&self) -> Result<Transformer, Failure> {
        match self {
            Self::Random(config, format) => Ok(Transformer::random(config, *format, 1)?),
            Self::Files(checkpoint, _) => model::load(checkpoint),
        }
    }
}

/// How the sequence that is measured is kept, and how each of the others in its batch.
pub(super) fn sessions(args: &BenchArgs) -> [SessionOptions; 2] {
    let max_chunk = args.chunk.get().min(args.prompt.get().max(args.depth));
    let options = SessionOptions { kv_dtype: args.kv_dtype, max_chunk, ..Default::default() };
    // The others need a history too, and no room for a prompt.
    [options, SessionOptions { max_chunk: 64, ..options }]
}

fn has_panels(checkpoint: &Checkpoint<'_>) -> bool {
    checkpoint.tensors().any(|(_, tensor)| matches!(tensor.stored, Stored::Panels(_)))
}

/// Longest configuration that is read.
const LONGEST_CONFIG: u64 = 1 << 20;

/// All of a file, which may as well be a device without an end.
fn read_config(path: &Path) -> io::Result<String> {
    let mut json = String::new();
    File::open(path)?.take(LONGEST_CONFIG + 1).read_to_string(&mut json)?;
    if json.len() as u64 > LONGEST_CONFIG {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(json)
}

/// The configuration of random weights.
fn shape(args: &BenchArgs) -> Result<Config, Failure> {
    let config = match Preset::from_str(&args.shape, true) {
        Ok(preset) => preset.config(),
        Err(_) => {
            let path = Path::new(&args.shape);
            let json = read_config(path)
                .map_err(|source| Failure::Shape { found: args.shape.clone(), source })?;
            match Config::from_hf_json(&json) {
                Ok(config) => config,
                // The other kind of file; if it is neither, the first error tells more.
                Err(source) => Config::from_params_json(&json)
                    .map_err(|_| Failure::ShapeFile { found: args.shape.clone(), source })?,
            }
        }
    };
    let n_layers = args.layers.map_or(config.n_layers, usize::from);
    let config = Config { n_layers, ..config };
    Ok(match args.window {
        Some(window) => Config { window: window.0, layer_windows: Vec::new(), ..config },
        None => config,
    })
}
