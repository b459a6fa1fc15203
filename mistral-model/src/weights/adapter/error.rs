//! What can be wrong with an adapter.

use std::path::PathBuf;

use crate::config::{ConfigError, ConfigProblem};
use crate::weights::shown::Shown;
use crate::weights::{TensorProblem, WeightsError};

/// An adapter that cannot be read, or not be used where it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// No known file.
    #[error(
        "{} holds no adapter, expected adapter_config.json with adapter_model.safetensors, or \
         lora.safetensors; a pickled adapter_model.bin must be saved as safetensors first",
        .path.display()
    )]
    NoAdapter {
        /// The folder.
        path: PathBuf,
    },
    /// A file that cannot be read, or is damaged.
    #[error("the files of the adapter cannot be read")]
    Files {
        /// Why.
        #[from]
        source: WeightsError,
    },
    /// A configuration that is not the JSON expected.
    #[error("{} is not the JSON that was expected", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The model that the adapter is opened for cannot be.
    #[error("the configuration of the adapter's model cannot be used")]
    Config {
        /// Why not.
        #[from]
        source: ConfigError,
    },
    /// Everything that is wrong with the adapter.
    #[error("{} cannot be used:{}", .path.display(), crate::config::list(.problems))]
    Invalid {
        /// The file with the weights.
        path: PathBuf,
        /// At least one.
        problems: Vec<AdapterProblem>,
    },
    /// A session with adapters where only the model itself is known.
    #[error("a session with {adapters} adapters cannot have {what}, expected one without")]
    NotWith {
        /// How many it has.
        adapters: usize,
        /// What names sessions by their model and tokens alone.
        what: &'static str,
    },
    /// An adapter of the output matrix, merged into a model whose output matrix is its embedding.
    #[error(
        "the adapter adds to the output matrix, which is the embedding in this model, expected one \
         of its own: use the adapter while the model runs instead of merging it"
    )]
    TiedOutput,
    /// A factor that is none.
    #[error("the adapter's strength is {found}, expected a finite number")]
    Strength {
        /// Found.
        found: f32,
    },
    /// A model of other sizes: all of the differences.
    #[error("the adapter was opened for another model:{}", crate::config::list(.problems))]
    OtherModel {
        /// At least one.
        problems: Vec<ConfigProblem>,
    },
    /// A session with tokens that were read without the adapter.
    #[error(
        "the session holds {position} tokens that were read without the adapter, expected none: \
         call `reset` first"
    )]
    NotEmpty {
        /// Tokens in the session.
        position: usize,
    },
}

/// One thing that is wrong with an adapter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterProblem {
    /// A tensor that is missing, unknown, or of the wrong type or shape.
    #[error(transparent)]
    Tensor(#[from] TensorProblem),
    /// A tensor of a module that the configuration does not name.
    #[error("{} is there, and target_modules does not name its module", Shown(.tensor))]
    NotTargeted {
        /// The tensor.
        tensor: String,
    },
    /// A weight that is none.
    #[error("{} has NaN or infinity at [{row}, {col}]", Shown(.tensor))]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The first such row.
        row: usize,
        /// The first such element of it.
        col: usize,
    },
    /// A value of the configuration that cannot be.
    #[error(transparent)]
    Value(#[from] ConfigProblem),
    /// A setting that changes what the adapter computes.
    #[error(
        "{field} is {found}, which is not supported: merge the adapter into its model with peft, \
         and open the result"
    )]
    Unsupported {
        /// The setting.
        field: String,
        /// Found, as JSON; long values are cut.
        found: String,
    },
    /// A regular expression that cannot be used.
    #[error("{pattern:?} in {field} cannot be matched with: {reason}")]
    Pattern {
        /// The setting.
        field: &'static str,
        /// The expression.
        pattern: String,
        /// What the parser says.
        reason: String,
    },
}
