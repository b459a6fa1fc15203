//! Functions that the model may ask to be called.

use super::json::{Json, object};

/// A function that is offered to the model.
///
/// ```
/// use mistral_model::chat::{Json, Tool};
///
/// let schema = r#"{"type": "object", "properties": {"city": {"type": "string"}}}"#;
/// let tool = Tool::new("weather", "The weather of a city", Json::parse(schema)?);
/// assert_eq!(tool.name, "weather");
/// # Ok::<(), mistral_model::chat::JsonError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Letters, digits, `_` and `-`; 1 to 64 of them.
    pub name: String,
    /// What it does, for the model to read.
    pub description: String,
    /// JSON schema (draft 7) of the arguments: an object.
    pub parameters: Json,
}

impl Tool {
    /// A function with a description and the schema of its arguments.
    pub fn new(name: impl Into<String>, description: impl Into<String>, parameters: Json) -> Self {
        Self { name: name.into(), description: description.into(), parameters }
    }

    /// As the model reads it.
    pub(super) fn to_json(&self) -> Json {
        let function = object([
            ("name", Json::from(self.name.as_str())),
            ("description", Json::from(self.description.as_str())),
            ("parameters", self.parameters.clone()),
        ]);
        object([("type", Json::from("function")), ("function", function)])
    }
}
