//! Adapters of mistral-finetune: the entry `lora` of a `params.json`, if there is one.

use std::path::Path;

use serde::Deserialize;

use super::{AdapterError, AdapterProblem, Asked, Rules};
use crate::config::ConfigProblem;

/// What mistral-inference multiplies with when it is told nothing.
const DEFAULT_SCALING: f64 = 2.0;

#[derive(Deserialize)]
struct Params {
    lora: Option<Lora>,
}

#[derive(Deserialize)]
struct Lora {
    rank: Option<usize>,
    scaling: Option<f64>,
}

/// Which modules take part is said by the tensors alone.
pub(super) struct MistralRules {
    rank: Option<usize>,
    scaling: f64,
}

impl MistralRules {
    /// Reads `params.json`.
    pub(super) fn parse(path: &Path, json: Option<&str>) -> Result<Self, AdapterError> {
        let params: Option<Params> = json
            .map(serde_json::from_str)
            .transpose()
            .map_err(|source| AdapterError::Json { path: path.to_owned(), source })?;
        let Lora { rank, scaling } =
            params.and_then(|params| params.lora).unwrap_or(Lora { rank: None, scaling: None });
        Ok(Self { rank, scaling: scaling.unwrap_or(DEFAULT_SCALING) })
    }
}

impl Rules for MistralRules {
    const PREFIX: &'static str = "";

    fn problems(&self) -> Vec<AdapterProblem> {
        let scaling = self.scaling as f32;
        let rank = (self.rank == Some(0))
            .then(|| ConfigProblem::unfit("lora.rank", 0, "at least 1").into());
        let scaling = (!(scaling.is_finite() && scaling > 0.0)).then(|| {
            ConfigProblem::unfit("lora.scaling", self.scaling, "a finite number above 0").into()
        });
        rank.into_iter().chain(scaling).collect()
    }

    fn of(&self, _module: &str) -> Option<Asked> {
        Some(Asked { optional: true, rank: self.rank, scale: self.scaling as f32 })
    }
}
