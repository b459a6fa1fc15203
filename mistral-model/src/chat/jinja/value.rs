//! Conversations as a template sees them, and values as JSON.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::guard::Guard;
use crate::chat::json::{Integer, Json, object};
use crate::chat::message::{Message, ToolCall};
use crate::chat::request::ChatRequest;
use crate::chat::tool::Tool;

/// The messages, each an object; text alone, its parts joined.
pub(super) fn messages(request: &ChatRequest, guard: &Guard) -> Value {
    request.messages.iter().map(|message| message_value(message, guard)).collect()
}

/// The tools, or none.
pub(super) fn tools(request: &ChatRequest, guard: &Guard) -> Value {
    if request.tools.is_empty() {
        return Value::from(());
    }
    request.tools.iter().map(Tool::to_json).map(|tool| value(&tool, guard)).collect()
}

fn message_value(message: &Message, guard: &Guard) -> Value {
    let mut members = vec![("role", Value::from(message.role().name()))];
    if message.content().is_some() {
        members.push(("content", Value::from(guard.apply(&message.text()))));
    }
    let mut member = |name, text: &Option<String>| {
        if let Some(text) = text {
            members.push((name, Value::from(guard.apply(text))));
        }
    };
    match message {
        Message::Assistant { tool_calls, .. } if !tool_calls.is_empty() => {
            let calls = tool_calls.iter().map(|call| value(&call_json(call), guard)).collect();
            members.push(("tool_calls", calls));
        }
        Message::Tool { call_id, name, .. } => {
            member("tool_call_id", call_id);
            member("name", name);
        }
        _ => {}
    }
    Value::from_pairs(members)
}

/// A call with its arguments as an object, as templates want them, or else as their text.
fn call_json(call: &ToolCall) -> Json {
    let arguments = call.arguments().ok().filter(|json| json.as_object().is_some());
    let arguments = arguments.unwrap_or_else(|| Json::from(call.arguments.as_str()));
    let function = object([("name", Json::from(call.name.as_str())), ("arguments", arguments)]);
    let id = call.id.as_deref().map_or(Json::Null, Json::from);
    object([("id", id), ("type", Json::from("function")), ("function", function)])
}

/// A value with all its strings guarded.
fn value(json: &Json, guard: &Guard) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Integer(number) => match number.to_string().parse::<i128>() {
            Ok(number) => Value::from(number),
            Err(_) => Value::from(number.to_string().parse::<f64>().unwrap_or(f64::NAN)),
        },
        Json::Float(number) => Value::from(*number),
        Json::String(text) => Value::from(guard.apply(text)),
        Json::Array(values) => values.iter().map(|json| value(json, guard)).collect(),
        Json::Object(members) => Value::from_pairs(
            members.iter().map(|(key, json)| (guard.apply(key), value(json, guard))),
        ),
    }
}

/// A template's value as JSON.
pub(super) fn to_json(value: &Value) -> Result<Json, Error> {
    Ok(match value.kind() {
        ValueKind::None => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => match value.as_i64() {
            Some(number) => Json::from(number),
            None => Json::Integer(Integer::from_digits(&value.to_string())),
        },
        ValueKind::Number => Json::Float(f64::try_from(value.clone())?),
        ValueKind::String => Json::from(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            Json::Array(value.try_iter()?.map(|value| to_json(&value)).collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let mut members = Vec::new();
            for key in value.try_iter()? {
                members.push((key.to_string(), to_json(&value.get_item(&key)?)?));
            }
            Json::Object(members)
        }
        kind => {
            let message = format!("{kind} is no JSON");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    })
}
