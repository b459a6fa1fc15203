//! Checkpoints: from files in a folder, or bytes in memory, to a [`Transformer`].
//!
//! What is here: [`Checkpoint`], which finds the files, reads their tables of contents and holds
//! them against the configuration. What is not: anything about what the numbers mean. Names are in
//! `names.rs`, the file format in `archive.rs`, the reading of numbers in `load.rs`, adapters in
//! `adapter/` and `merge.rs`.

mod adapter;
mod archive;
mod error;
mod fingerprint;
mod formats;
pub(crate) mod gguf;
mod load;
mod merge;
#[cfg(feature = "mmap")]
mod mmap;
mod names;
mod options;
mod panels;
mod problem;
mod save;
pub(crate) mod shown;
mod tensor;
mod warning;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use mistral_core::WeightFormat;
use serde::Deserialize;

pub use adapter::{Adapter, AdapterError, AdapterProblem};
pub use error::{ArchiveError, TensorProblem, WeightsError};
pub use formats::WeightFormats;
pub use gguf::GgufError;
pub use names::Naming;
pub use options::OpenOptions;
pub use tensor::{Stored, TensorInfo};
pub use warning::Warning;

use self::archive::{Archive, io_error};
use self::names::{Expected, Field, expected};
use self::problem::{problem_of, scale_name};
use crate::config::{Config, ConfigError};
use crate::error::ModelError;
use crate::low_rank::Target;
use crate::transformer::Transformer;

/// Longest `config.json`, `params.json` or index that is read.
const LONGEST_JSON: u64 = 16 << 20;
/// Weights of a row that share a scale in 8-bit files.
const GROUP: usize = 32;

/// The files of a model: configuration and tables of contents, checked against each other. No
/// weight has been read yet.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    config: Config,
    archives: Vec<Archive<'a>>,
    /// Each tensor of the model, in the order of loading, and the archive that holds it.
    tensors: Vec<(Expected, usize)>,
    formats: Option<WeightFormats>,
    /// Merged into the weights while they are read.
    adapters: Vec<Arc<Adapter>>,
    warnings: Vec<Warning>,
}

/// How far loading has come.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LoadProgress<'a> {
    /// The tensor that was loaded last.
    pub tensor: &'a str,
    /// Bytes read so far.
    pub bytes: u64,
    /// Bytes to read in all.
    pub total: u64,
}

impl Checkpoint<'static> {
    /// Opens a folder, or a GGUF file, with ordinary reads.
    ///
    /// | files | what they are |
    /// |---|---|
    /// | `*.gguf`, named itself or the only one in the folder | what converters make for llama.cpp |
    /// | `config.json`, `model.safetensors` | Hugging Face's format |
    /// | `config.json`, `model.safetensors.index.json`, shards | the same in several files |
    /// | `params.json`, `consolidated.safetensors` | Mistral's own format |
    ///
    /// A folder with several of them is read as the first in the order `config.json`, `params.json`,
    /// GGUF.
    ///
    /// # Errors
    ///
    /// [`WeightsError`]: files that are missing, damaged or do not fit each other. Everything that
    /// is wrong with the tensors is listed at once.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, WeightsError> {
        Self::open_with(folder, OpenOptions::new())
    }

    /// [`open`](Self::open) with options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, WeightsError> {
        let folder = path.as_ref();
        if is_gguf(folder) {
            return Self::open_gguf(folder, options);
        }
        let there = |name: &str| folder.join(name).is_file();
        let config = |name: &str, parse: fn(&str) -> Result<Config, ConfigError>| {
            let path = folder.join(name);
            let json = read_json(&path)?;
            parse(&json).map_err(|source| WeightsError::Config { path, source })
        };
        if there("config.json") && there("model.safetensors.index.json") {
            let config = config("config.json", Config::from_hf_json)?;
            let (archives, problems) = open_shards(folder, options)?;
            Self::check(config, Naming::HuggingFace, (archives, problems), options)
        } else if there("config.json") && there("model.safetensors") {
            let config = config("config.json", Config::from_hf_json)?;
            let archive = Archive::open(&folder.join("model.safetensors"), options)?;
            Self::check(config, Naming::HuggingFace, (vec![archive], Vec::new()), options)
        } else if there("params.json") && there("consolidated.safetensors") {
            let config = config("params.json", Config::from_params_json)?;
            let archive = Archive::open(&folder.join("consolidated.safetensors"), options)?;
            Self::check(config, Naming::Mistral, (vec![archive], Vec::new()), options)
        } else if folder.is_file() {
            Err(WeightsError::NoModel { path: folder.to_owned() })
        } else {
            match only_gguf(folder).map_err(|source| io_error(folder, source))? {
                Some(file) => Self::open_gguf(&file, options),
                None => Err(WeightsError::NoModel { path: folder.to_owned() }),
            }
        }
    }

    fn open_gguf(path: &Path, options: OpenOptions) -> Result<Self, WeightsError> {
        let (archive, config, window) = Archive::open_gguf(path, options)?;
        let gguf = |source| WeightsError::Config { path: path.to_owned(), source };
        config.validate().map_err(gguf)?;
        let mut warnings = Vec::new();
        if window.or(options.window).is_none() {
            let (path, context_len) = (path.to_owned(), config.context_len);
            warnings.push(Warning::NoWindow { path, context_len });
        }
        let config = Config { window: window.unwrap_or(config.window), ..config };
        let checked = Self::check(config, Naming::Gguf, (vec![archive], Vec::new()), options)?;
        Ok(Self { warnings, ..checked })
    }
}

