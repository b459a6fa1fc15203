//! Adapters (LoRA, arXiv:2106.09685): from files to pairs of thin matrices.
//!
//! What is here: [`Adapter`], which finds the files and holds them against a model's configuration.
//! `peft.rs` and `mistral.rs` know what the two kinds of configuration ask for, `pairs.rs` reads the
//! matrices. What is not: how an addend is computed, in `low_rank.rs`, or merged, in `merge.rs`.

mod error;
mod mistral;
mod modules;
mod pairs;
mod peft;

use std::path::Path;

pub use error::{AdapterError, AdapterProblem};

use self::mistral::MistralRules;
use self::peft::PeftRules;
use super::archive::Archive;
use super::names::Naming;
use super::{OpenOptions, read_json};
use crate::config::{Config, ConfigProblem};
use crate::low_rank::{LowRank, Projection, Target};

/// What peft and mistral-finetune call the file with the weights.
const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
const MISTRAL_WEIGHTS: &str = "lora.safetensors";

/// The addends of one layer, by [`Projection`].
type LayerAddends = [Option<LowRank>; Projection::COUNT];

/// A low-rank adapter: `W x + scale * B (A x)` in place of `W x` (arXiv:2106.09685, section 4.1),
/// for any of a layer's seven projections and the output matrix.
///
/// Immutable and `Sync`: share it by `Arc` between sessions ([`Session::with_adapter`]), which may
/// each have another over one model, whatever the format of its weights. Or merge it into the
/// weights while they are read ([`Checkpoint::with_adapter`]).
///
/// `A` and `B` keep the format they are stored in (f32, f16 or bf16). A projection whose `B` or
/// factor is zero, as training starts with, is left out, so that it changes no bit.
///
/// ```
/// use std::sync::Arc;
/// use mistral_model::{Adapter, Session, SessionOptions, Transformer};
///
/// # let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models");
/// let model = Transformer::open(format!("{golden}/v01"))?;
/// let adapter = Arc::new(Adapter::open(format!("{golden}/v01-lora"), model.config())?);
/// let mut plain = Session::new(&model, SessionOptions::default())?;
/// let mut adapted = Session::new(&model, SessionOptions::default())?.with_adapter(adapter)?;
/// assert_ne!(plain.prefill(&[1, 5, 9])?, adapted.prefill(&[1, 5, 9])?);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
///
/// [`Session::with_adapter`]: crate::Session::with_adapter
/// [`Checkpoint::with_adapter`]: super::Checkpoint::with_adapter
#[derive(Debug, Clone)]
pub struct Adapter {
    /// The model that it was checked against.
    config: Config,
    layers: Vec<LayerAddends>,
    output: Option<LowRank>,
}

impl Adapter {
    /// Opens an adapter for a model: a folder, or the file with the weights in it, which may then
    /// have any name.
    ///
    /// | files | what they are |
    /// |---|---|
    /// | `adapter_config.json`, `adapter_model.safetensors` | peft's |
    /// | `lora.safetensors`, perhaps `params.json` | mistral-finetune's, for mistral-inference |
    ///
    /// Of peft's settings, `r`, `lora_alpha`, `use_rslora`, `rank_pattern`, `alpha_pattern`,
    /// `target_modules`, `exclude_modules`, `layers_to_transform` and `layers_pattern` are followed;
    /// `fan_in_fan_out` has no meaning for linear layers, which is what a Mistral model has. What
    /// else would change the result is refused by name: DoRA and other variants, biases, adapters of
    /// the embedding, `modules_to_save`, initialisations that change the model's own weights (PiSSA,
    /// OLoRA, LoftQ). With an adapter of the output matrix (`lm_head`) peft stores that matrix as
    /// well; it is the model's own, and not read.
    ///
    /// The factor is `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`. For Mistral's
    /// files it is `lora.scaling` of the `params.json` beside them, or else 2, as in
    /// mistral-inference; [`scaled`](Self::scaled) changes it.
    ///
    /// The rows of `B` for queries and keys are put into the order of the model's own
    /// ([`Config::rope_layout`]), so that either kind fits a checkpoint of any kind.
    ///
    /// # Errors
    ///
    /// - [`AdapterError::NoAdapter`], [`AdapterError::Files`], [`AdapterError::Json`]: files that
    ///   are missing or damaged.
    /// - [`AdapterError::Config`]: no model has such a configuration.
    /// - [`AdapterError::Invalid`]: everything that is wrong with settings, names, shapes and weights.
    pub fn open(path: impl AsRef<Path>, config: &Config) -> Result<Self, AdapterError> {
        let path = path.as_ref();
        let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
        let [settings, params] = ["adapter_config.json", "params.json"].map(|n| folder.join(n));
        let [peft, mistral] = [PEFT_WEIGHTS, MISTRAL_WEIGHTS].map(|name| folder.join(name));
        let (weights, by_peft) = if path.is_file() {
            (path.to_owned(), settings.is_file() && path != mistral)
        } else if peft.is_file() {
            (peft, true)
        } else if mistral.is_file() {
            (mistral, false)
        } else {
            return Err(AdapterError::NoAdapter { path: path.to_owned() });
        };
        if by_peft {
            let rules = PeftRules::parse(&settings, &read_json(&settings)?)?;
            let archive = Archive::open(&weights, OpenOptions::new())?;
            Self::read(&archive, config, Naming::HuggingFace, &rules)
        } else {
            let json = params.is_file().then(|| read_json(&params)).transpose()?;
            let rules = MistralRules::parse(&params, json.as_deref())?;
            let archive = Archive::open(&weights, OpenOptions::new())?;
            Self::read(&archive, config, Naming::Mistral, &rules)
        }
    }

