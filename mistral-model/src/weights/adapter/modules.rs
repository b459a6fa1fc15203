//! Modules by name, as peft matches them.

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;

use super::AdapterProblem;

/// Largest compiled expression, in bytes.
const LARGEST_PATTERN: usize = 1 << 16;

/// How a setting names modules.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Names {
    Pattern(String),
    List(Vec<String>),
}

/// Modules that a setting names.
#[derive(Debug)]
pub(super) enum Modules {
    /// By their last parts: `q_proj`, `self_attn.q_proj`.
    List(Vec<String>),
    /// By an expression over the whole name.
    Pattern(Regex),
    /// All linear layers but the output matrix.
    AllLinear,
}

impl Modules {
    pub(super) fn new(field: &'static str, names: Names) -> Result<Self, AdapterProblem> {
        match names {
            Names::List(names) => Ok(Self::List(names)),
            Names::Pattern(all) if all.eq_ignore_ascii_case("all-linear") => Ok(Self::AllLinear),
            Names::Pattern(pattern) => {
                expression(field, &pattern, format!("^(?:{pattern})$")).map(Self::Pattern)
            }
        }
    }

    /// Whether a module is named by its whole name.
    pub(super) fn name(&self, module: &str) -> bool {
        matches!(self, Self::List(names) if names.iter().any(|name| name == module))
    }

    /// Whether a module is meant. `module` is a projection, or one of `vocabulary`.
    pub(super) fn contain(&self, module: &str, vocabulary: &[&str]) -> bool {
        match self {
            Self::List(names) => names.iter().any(|name| ends_with(module, name)),
            Self::Pattern(pattern) => pattern.is_match(module),
            Self::AllLinear => !vocabulary.contains(&module),
        }
    }
}

/// Whether a module has this name, or ends in it after a dot.
fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Values by expressions over the last parts of a module's name, of which the first that fits counts.
#[derive(Debug)]
pub(super) struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    /// What can be used of the entries; the others become problems.
    pub(super) fn new(
        field: &'static str,
        entries: Vec<(String, T)>,
        problems: &mut Vec<AdapterProblem>,
    ) -> Self {
        let mut patterns = Vec::new();
        for (pattern, value) in entries {
            match expression(field, &pattern, format!(r"^(.*\.)?({pattern})$")) {
                Ok(expression) => patterns.push((expression, value)),
                Err(problem) => problems.push(problem),
            }
        }
        Self(patterns)
    }

    pub(super) fn of(&self, module: &str) -> Option<T> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(|(_, value)| *value)
    }
}

fn expression(field: &'static str, pattern: &str, whole: String) -> Result<Regex, AdapterProblem> {
    let compiled = RegexBuilder::new(&whole).size_limit(LARGEST_PATTERN).build();
    compiled.map_err(|error| AdapterProblem::Pattern {
        field,
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "model.layers.11.self_attn.q_proj";

    fn pattern(pattern: &str) -> Modules {
        Modules::new("target_modules", Names::Pattern(pattern.to_owned())).unwrap()
    }

    #[test]
    fn a_list_names_last_parts_and_a_string_matches_the_whole_name() {
        let list = |name: &str| Modules::List(vec![name.to_owned()]).contain(Q, &[]);
        assert!(list("q_proj") && list("self_attn.q_proj") && list(Q));
        assert!(!list("proj") && !list("elf_attn.q_proj") && !list("k_proj"));
        assert!(pattern(r".*\.(q|v)_proj").contain(Q, &[]));
        assert!(pattern(r"model\.layers\.\d+\..*").contain(Q, &[]));
        assert!(!pattern("q_proj").contain(Q, &[]));
        assert!(!pattern(r".*\.1\..*|x").contain(Q, &[]));
        assert!(pattern("all-linear").contain(Q, &["lm_head"]));
        assert!(!pattern("all-linear").contain("lm_head", &["lm_head"]));
    }

    #[test]
    fn the_first_pattern_that_fits_the_last_parts_counts() {
        let mut problems = Vec::new();
        let entries = [("layers.1.self_attn.q_proj", 1), ("q_pro.", 2), ("q_proj", 3), ("(", 4)];
        let entries = entries.map(|(pattern, rank)| (pattern.to_owned(), rank)).to_vec();
        let patterns = Patterns::new("rank_pattern", entries, &mut problems);
        assert_eq!(patterns.of(Q), Some(2));
        assert_eq!(patterns.of("model.layers.1.self_attn.q_proj"), Some(1));
        assert_eq!(patterns.of("model.layers.1.self_attn.k_proj"), None);
        assert!(matches!(&problems[..], [AdapterProblem::Pattern { field: "rank_pattern", .. }]));
    }

    #[test]
    fn an_expression_that_would_fill_the_memory_is_refused() {
        let huge = Names::Pattern("((((a{1000}){1000}){1000}){1000})".to_owned());
        let refused = Modules::new("target_modules", huge).unwrap_err();
        assert!(matches!(refused, AdapterProblem::Pattern { .. }), "{refused}");
    }
}