impl<'a> Checkpoint<'a> {
    /// A checkpoint in memory: the contents of `config.json` and of `model.safetensors`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(config_json: &str, safetensors: &'a [u8]) -> Result<Self, WeightsError> {
        Self::from_bytes_with(config_json, safetensors, OpenOptions::new())
    }

    /// [`from_bytes`](Self::from_bytes) with options, of which that for memory maps has no meaning.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes_with(
        config_json: &str,
        safetensors: &'a [u8],
        options: OpenOptions,
    ) -> Result<Self, WeightsError> {
        let config = Config::from_hf_json(config_json)
            .map_err(|source| WeightsError::Config { path: "config.json".into(), source })?;
        let archive = Archive::from_bytes("model.safetensors", safetensors)?;
        Self::check(config, Naming::HuggingFace, (vec![archive], Vec::new()), options)
    }

    /// The checkpoint with an adapter merged into its weights: `W + scale * B A`, computed in f32
    /// while a matrix is read and rounded to the format that it will have in memory. Called again,
    /// it merges one more.
    ///
    /// Memory in use stays the result and one tensor at most. Weights that are blocks of integers are
    /// rounded a second time, as a whole, so that they differ from those of the adapter at run time
    /// by the error of their format; merge into the original weights to have them rounded once.
    ///
    /// # Errors
    ///
    /// - [`AdapterError::OtherModel`]: the adapter was opened for a model of other sizes.
    /// - [`AdapterError::TiedOutput`]: it adds to the output matrix, which is the embedding as well.
    pub fn with_adapter(mut self, adapter: Arc<Adapter>) -> Result<Self, AdapterError> {
        adapter.check(&self.config)?;
        if self.config.tied_embeddings && adapter.addend(Target::Output).is_some() {
            return Err(AdapterError::TiedOutput);
        }
        self.adapters.push(adapter);
        Ok(self)
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the files leave open and that may not be what was meant.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The tensors that will be loaded, by name, as they lie in the files.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().filter_map(|(wanted, archive)| {
            let info = self.archives.get(*archive)?.tensors().get(&wanted.name)?;
            Some((wanted.name.as_str(), info))
        })
    }

    /// Bytes that all weights will take in memory: [`Transformer::bytes`], known before any of them
    /// is read. `None` beyond `usize`.
    pub fn weight_bytes(&self) -> Option<usize> {
        self.tensors.iter().try_fold(0, |sum: usize, (wanted, archive)| {
            let info = self.archives.get(*archive)?.tensors().get(&wanted.name)?;
            sum.checked_add(names::bytes(&wanted.shape, self.format(wanted.field, info))?)
        })
    }

    /// The format that a matrix will have in memory.
    fn format(&self, field: Field, info: &TensorInfo) -> WeightFormat {
        let own = match info.stored {
            Stored::Rows(format) | Stored::Panels(format) => format,
            Stored::Int8 => WeightFormat::Q8_0,
            Stored::Other(_) | Stored::Ggml(_) => WeightFormat::F32,
        };
        self.formats.map_or(own, |formats| formats.of(field))
    }

    /// Reads the weights.
    ///
    /// # Errors
    ///
    /// [`ModelError`]: a file cannot be read any more, a weight that the format asked for cannot hold,
    /// or no memory.
    pub fn load(&self) -> Result<Transformer, ModelError> {
        self.load_with(|_| {})
    }

    /// [`load`](Self::load), with a call after each tensor.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_with(
        &self,
        progress: impl FnMut(LoadProgress<'_>),
    ) -> Result<Transformer, ModelError> {
        load::transformer(self, progress)
    }

    /// Writes the weights as one safetensors file that holds each matrix in the kernels' own layout
    /// and in the format that it would have in memory ([`OpenOptions::weights`]). Beside a
    /// `config.json` ([`Config::to_hf_json`]) it opens as `model.safetensors`: read, nothing is
    /// rearranged; mapped, nothing is even copied.
    ///
    /// Tensor by tensor: memory in use is the largest matrix. The layout is that of this version of
    /// the library, and a file of another is refused: keep the original weights.
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`]: a file cannot be read any more or `out` cannot be written, a weight
    /// that the format asked for cannot hold, or no memory.
    pub fn write(
        &self,
        out: &mut impl io::Write,
        progress: impl FnMut(LoadProgress<'_>),
    ) -> Result<(), ModelError> {
        save::write(self, out, progress)
    }

    /// Holds the tables of contents against the configuration.
    fn check(
        mut config: Config,
        naming: Naming,
        (archives, mut problems): (Vec<Archive<'a>>, Vec<TensorProblem>),
        options: OpenOptions,
    ) -> Result<Self, WeightsError> {
        // A file that was saved by `save` has names of one kind and rows of either.
        let told = archives.iter().find_map(|archive| panels::rope_layout(archive.metadata()));
        config.rope_layout = told.unwrap_or_else(|| naming.rope_layout());
        if let Some(window) = options.window {
            config = Config { window, layer_windows: Vec::new(), ..config };
        }
        let mut homes: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, archive) in archives.iter().enumerate() {
            for name in archive.tensors().keys() {
                if let Some(first) = homes.insert(name, index) {
                    problems.push(TensorProblem::Repeated {
                        tensor: name.clone(),
                        first: archives[first].path().to_owned(),
                        second: archive.path().to_owned(),
                    });
                }
            }
        }
        let mut tensors = Vec::new();
        for wanted in expected(&config, naming) {
            match homes.remove(wanted.name.as_str()) {
                None => problems.push(TensorProblem::Missing { tensor: wanted.name }),
                Some(index) => {
                    let contents = archives[index].tensors();
                    problems.extend(problem_of(&wanted, contents, naming, options.formats));
                    homes.remove(scale_name(&wanted.name).as_str());
                    tensors.push((wanted, index));
                }
            }
        }
        homes.retain(|name, _| !names::is_redundant(name, &config));
        problems.extend(homes.into_iter().map(|(name, index)| TensorProblem::Unexpected {
            tensor: name.to_owned(),
            path: archives[index].path().to_owned(),
        }));
        if problems.is_empty() {
            let (adapters, warnings) = (Vec::new(), Vec::new());
            Ok(Self { config, archives, tensors, formats: options.formats, adapters, warnings })
        } else {
            Err(WeightsError::Tensors { problems })
        }
    }
}

/// Whether a path names a GGUF file.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        && path.is_file()
}

/// The GGUF file in a folder, if there is exactly one.
pub(crate) fn only_gguf(folder: &Path) -> io::Result<Option<PathBuf>> {
    let paths = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut files = paths.filter(|path| is_gguf(path));
    Ok(files.next().filter(|_| files.next().is_none()))
}

/// Reads a JSON file of a sensible length.
fn read_json(path: &Path) -> Result<String, WeightsError> {
    let found = fs::metadata(path).map_err(|source| io_error(path, source))?.len();
    if found > LONGEST_JSON {
        let path = path.to_owned();
        return Err(WeightsError::FileTooLong { path, found, limit: LONGEST_JSON });
    }
    fs::read_to_string(path).map_err(|source| io_error(path, source))
}

/// `model.safetensors.index.json`: which file holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_shards(
    folder: &Path,
    options: OpenOptions,
) -> Result<(Vec<Archive<'static>>, Vec<TensorProblem>), WeightsError> {
    let path = folder.join("model.safetensors.index.json");
    let json = read_json(&path)?;
    let index: Index = serde_json::from_str(&json)
        .map_err(|source| WeightsError::Index { path: path.clone(), source })?;
    let files: BTreeSet<&String> = index.weight_map.values().collect();
    let mut archives = BTreeMap::new();
    for file in files {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || file.contains(char::is_control) {
            return Err(WeightsError::IndexEscapes { path, file: file.clone() });
        }
        archives.insert(file.as_str(), Archive::open(&folder.join(file), options)?);
    }
    let misplaced = index.weight_map.iter().filter(|(tensor, file)| {
        archives.get(file.as_str()).is_none_or(|archive| !archive.tensors().contains_key(*tensor))
    });
    let problems = misplaced
        .map(|(tensor, file)| TensorProblem::NotWhereIndexed {
            tensor: tensor.clone(),
            file: file.clone(),
        })
        .collect();
    Ok((archives.into_values().collect(), problems))
}
