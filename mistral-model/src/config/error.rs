//! What can be wrong with a configuration.

use std::fmt::Display;

use mistral_kvcache::CacheError;

/// A configuration that no model can be built from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or a value of the wrong type.
    #[error("the configuration is not the JSON that was expected")]
    Json {
        /// Where and why.
        #[from]
        source: serde_json::Error,
    },
    /// Everything that is missing, contradictory or not supported.
    #[error("the configuration does not describe a model that can be run:{}", list(.problems))]
    Invalid {
        /// At least one.
        problems: Vec<ConfigProblem>,
    },
    /// No cache for this model.
    #[error("no cache fits this configuration")]
    Cache {
        /// Why not.
        source: CacheError,
    },
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// A key without which the model is unknown.
    #[error("{key} is missing")]
    Missing {
        /// The key, as the file spells it.
        key: &'static str,
    },
    /// A value that does not fit, or that is not supported.
    #[error("{field} is {found}, expected {expected}")]
    Unfit {
        /// The field or key.
        field: &'static str,
        /// Found.
        found: String,
        /// Expected.
        expected: String,
    },
}

impl ConfigProblem {
    pub(crate) fn unfit(field: &'static str, found: impl Display, expected: impl Display) -> Self {
        Self::Unfit { field, found: found.to_string(), expected: expected.to_string() }
    }
}

impl ConfigError {
    /// `Ok` if nothing is wrong.
    pub(super) fn of(problems: Vec<ConfigProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::Invalid { problems }) }
    }
}

/// Problems that are told one by one: a file from a stranger may have millions.
const LISTED: usize = 32;

/// One line for each problem, up to a number that a person reads.
pub(crate) fn list(problems: &[impl Display]) -> String {
    let (listed, others) = problems.split_at(problems.len().min(LISTED));
    let mut lines: String = listed.iter().map(|problem| format!("\n  - {problem}")).collect();
    if !others.is_empty() {
        lines.push_str(&format!("\n  - and {} more", others.len()));
    }
    lines
}
