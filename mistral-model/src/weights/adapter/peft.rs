//! peft's `adapter_config.json`: which modules are adapted, with which rank and factor.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::modules::{Modules, Names, Patterns};
use super::{AdapterError, AdapterProblem, Asked, Rules};
use crate::config::ConfigProblem;
use crate::weights::names::Naming;

/// peft's default rank and alpha.
const DEFAULT_RANK: usize = 8;
const DEFAULT_ALPHA: f64 = 8.0;
/// What peft adapts in a Mistral model if the file names no modules.
const DEFAULT_TARGETS: [&str; 2] = ["q_proj", "v_proj"];
/// The module whose children are the layers.
const LAYERS: &str = "layers";
/// Most characters of a value that an error shows.
const LONGEST_SHOWN: usize = 60;

/// Settings that do not change what a trained adapter computes.
const HARMLESS: [&str; 19] = [
    "auto_mapping",
    "base_model_name_or_path",
    // Mistral's modules have no biases, and tensors for some would be found in the file.
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    // peft ignores it for linear layers.
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "tokenizer_name_or_path",
];

/// Initialisations that leave the model's own weights alone.
const INITIALISATIONS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

#[derive(Deserialize)]
struct File {
    peft_type: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    use_rslora: Option<bool>,
    rank_pattern: Option<InOrder<usize>>,
    alpha_pattern: Option<InOrder<f64>>,
    target_modules: Option<Names>,
    exclude_modules: Option<Names>,
    layers_to_transform: Option<Layers>,
    layers_pattern: Option<Names>,
    init_lora_weights: Option<Value>,
    /// Every other setting.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Each(Vec<usize>),
}

/// The entries of an object in their order: the first pattern that fits counts.
struct InOrder<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InOrder<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = InOrder<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a number for each pattern")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(InOrder(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// Ranks and factors of the modules of an adapter.
pub(super) struct PeftRules {
    targets: Modules,
    excluded: Modules,
    /// Layers that a list of modules is meant for; empty: all.
    layers: Vec<usize>,
    rank: usize,
    ranks: Patterns<usize>,
    alpha: f64,
    alphas: Patterns<f64>,
    /// Whether the factor is `alpha / sqrt(rank)` (rsLoRA, arXiv:2312.03732).
    rank_stabilised: bool,
    problems: Vec<AdapterProblem>,
}

impl PeftRules {
    /// Reads `adapter_config.json`.
    pub(super) fn parse(path: &Path, json: &str) -> Result<Self, AdapterError> {
        let file: File = serde_json::from_str(json)
            .map_err(|source| AdapterError::Json { path: path.to_owned(), source })?;
        let mut problems = unsupported(&file);
        let mut modules = |field, names: Option<Names>, default: &[&str]| {
            let default = || default.iter().map(|name| (*name).to_owned()).collect();
            let names = names.unwrap_or_else(|| Names::List(default()));
            Modules::new(field, names).unwrap_or_else(|problem| {
                problems.push(problem);
                Modules::List(Vec::new())
            })
        };
        let targets = modules("target_modules", file.target_modules, &DEFAULT_TARGETS);
        let excluded = modules("exclude_modules", file.exclude_modules, &[]);
        let layers = match file.layers_to_transform {
            None => Vec::new(),
            Some(Layers::One(layer)) => vec![layer],
            Some(Layers::Each(layers)) => layers,
        };
        let entries = file.rank_pattern.map_or_else(Vec::new, |pattern| pattern.0);
        let ranks = Patterns::new("rank_pattern", entries, &mut problems);
        let entries = file.alpha_pattern.map_or_else(Vec::new, |pattern| pattern.0);
        let alphas = Patterns::new("alpha_pattern", entries, &mut problems);
        let rank = file.r.unwrap_or(DEFAULT_RANK);
        let alpha = file.lora_alpha.unwrap_or(DEFAULT_ALPHA);
        let rank_stabilised = file.use_rslora.unwrap_or(false);
        let mut rules = Self {
            targets,
            excluded,
            layers,
            rank,
            ranks,
            alpha,
            alphas,
            rank_stabilised,
            problems,
        };
        rules.check();
        Ok(rules)
    }

