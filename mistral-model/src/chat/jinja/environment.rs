//! What templates may use: Jinja as Hugging Face sets it up, and limits.

use std::fmt;
use std::io::Write;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, escape_formatter};

use super::error::JinjaError;
use super::value::to_json;

/// Steps of a template: a thousand messages take about a twentieth.
const MAX_STEPS: u64 = 2_000_000;

/// Calls inside each other.
const MAX_RECURSION: usize = 64;

const NAME: &str = "chat_template";

/// Whether a template can be run.
pub(super) fn compile(source: &str) -> Result<(), JinjaError> {
    environment(source, SystemTime::UNIX_EPOCH).map(drop)
}

/// Runs a template.
pub(super) fn run(
    source: &str,
    context: Value,
    now: SystemTime,
    out: impl Write,
) -> Result<(), JinjaError> {
    let environment = environment(source, now)?;
    let template = environment.get_template(NAME).map_err(syntax)?;
    template.render_captured_to(context, out).map(drop).map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if let Some(Raised(message)) = inner.downcast_ref() {
                return JinjaError::Refused { message: message.clone() };
            }
            cause = inner.source();
        }
        JinjaError::Run { source: Box::new(error) }
    })
}

fn syntax(source: Error) -> JinjaError {
    JinjaError::Syntax { source: Box::new(source) }
}

fn environment(source: &str, now: SystemTime) -> Result<Environment<'_>, JinjaError> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_recursion_limit(MAX_RECURSION);
    let whitespace = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(whitespace.map_err(syntax)?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, state, value| match value.kind() {
        // As Python prints them.
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool if value.is_true() => out.write_str("True").map_err(Error::from),
        ValueKind::Bool => out.write_str("False").map_err(Error::from),
        _ => escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
    });
    environment.add_function("strftime_now", move |format: &str| strftime(format, now));
    environment.add_template(NAME, source).map_err(syntax)?;
    Ok(environment)
}

/// What a template says when it calls `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// A time in UTC, in C's notation.
fn strftime(format: &str, now: SystemTime) -> Result<String, Error> {
    let failed = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let now = jiff::Timestamp::try_from(now).map_err(failed)?;
    jiff::fmt::strtime::format(format, &now.to_zoned(jiff::tz::TimeZone::UTC)).map_err(failed)
}

/// JSON as Python writes it, with or without line breaks. Keys stay in their order, and characters
/// as they are, as Hugging Face sets it up.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let json = to_json(value)?;
    Ok(indent.map_or_else(|| json.to_string(), |indent| json.to_string_indented(indent.min(16))))
}
