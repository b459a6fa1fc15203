//! Whether a value is a JSON schema of draft 7: what its meta-schema demands, keyword by keyword.

use super::error::ChatError;
use super::json::Json;
use super::pattern;
use super::tool::Tool;

/// What is wrong with a schema.
#[derive(Debug)]
pub(super) struct Violation {
    /// Where in the schema.
    pub(super) at: String,
    pub(super) found: String,
    pub(super) expected: &'static str,
}

/// The parameters of a tool must be a schema.
pub(super) fn check(tool: &Tool) -> Result<(), ChatError> {
    if tool.parameters.as_object().is_none() {
        return Err(ChatError::Field {
            at: format!("the parameters of tool {:?}", tool.name),
            found: tool.parameters.kind().to_owned(),
            expected: "an object",
        });
    }
    violation(&tool.parameters).map_or(Ok(()), |Violation { at, found, expected }| {
        Err(ChatError::Schema { tool: tool.name.clone(), at, found, expected })
    })
}

/// The first thing that makes `value` no schema.
pub(super) fn violation(value: &Json) -> Option<Violation> {
    schema(value, "schema")
}

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

fn wrong(value: &Json, at: &str, expected: &'static str) -> Option<Violation> {
    let found = match value {
        Json::Array(_) | Json::Object(_) | Json::Null => value.kind().to_owned(),
        Json::String(text) if text.len() > 40 => value.kind().to_owned(),
        plain => plain.to_string(),
    };
    Some(Violation { at: at.to_owned(), found, expected })
}

/// Wrong, unless it fits.
fn unless(fits: bool, value: &Json, at: &str, expected: &'static str) -> Option<Violation> {
    if fits { None } else { wrong(value, at, expected) }
}

fn schema(value: &Json, at: &str) -> Option<Violation> {
    match value {
        Json::Bool(_) => None,
        Json::Object(members) => members.iter().find_map(|(keyword, value)| {
            let at = if at == "schema" { keyword.clone() } else { format!("{at}.{keyword}") };
            keyword_violation(keyword, value, &at)
        }),
        _ => wrong(value, at, "an object or a boolean"),
    }
}

fn keyword_violation(keyword: &str, value: &Json, at: &str) -> Option<Violation> {
    match keyword {
        "$id" | "$schema" | "$ref" | "$comment" | "title" | "description" | "format"
        | "contentMediaType" | "contentEncoding" => {
            unless(value.as_str().is_some(), value, at, "a string")
        }
        "readOnly" | "uniqueItems" => {
            unless(matches!(value, Json::Bool(_)), value, at, "a boolean")
        }
        "examples" | "enum" => unless(value.as_array().is_some(), value, at, "an array"),
        "multipleOf" => unless(is_above_zero(value), value, at, "a number above 0"),
        "maximum" | "exclusiveMaximum" | "minimum" | "exclusiveMinimum" => {
            unless(matches!(value, Json::Integer(_) | Json::Float(_)), value, at, "a number")
        }
        "maxLength" | "minLength" | "maxItems" | "minItems" | "maxProperties" | "minProperties" => {
            unless(is_count(value), value, at, "a whole number of at least 0")
        }
        "pattern" => {
            let fits = value.as_str().is_some_and(pattern::is_valid);
            unless(fits, value, at, "a regular expression")
        }
        "additionalItems"
        | "contains"
        | "additionalProperties"
        | "propertyNames"
        | "if"
        | "then"
        | "else"
        | "not" => schema(value, at),
        "allOf" | "anyOf" | "oneOf" => schemas(value, at),
        "items" => {
            if value.as_array().is_some() {
                schemas(value, at)
            } else {
                schema(value, at)
            }
        }
        "required" => unless(is_set_of_names(value), value, at, "an array of different strings"),
        "definitions" | "properties" => named(value, at, schema),
        "patternProperties" => {
            let names = value.as_object().unwrap_or_default();
            match names.iter().find(|(name, _)| !pattern::is_valid(name)) {
                Some((name, _)) => {
                    wrong(&Json::from(name.as_str()), at, "regular expressions as names")
                }
                None => named(value, at, schema),
            }
        }
        "dependencies" => {
            named(
                value,
                at,
                |value, at| {
                    if is_set_of_names(value) { None } else { schema(value, at) }
                },
            )
        }
        "type" => {
            const EXPECTED: &str = "array, boolean, integer, null, number, object or string, or an \
                                    array of different ones";
            let known = |value: &Json| value.as_str().is_some_and(|name| TYPES.contains(&name));
            let several = value.as_array().is_some_and(|names| {
                !names.is_empty() && names.iter().all(known) && is_set_of_names(value)
            });
            unless(known(value) || several, value, at, EXPECTED)
        }
        _ => None,
    }
}

/// An array of at least one schema.
fn schemas(value: &Json, at: &str) -> Option<Violation> {
    match value.as_array() {
        Some(values) if !values.is_empty() => {
            let mut values = values.iter().enumerate();
            values.find_map(|(index, value)| schema(value, &format!("{at}.{index}")))
        }
        _ => wrong(value, at, "an array of at least one schema"),
    }
}

/// An object of whatever `check` accepts.
fn named(
    value: &Json,
    at: &str,
    check: impl Fn(&Json, &str) -> Option<Violation>,
) -> Option<Violation> {
    match value.as_object() {
        Some(members) => {
            members.iter().find_map(|(name, value)| check(value, &format!("{at}.{name}")))
        }
        None => wrong(value, at, "an object"),
    }
}

fn is_above_zero(value: &Json) -> bool {
    match value {
        Json::Integer(value) => !value.is_negative() && value.as_i64() != Some(0),
        // NaN is not refused by the comparison that refuses zero.
        Json::Float(value) => value.is_nan() || *value > 0.0,
        _ => false,
    }
}

fn is_count(value: &Json) -> bool {
    match value {
        Json::Integer(value) => !value.is_negative(),
        Json::Float(value) => value.fract() == 0.0 && *value >= 0.0,
        _ => false,
    }
}

fn is_set_of_names(value: &Json) -> bool {
    let Some(values) = value.as_array() else { return false };
    let mut names: Vec<_> = values.iter().filter_map(Json::as_str).collect();
    let all = names.len() == values.len();
    names.sort_unstable();
    all && names.windows(2).all(|pair| pair[0] != pair[1])
}
