//! Calls of tools, as a person reads them.

use mistral_model::chat::{AnswerPart, Json, ToolCall};

/// What a part of an answer adds to what is shown: calls stand on lines of their own. `fresh` tells
/// whether nothing is on the last line yet.
pub(super) fn shown(part: &AnswerPart, fresh: &mut bool) -> String {
    let mut text = part.text.clone();
    *fresh = *fresh && text.is_empty() || text.ends_with('\n');
    for call in &part.calls {
        if !*fresh {
            text.push('\n');
        }
        text.push_str(&json(call).to_string());
        *fresh = false;
    }
    text
}

/// A call as models write it.
fn json(call: &ToolCall) -> Json {
    let arguments = call.arguments().unwrap_or_else(|_| Json::from(call.arguments.as_str()));
    let id = call.id.as_deref().map(|id| ("id", Json::from(id)));
    let fields = [("name", Json::from(call.name.as_str())), ("arguments", arguments)];
    let members = fields.into_iter().chain(id).map(|(name, value)| (name.to_owned(), value));
    Json::Object(members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_shown_on_a_line_of_its_own() {
        let ping = ToolCall::new("call00000", "ping", r#"{"n":1}"#);
        let say = ToolCall::new("call00001", "say", "no JSON");
        let part = |text: &str, calls| AnswerPart { text: text.to_owned(), calls };
        let mut fresh = true;
        let parts = [
            part("", vec![ping.clone()]),
            part("", vec![say]),
            part("Well.\n", Vec::new()),
            part("", vec![ping]),
        ];
        let text: String = parts.iter().map(|part| shown(part, &mut fresh)).collect();
        let ping = r#"{"name": "ping", "arguments": {"n": 1}, "id": "call00000"}"#;
        let say = r#"{"name": "say", "arguments": "no JSON", "id": "call00001"}"#;
        assert_eq!(text, format!("{ping}\n{say}Well.\n{ping}"));
    }
}