    /// peft's adapter in memory: the contents of `adapter_config.json` and of
    /// `adapter_model.safetensors`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(
        adapter_config_json: &str,
        safetensors: &[u8],
        config: &Config,
    ) -> Result<Self, AdapterError> {
        let rules = PeftRules::parse(Path::new("adapter_config.json"), adapter_config_json)?;
        let archive = Archive::from_bytes(PEFT_WEIGHTS, safetensors)?;
        Self::read(&archive, config, Naming::HuggingFace, &rules)
    }

    fn read(
        archive: &Archive<'_>,
        config: &Config,
        naming: Naming,
        rules: &impl Rules,
    ) -> Result<Self, AdapterError> {
        config.validate()?;
        let (layers, output) = pairs::read(archive, config, naming, rules)?;
        Ok(Self { config: config.clone(), layers, output })
    }

    /// The adapter with all that it adds multiplied by `strength`: 1 changes nothing, 0 leaves the
    /// model as it was.
    ///
    /// # Errors
    ///
    /// [`AdapterError::Strength`]: NaN or infinity.
    pub fn scaled(mut self, strength: f32) -> Result<Self, AdapterError> {
        if !strength.is_finite() {
            return Err(AdapterError::Strength { found: strength });
        }
        for slot in self.layers.iter_mut().flatten().chain([&mut self.output]) {
            if let Some(addend) = slot {
                addend.scale *= strength;
            }
            slot.take_if(|addend| addend.scale == 0.0);
        }
        Ok(self)
    }

    /// Matrices that the adapter adds to: projections, and perhaps the output matrix.
    pub fn projections(&self) -> usize {
        self.addends().count()
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.addends().map(|addend| addend.down.bytes() + addend.up.bytes()).sum()
    }

    pub(crate) fn addends(&self) -> impl Iterator<Item = &LowRank> {
        self.layers.iter().flatten().flatten().chain(&self.output)
    }

    /// What is added to a matrix.
    pub(crate) fn addend(&self, target: Target) -> Option<&LowRank> {
        match target {
            Target::Layer(layer, projection) => {
                self.layers.get(layer)?[projection as usize].as_ref()
            }
            Target::Output => self.output.as_ref(),
        }
    }

    /// Refuses a model that the adapter was not opened for.
    pub(crate) fn check(&self, config: &Config) -> Result<(), AdapterError> {
        let ours = &self.config;
        let mut problems: Vec<ConfigProblem> = [
            ("dim", config.dim, ours.dim),
            ("n_layers", config.n_layers, ours.n_layers),
            ("n_heads", config.n_heads, ours.n_heads),
            ("n_kv_heads", config.n_kv_heads, ours.n_kv_heads),
            ("head_dim", config.head_dim, ours.head_dim),
            ("hidden_dim", config.hidden_dim, ours.hidden_dim),
        ]
        .into_iter()
        .filter(|(_, found, expected)| found != expected)
        .map(|(field, found, expected)| ConfigProblem::unfit(field, found, expected))
        .collect();
        if self.output.is_some() && config.vocab_size != ours.vocab_size {
            let (found, expected) = (config.vocab_size, ours.vocab_size);
            problems.push(ConfigProblem::unfit("vocab_size", found, expected));
        }
        if config.rope_layout != ours.rope_layout {
            let [found, expected] =
                [config, ours].map(|config| format!("{:?}", config.rope_layout));
            problems.push(ConfigProblem::unfit("rope_layout", found, expected));
        }
        if problems.is_empty() { Ok(()) } else { Err(AdapterError::OtherModel { problems }) }
    }
}

/// What the configuration of an adapter asks for.
trait Rules {
    /// What stands before the name of a module.
    const PREFIX: &'static str;

    /// What is wrong with the settings themselves.
    fn problems(&self) -> Vec<AdapterProblem>;

    /// What is asked of a module; `None` if it has no part in the adapter.
    fn of(&self, module: &str) -> Option<Asked>;
}

/// What is asked of a module.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Asked {
    /// Whether it may be absent.
    optional: bool,
    /// The rank; `None`: that of the file.
    rank: Option<usize>,
    scale: f32,
}
