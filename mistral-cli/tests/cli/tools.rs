//! `mistral chat` with a model that calls tools: what it shows, takes, and says then.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{Run, arg, golden, mistral_with_stdin};
use super::successor;

/// What follows a message: `[{"name":"add","arguments":{"of":[2,3]}}]`. No piece comes twice, so
/// that some of it is spelled in bytes.
const CALL: [&str; 22] = [
    "[/INST]",
    "[TOOL_CALLS]",
    "[",
    "{\"",
    "name",
    "\":\"",
    "add",
    "\",\"",
    "arguments",
    "\":",
    "{",
    "\"",
    "of",
    "<0x22>",
    ":",
    "<0x5B>",
    "2",
    ",",
    "3",
    "]",
    "}}",
    "<0x5D>",
];

/// A model with tools and the conversation that knows them.
fn with_tools(call: &[&str]) -> (TempDir, String) {
    let answer = ["[/TOOL_RESULTS]", "\u{2581}That", "\u{2581}makes", "\u{2581}five", "."];
    let folder = successor::model(&golden("tokenizer/v3/tokenizer.model"), &[call, &answer]);
    let conversation = json!({
        "messages": [{"role": "system", "content": "Be brief."}],
        "tools": [{"type": "function", "function": {"name": "add", "parameters":
            {"type": "object", "properties": {"of": {"type": "array"}}}}}],
    });
    let file = folder.path().join("tools.json");
    fs::write(&file, conversation.to_string()).unwrap();
    let file = arg(&file).to_owned();
    (folder, file)
}

/// Lines of a person or a program, who says last where the conversation is to be saved.
fn chat(call: &[&str], lines: &str) -> (Run, Vec<Value>) {
    let (folder, tools) = with_tools(call);
    let file = folder.path().join("chat.json");
    let args = ["chat", "--model", arg(folder.path()), "--template", "v3", "--load", &tools];
    let lines = format!("{lines}\n/save {}\n", arg(&file));
    let run = mistral_with_stdin(&[&args[..], &["--temperature", "0"]].concat(), lines.as_bytes());
    let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    (run, saved["messages"].as_array().unwrap().clone())
}

#[test]
fn a_call_is_shown_as_one_and_its_result_leads_to_the_answer() {
    let (run, messages) = chat(&CALL, "How much are two and three?\n/result 5");
    let shown = run.text();
    let (call, answer) = shown.split_once('\n').unwrap();
    assert_eq!(answer, "That makes five.\n");
    let call: Value = serde_json::from_str(call).unwrap();
    assert_eq!((&call["name"], &call["arguments"]), (&json!("add"), &json!({"of": [2, 3]})));

    let roles: Vec<_> = messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
    let made = &messages[2]["tool_calls"][0];
    assert_eq!(made["function"]["name"], "add");
    let arguments = made["function"]["arguments"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), call["arguments"]);
    // The model gave no id: there is one, the same everywhere.
    assert_eq!(made["id"].as_str().unwrap().len(), 9);
    assert_eq!((&call["id"], &messages[3]["tool_call_id"]), (&made["id"], &made["id"]));
    assert_eq!(
        (&messages[3]["content"], &messages[4]["content"]),
        (&json!("5"), &json!("That makes five."))
    );
}

#[test]
fn a_call_that_is_not_answered_is_forgotten_with_a_word() {
    let (run, messages) = chat(&CALL, "How much are two and three?\nAnd now?");
    assert_eq!(run.code, Some(0));
    assert_eq!(run.stdout.lines().count(), 2);
    assert_eq!(
        run.stderr,
        "note: the model's calls were not answered with /result: they are forgotten\n"
    );
    let roles: Vec<_> = messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "user", "assistant"]);
}

#[test]
fn a_call_that_breaks_off_is_told_and_waits_for_no_result() {
    let (run, messages) = chat(&CALL[..CALL.len() - 3], "How much are two and three?\n/result 5");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "\n"));
    let (error, note) = run.stderr.split_once("note: ").unwrap();
    assert!(error.starts_with("error: the model's tool calls are malformed\n"), "{error}");
    assert!(error.contains("expected the end of the call"), "{error}");
    assert_eq!(note, "no call waits for a result\n");
    let roles: Vec<_> = messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user"]);
}
