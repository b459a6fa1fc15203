//! Where a template comes from.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::SystemTime;

use minijinja::Value;

use super::environment;
use super::error::JinjaError;
use crate::chat::json::Json;

/// Bytes of a template: twenty times the longest in the wild.
const MAX_TEMPLATE: u64 = 1 << 20;

/// Bytes of a `tokenizer_config.json`, which may list a vocabulary.
const MAX_CONFIG: u64 = 64 << 20;

/// A template that can be run.
///
/// # Limits
///
/// It is a program. How long it is, how many steps it takes, how deep its calls go and how much it
/// writes is limited; the memory for what it puts together on the way is not. One that doubles a
/// text in a loop takes gigabytes within a few dozen steps, and where there are none left the
/// process ends. Run templates of strangers in a process that may fail, with a limit of the
/// system's (`ulimit -v`, a cgroup).
#[derive(Clone)]
pub struct JinjaTemplate {
    source: String,
    bos: Option<String>,
    eos: Option<String>,
}

impl JinjaTemplate {
    /// A template from its text.
    ///
    /// # Errors
    ///
    /// [`JinjaError::TooLong`], [`JinjaError::Syntax`]: it cannot be run.
    pub fn new(source: impl Into<String>) -> Result<Self, JinjaError> {
        let source = source.into();
        check_size(source.len() as u64, MAX_TEMPLATE)?;
        environment::compile(&source)?;
        Ok(Self { source, bos: None, eos: None })
    }

    /// The template of a model's folder: `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json`, there the one called `default` of several. `None`: there is none.
    ///
    /// # Errors
    ///
    /// - [`JinjaError::Read`], [`JinjaError::Json`]: a file that is there cannot be read.
    /// - All of [`new`](Self::new).
    pub fn open(folder: impl AsRef<Path>) -> Result<Option<Self>, JinjaError> {
        let folder = folder.as_ref();
        let path = folder.join("tokenizer_config.json");
        let config = match read(&path, MAX_CONFIG)? {
            Some(text) => Json::parse(&text).map_err(|source| JinjaError::Json { path, source })?,
            None => Json::Null,
        };
        let own = read(&folder.join("chat_template.jinja"), MAX_TEMPLATE)?;
        let source = own.or_else(|| config.get("chat_template").and_then(chosen));
        let Some(source) = source else { return Ok(None) };
        let mut template = Self::new(source)?;
        (template.bos, template.eos) = (token(&config, "bos_token"), token(&config, "eos_token"));
        Ok(Some(template))
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn bos(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    pub(super) fn eos(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    pub(super) fn run(
        &self,
        context: Value,
        now: SystemTime,
        out: impl Write,
    ) -> Result<(), JinjaError> {
        environment::run(&self.source, context, now, out)
    }
}

impl fmt::Debug for JinjaTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JinjaTemplate").field("bytes", &self.source.len()).finish_non_exhaustive()
    }
}

fn check_size(found: u64, limit: u64) -> Result<(), JinjaError> {
    if found > limit { Err(JinjaError::TooLong { found, limit }) } else { Ok(()) }
}

/// A file's text; `None` if there is no such file.
fn read(path: &Path, limit: u64) -> Result<Option<String>, JinjaError> {
    if !path.exists() {
        return Ok(None);
    }
    let mut text = String::new();
    // One byte beyond the limit is enough to know that there are too many.
    let opened = File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text));
    opened.map_err(|source| JinjaError::Read { path: path.to_owned(), source })?;
    check_size(text.len() as u64, limit)?;
    Ok(Some(text))
}

/// The template, or the one called `default` in a list of them.
fn chosen(templates: &Json) -> Option<String> {
    let text = match templates.as_array() {
        None => templates.as_str(),
        Some(named) => {
            let name = |t: &&Json| t.get("name").and_then(Json::as_str) == Some("default");
            named.iter().find(name)?.get("template")?.as_str()
        }
    };
    text.map(str::to_owned)
}

/// A special token, written as a string or as an object with its content.
fn token(config: &Json, name: &str) -> Option<String> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}
