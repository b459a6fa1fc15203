//! Answers of a model to tools: read whole, in pieces, by token; and what is malformed, and where.

use mistral_model::chat::{
    AnswerError, AnswerParser, CallParser, CallProblem, ChatEncoder, ChatRequest, Message,
    ToolCall, Validation, parse_calls,
};
use proptest::prelude::*;

use super::tokenizer;

const TWO: &str = r#" [{"name": "add", "arguments": {"a": 1e3, "s": "}]\"["}, "id": "abcdefgh1"},
    {"arguments": {}, "name": "ping", "more": [1]}] "#;

fn two() -> Vec<ToolCall> {
    let ping = ToolCall { id: None, name: "ping".to_owned(), arguments: "{}".to_owned() };
    vec![ToolCall::new("abcdefgh1", "add", r#"{"a": 1000.0, "s": "}]\"["}"#), ping]
}

#[test]
fn calls_are_read_with_and_without_ids() {
    assert_eq!(parse_calls(TWO).unwrap(), two());
    assert_eq!(parse_calls("[]").unwrap(), []);
    let text = parse_calls(r#"[{"name": "f", "arguments": "no JSON"}]"#).unwrap();
    assert_eq!(text[0].arguments, "no JSON");
}

#[test]
fn a_call_comes_out_with_the_character_that_completes_it() {
    let mut parser = CallParser::new();
    let mut ends = Vec::new();
    for (at, c) in TWO.char_indices() {
        let calls = parser.push(c.encode_utf8(&mut [0; 4])).unwrap();
        ends.extend(calls.into_iter().map(|_| at));
    }
    let closing: Vec<_> = TWO.match_indices(['}']).map(|(at, _)| at).collect();
    assert_eq!(ends, [closing[2], closing[4]]);
    parser.finish().unwrap();
}

#[test]
fn what_is_malformed_is_told_with_its_place() {
    for (text, call, offset, message) in [
        ("", 0, 0, "the answer ends, expected `[`"),
        ("{}", 0, 0, "found '{', expected `[`"),
        ("[1]", 0, 1, "found '1', expected `{`"),
        ("[", 0, 1, "the answer ends, expected a call"),
        ("[{", 0, 2, "the answer ends, expected the end of the call"),
        (r#"[{"name": "f", "arguments": {}}"#, 1, 31, "the answer ends, expected `,` or `]`"),
        (r#"[{"name": "f", "arguments": {}},]"#, 1, 32, "found ']', expected `{`"),
        (
            r#"[{"name": "f", "arguments": {}}] and"#,
            1,
            33,
            "found 'a', expected the end of the answer",
        ),
        (r#"[{"name" "f"}]"#, 0, 9, "expected `:`"),
        (r#"[{"name": "f", "arguments": {"a": tru}}]"#, 0, 34, "expected a value"),
        (r#"[{"name": "f", "arguments": {"a": ]}]"#, 0, 34, "expected a value"),
        (
            r#"[{"arguments": {}}]"#,
            0,
            1,
            "name is missing, expected 1 to 64 letters, digits, `_` or `-`",
        ),
        (
            r#"[{"name": "a b", "arguments": {}}]"#,
            0,
            1,
            "name is \"a b\", expected 1 to 64 letters, digits, `_` or `-`",
        ),
        (r#"[{"name": "f"}]"#, 0, 1, "arguments is missing, expected an object"),
        (r#"[{"name": "f", "arguments": 5}]"#, 0, 1, "arguments is an integer, expected an object"),
        (
            r#"[{"name": "f", "arguments": {}, "id": "short"}]"#,
            0,
            1,
            "id is \"short\", expected 9 letters or digits",
        ),
    ] {
        let error = parse_calls(text).unwrap_err();
        assert_eq!((error.call, error.offset), (call, offset), "{text}: {error}");
        assert_eq!(error.problem.to_string(), message, "{text}");
    }
}

#[test]
fn an_error_stays() {
    let mut parser = CallParser::new();
    let error = parser.push("[x").unwrap_err();
    assert_eq!(parser.push("{}]").unwrap_err(), error);
    assert_eq!(parser.finish().unwrap_err(), error);
}

/// All parts of an answer, joined.
fn read(chat: &ChatEncoder<'_>, ids: &[u32]) -> Result<(String, Vec<ToolCall>), AnswerError> {
    let mut parser = AnswerParser::new(chat);
    let (mut text, mut calls) = (String::new(), Vec::new());
    for id in ids {
        let part = parser.push(*id)?;
        text.push_str(&part.text);
        calls.extend(part.calls);
    }
    let rest = parser.finish()?;
    text.push_str(&rest.text);
    calls.extend(rest.calls);
    Ok((text, calls))
}

#[test]
fn tokens_are_text_until_the_control_and_calls_behind_it() {
    let tokenizer = tokenizer("v2");
    let chat = ChatEncoder::new(&tokenizer).unwrap();
    let text = tokenizer.encode_without_bos("  Let me see. [TOOL_CALLS]").unwrap();
    assert_eq!(read(&chat, &text).unwrap(), ("  Let me see. [TOOL_CALLS]".to_owned(), vec![]));
    let mut ids = text.clone();
    ids.push(5);
    ids.extend(tokenizer.encode_without_bos(TWO).unwrap());
    assert_eq!(read(&chat, &ids).unwrap(), ("  Let me see. [TOOL_CALLS]".to_owned(), two()));
    let error = read(&chat, &ids[..ids.len() - 6]).unwrap_err();
    let AnswerError::Call { source } = error else { panic!("{error}") };
    assert!(matches!(source.problem, CallProblem::Unfinished { .. }), "{source}");
}

#[test]
fn what_the_template_writes_is_read_back() {
    let tokenizer = tokenizer("v2");
    let chat = ChatEncoder::new(&tokenizer).unwrap();
    let calls = vec![
        ToolCall::new("abcdefgh1", "f", r#"{"é": ["[TOOL_CALLS]", 1e-07, null]}"#),
        ToolCall::new("A1b2C3d4E", "g", "{}"),
    ];
    let Message::Assistant { content, tool_calls, .. } = Message::tool_calls(calls.clone()) else {
        panic!("calls are the assistant's")
    };
    let prefix = Message::Assistant { content, tool_calls, prefix: true };
    let request = ChatRequest::new([Message::user("?"), prefix]);
    let prompt = chat.encode(&request, Validation::Test).unwrap();
    assert_eq!(read(&chat, prompt.prefix()).unwrap(), (String::new(), calls));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(text in r#"(\[?\{"name": ?"f"|,|\{|\}|\]|"|\\| |é|"arguments":\{\}){0,9}"#, cut in 0_usize..80) {
        let cut = text.char_indices().map(|(at, _)| at).take(cut).last().unwrap_or_default();
        let mut parser = CallParser::new();
        let parts = (|| {
            let mut calls = parser.push(&text[..cut])?;
            calls.extend(parser.push(&text[cut..])?);
            parser.finish()?;
            Ok(calls)
        })();
        prop_assert_eq!(parts, parse_calls(&text));
    }
}