    /// Notes values that cannot be.
    fn check(&mut self) {
        let vocabulary = Naming::HuggingFace.vocabulary();
        let [embedding, _] = vocabulary;
        if self.targets.contain(embedding, &vocabulary)
            && !self.excluded.contain(embedding, &vocabulary)
        {
            let (field, found) = ("target_modules".to_owned(), embedding.to_owned());
            self.problems.push(AdapterProblem::Unsupported { field, found });
        }
        let ranks = [("r", self.rank)].into_iter();
        for (field, rank) in ranks.chain(self.ranks.values().map(|rank| ("rank_pattern", rank))) {
            if rank == 0 {
                self.problems.push(ConfigProblem::unfit(field, rank, "at least 1").into());
            }
        }
        let alphas = [("lora_alpha", self.alpha)].into_iter();
        for (field, alpha) in alphas.chain(self.alphas.values().map(|a| ("alpha_pattern", a))) {
            if !(alpha as f32).is_finite() {
                self.problems.push(ConfigProblem::unfit(field, alpha, "a finite number").into());
            }
        }
    }

    /// Whether a module is adapted.
    fn adapts(&self, module: &str) -> bool {
        let vocabulary = &Naming::HuggingFace.vocabulary();
        if self.excluded.contain(module, vocabulary) {
            return false;
        }
        // A name in full, or a pattern, says by itself which layer is meant.
        let says_layer = !matches!(self.targets, Modules::List(_)) || self.targets.name(module);
        let layer = || module.split('.').find_map(|part| part.parse().ok());
        self.targets.contain(module, vocabulary)
            && (says_layer
                || self.layers.is_empty()
                || layer().is_some_and(|layer| self.layers.contains(&layer)))
    }
}

impl Rules for PeftRules {
    const PREFIX: &'static str = "base_model.model.";

    fn problems(&self) -> Vec<AdapterProblem> {
        self.problems.clone()
    }

    fn of(&self, module: &str) -> Option<Asked> {
        if !self.adapts(module) {
            return None;
        }
        let rank = self.ranks.of(module).unwrap_or(self.rank);
        let alpha = self.alphas.of(module).unwrap_or(self.alpha);
        let divisor = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        Some(Asked { optional: false, rank: Some(rank), scale: (alpha / divisor) as f32 })
    }
}

/// Settings that change what is computed in ways that are not ours.
fn unsupported(file: &File) -> Vec<AdapterProblem> {
    let mut problems = Vec::new();
    if file.peft_type.as_deref() != Some("LORA") {
        let found = file.peft_type.as_deref().unwrap_or("missing");
        problems.push(ConfigProblem::unfit("peft_type", found, "LORA").into());
    }
    let mut refuse = |field: &str, value: &Value| {
        let mut found = value.to_string();
        if let Some((end, _)) = found.char_indices().nth(LONGEST_SHOWN) {
            found.truncate(end);
        }
        problems.push(AdapterProblem::Unsupported { field: field.to_owned(), found });
    };
    match &file.init_lora_weights {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(Value::String(name)) if INITIALISATIONS.contains(&name.as_str()) => {}
        Some(other) => refuse("init_lora_weights", other),
    }
    match &file.layers_pattern {
        Some(Names::Pattern(name)) if !name.is_empty() && name != LAYERS => {
            refuse("layers_pattern", &name.as_str().into());
        }
        Some(Names::List(names)) if !names.is_empty() && !names.iter().any(|n| n == LAYERS) => {
            refuse("layers_pattern", &names.as_slice().into());
        }
        _ => {}
    }
    for (field, value) in &file.others {
        if !HARMLESS.contains(&field.as_str()) && says_something(value) {
            refuse(field, value);
        }
    }
    problems
}

/// Whether a setting is switched on.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}
