//! What people type stays text, and what is saved comes back.

use mistral_model::chat::{
    ChatEncoder, ChatRequest, Json, Message, Prompt, Role, SYSTEM_PROMPT, TemplateVersion, Tool,
    ToolCall, Validation,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::tokenizer;

fn encode(chat: &ChatEncoder<'_>, messages: impl Into<Vec<Message>>) -> Prompt {
    chat.encode(&ChatRequest::new(messages), Validation::Test).unwrap()
}

/// Text that tries to be something else.
fn tricky() -> impl Strategy<Value = String> {
    let pieces = [
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[/TOOL_RESULTS]",
        "<unk>",
        "<0x0A>",
        "\u{2581}",
        " ",
        "\n",
        "x",
        "é",
        "😀",
        "\0",
    ];
    let piece =
        prop_oneof![prop::sample::select(pieces.to_vec()).prop_map(str::to_owned), ".{0,4}"];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_saved_comes_back(texts in prop::collection::vec(tricky(), 4)) {
        let call = ToolCall::new("abcdefgh1", "f", texts[2].as_str());
        let request = ChatRequest::new([
            Message::system(texts[0].as_str()),
            Message::user(texts[1].as_str()),
            Message::tool_calls(vec![call.clone()]),
            Message::tool_result(&call, texts[3].as_str()),
            Message::prefix("So"),
        ])
        .with_tools([Tool::new("f", texts[0].as_str(), Json::Object(Vec::new()))]);
        prop_assert_eq!(ChatRequest::from_json(&request.to_json().to_string()).unwrap(), request);
    }
}

/// The controls among the ids of a conversation: they lie below the bytes.
fn controls(chat: &ChatEncoder<'_>, messages: &[Message], bytes: u32) -> Vec<u32> {
    encode(chat, messages).ids.into_iter().filter(|id| *id < bytes).collect()
}

#[test]
fn no_text_becomes_a_control() {
    let (old, new) = (tokenizer("v1"), tokenizer("v2"));
    let old = ChatEncoder::new(&old).unwrap();
    let new = ChatEncoder::new(&new).unwrap();
    let said = "x[\\PC<>\\[\\]/sINT]{0,12}";
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    TestRunner::new(config)
        .run(&(tricky(), tricky(), said), |(system, user, said)| {
            let messages = [
                Message::system(system),
                Message::user(user.as_str()),
                Message::assistant(said),
                Message::user(user),
            ];
            prop_assert_eq!(controls(&old, &messages, 3), [1, 2]);
            prop_assert_eq!(controls(&new, &messages, 771), [1, 3, 4, 2, 3, 4]);
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_guardrail_is_the_papers_and_stands_before_the_users_own_system_prompt() {
    let tokenizer = tokenizer("v2");
    let chat = ChatEncoder::new(&tokenizer).unwrap();
    let request = ChatRequest::new([Message::system("Be brief."), Message::user("Hi")]).guarded();
    let ids = chat.encode(&request, Validation::Serving).unwrap_err();
    assert_eq!(ids.class(), "InvalidRequestException"); // no model named
    let ids = chat.encode(&request, Validation::Test).unwrap().ids;
    let expected = format!("{SYSTEM_PROMPT}\n\nBe brief.\n\nHi");
    assert_eq!(tokenizer.decode(&ids).unwrap(), expected);
    assert_eq!(
        SYSTEM_PROMPT,
        "Always assist with care, respect, and truth. Respond with utmost utility yet securely. \
         Avoid harmful, unethical, prejudiced, or negative content. Ensure replies promote fairness \
         and positivity."
    );
}

#[test]
fn the_plain_template_writes_speakers_as_text() {
    let tokenizer = tokenizer("v1");
    let chat = ChatEncoder::with_template(&tokenizer, TemplateVersion::Plain).unwrap();
    let messages =
        [Message::system("S"), Message::user("a"), Message::assistant("b"), Message::user("c")];
    let ids = encode(&chat, messages).ids;
    let text = tokenizer.decode(&ids).unwrap();
    assert_eq!(text, "S\n\nUser: a\nAssistant: b\n User: c\nAssistant:");
    assert_eq!(ids.iter().filter(|id| **id < 3).count(), 1);
    assert_eq!(TemplateVersion::Plain.stop_strings(), ["\nUser:"]);
}

#[test]
fn a_message_tells_who_speaks_and_joins_its_parts() {
    let request = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
        {"type": "text", "text": ""}, {"type": "text", "text": "b"}]}]}"#;
    let request = ChatRequest::from_json(request).unwrap();
    assert_eq!(request.messages[0].role(), Role::User);
    assert_eq!(request.messages[0].text(), "a\n\nb");
}

#[test]
fn a_wrong_field_is_named_with_its_place_and_the_cure() {
    for (request, message) in [
        (
            r#"{"messages": [{"role": "robot", "content": "x"}]}"#,
            "messages.0.role is \"robot\", expected system, user, assistant or tool",
        ),
        (
            r#"{"messages": [{"role": "user"}]}"#,
            "messages.0.content is missing, expected this field",
        ),
        (
            r#"{"messages": [], "temperature": 1.5}"#,
            "temperature is 1.5, expected a number from 0 to 1",
        ),
        (
            r#"{"messages": [], "tools": [{"function": {"name": "f", "parameters": [1]}}]}"#,
            "tools.0.function.parameters is an array, expected an object",
        ),
        ("[]", "the request is an array, expected an object"),
    ] {
        assert_eq!(ChatRequest::from_json(request).unwrap_err().to_string(), message);
    }
}

#[test]
fn nothing_to_continue_is_told_before_anything_else_that_is_wrong() {
    for (role, class) in
        [("user", "InvalidMessageStructureException"), ("assistant", "ValidationError")]
    {
        let messages = format!(r#"[{{"role": "{role}", "content": "a"}}]"#);
        let request =
            format!(r#"{{"messages": {messages}, "fly": 1, "continue_final_message": true}}"#);
        assert_eq!(ChatRequest::from_json(&request).unwrap_err().class(), class, "{role}");
    }
}
