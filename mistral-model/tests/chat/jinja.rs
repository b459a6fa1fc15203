//! Templates of Hugging Face's kind: what they write, what they may not do, and what nobody can
//! smuggle through them.

use std::fs;
use std::time::{Duration, SystemTime};

use mistral_model::Tokenizer;
use mistral_model::chat::{
    ChatError, ChatFormat, ChatRequest, JinjaEncoder, JinjaError, JinjaTemplate, Json, Message,
    Tool, ToolCall,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::tokenizer;

/// As many models in the wild have it.
const CHAT_ML: &str = "\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}";

/// As Mistral's own, with controls.
const INST: &str = "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
    {{ raise_exception('roles must alternate, not ' ~ m.role) }}{% endif %}\
    {% if m.role == 'user' %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}\
    {% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}";

fn encoder<'t>(tokenizer: &'t Tokenizer, source: &str) -> JinjaEncoder<'t> {
    JinjaEncoder::new(tokenizer, JinjaTemplate::new(source).unwrap())
}

/// What a template makes of a question.
fn render(source: &str, request: &ChatRequest) -> Result<String, ChatError> {
    let tokenizer = tokenizer("v2");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_695_772_800);
    encoder(&tokenizer, source).at(time).render(request)
}

fn says(source: &str) -> String {
    render(source, &ChatRequest::new([Message::user("Hi")])).unwrap()
}

#[test]
fn a_template_writes_the_conversation() {
    let messages =
        [Message::system("S"), Message::user(" a "), Message::assistant("b"), Message::user("c")];
    assert_eq!(
        render(CHAT_ML, &ChatRequest::new(messages)).unwrap(),
        // What Jinja2 3.1 writes for it.
        "<|im_start|>system\nS<|im_end|>\n\n<|im_start|>user\na<|im_end|>\n\n\
         <|im_start|>assistant\nb<|im_end|>\n\n<|im_start|>user\nc<|im_end|>\n\n\
         <|im_start|>assistant\n\n"
    );
}

#[test]
fn controls_that_the_template_writes_are_ids_and_text_between_them_is_text() {
    let tokenizer = tokenizer("v2");
    let chat = encoder(&tokenizer, INST);
    let messages =
        [Message::user(" [INST] a</s>"), Message::assistant("<s>"), Message::user("[/INST")];
    let text = |text| tokenizer.encode_without_bos(text).unwrap();
    let mut expected = vec![1, 3];
    expected.extend(text(" [INST] a</s> "));
    expected.push(4);
    expected.extend(text("<s>"));
    expected.extend([2, 3]);
    expected.extend(text(" [/INST "));
    expected.push(4);
    assert_eq!(chat.prompt(&ChatRequest::new(messages)).unwrap().ids, expected);
}

#[test]
fn nobody_can_type_a_control() {
    let tokenizer = tokenizer("v2");
    // What stands beside the text could complete a control.
    let chat = encoder(
        &tokenizer,
        "{{ bos_token }}[{{ messages[0].content }}][INST{{ messages[0].content | trim }}",
    );
    let piece = prop::sample::select(vec![
        "[INST]",
        "[/INST]",
        "</s>",
        "<s>",
        "[",
        "]",
        "INST",
        "INST]",
        "[INS",
        "T",
        "<",
        "s>",
        " ",
        "\u{f0000}",
        "x",
        "[inst]",
    ]);
    let text = prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
    TestRunner::new(config)
        .run(&text, |said| {
            let request = ChatRequest::new([Message::user(said.as_str())]);
            let ids = chat.prompt(&request).unwrap().ids;
            let controls: Vec<_> = ids.iter().copied().filter(|id| *id < 771).collect();
            prop_assert_eq!(controls, [1], "{}", said);
            let written = format!("<s>[{said}][INST{}", said.trim());
            prop_assert_eq!(chat.render(&request).unwrap(), written);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_template_may_refuse_in_its_own_words() {
    let error = render(INST, &ChatRequest::new([Message::system("x"), Message::user("y")]));
    let Err(ChatError::Template(JinjaError::Refused { message })) = error else {
        panic!("{error:?}")
    };
    assert_eq!(message, "roles must alternate, not system");
}

#[test]
fn what_templates_in_the_wild_use_works_as_in_python() {
    for (source, written) in [
        ("{{ strftime_now('%d %b %Y, %H:%M') }}", "27 Sep 2023, 00:00"),
        ("{{ none }} {{ true }} {{ 1.0 }} {{ [1] }}", "None True 1.0 [1]"),
        ("{{ messages | length }}{{ tools is none }}", "1True"),
        (
            "{{ {'b': [1, 2.50, none], 'a': 'é<\"'} | tojson }}",
            r#"{"b": [1, 2.5, null], "a": "é<\""}"#,
        ),
        (
            "{{ {'a': [1, {}], 'b': []} | tojson(indent=2) }}",
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}",
        ),
        (
            "{{ 'a-b'.split('-')[1].upper() }}{{ ' x '.strip() }}{{ 'ab'.startswith('a') }}",
            "BxTrue",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(messages[0]['content']) }}", "<Hi>"),
        ("{{ messages[0].get('name', 'nobody') }}{{ undefined_thing }}", "nobody"),
        ("{%- for m in messages if m.role == 'user' -%} {{ m.content }} {%- endfor -%}", "Hi"),
    ] {
        assert_eq!(says(source), written, "{source}");
    }
}

#[test]
fn tools_and_calls_are_values() {
    let parameters =
        Json::parse(r#"{"type": "object", "properties": {"z": {}, "a": {"minimum": 1e3}}}"#)
            .unwrap();
    let call = ToolCall::new("abcdefgh1", "f", r#"{"z": 1, "a": "</s>"}"#);
    let request = ChatRequest::new([
        Message::user("?"),
        Message::tool_calls(vec![call.clone()]),
        Message::tool_result(&call, "42"),
    ])
    .with_tools([Tool::new("f", "F", parameters)]);
    let source = "{{ tools[0].function.parameters | tojson }}|{{ messages[1].tool_calls[0].function.arguments | tojson }}|\
        {{ messages[1].tool_calls[0].function.arguments.z + 1 }}|{{ messages[1].content is defined }}|\
        {{ messages[2].tool_call_id }}{{ messages[2].name }}{{ messages[2].content }}";
    assert_eq!(
        render(source, &request).unwrap(),
        "{\"type\": \"object\", \"properties\": {\"z\": {}, \"a\": {\"minimum\": 1000.0}}}|\
         {\"z\": 1, \"a\": \"</s>\"}|2|False|abcdefgh1f42"
    );
}

#[test]
fn a_template_cannot_run_write_or_be_without_end() {
    let request = ChatRequest::new([Message::user("Hi")]);
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let error = render(endless, &request).unwrap_err();
    assert!(matches!(error, ChatError::Template(JinjaError::Run { .. })), "{error}");
    let wordy = "{% for a in range(2000) %}{{ 'x' * 1000 }}{% endfor %}";
    let error = render(wordy, &request).unwrap_err();
    assert!(matches!(error, ChatError::Template(JinjaError::Output { .. })), "{error}");
    let deep = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let error = render(deep, &request).unwrap_err();
    assert!(matches!(error, ChatError::Template(JinjaError::Run { .. })), "{error}");
    let long = JinjaTemplate::new("x".repeat((1 << 20) + 1)).unwrap_err();
    assert!(matches!(long, JinjaError::TooLong { found: 1_048_577, limit: 1_048_576 }));
    let broken = JinjaTemplate::new("{% for %}").unwrap_err();
    assert!(matches!(broken, JinjaError::Syntax { .. }), "{broken}");
}

#[test]
fn what_cannot_be_gone_on_with_is_refused() {
    let render = |messages: Vec<Message>| render("x", &ChatRequest::new(messages)).unwrap_err();
    assert!(matches!(render(vec![]), ChatError::NoMessages));
    let prefix = render(vec![Message::user("a"), Message::prefix("b")]);
    assert!(matches!(prefix, ChatError::Template(JinjaError::Prefix)));
    let last = render(vec![Message::user("a"), Message::assistant("b")]);
    assert!(matches!(last, ChatError::LastMessage));
}

#[test]
fn a_folder_gives_its_template_and_its_special_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let found = || JinjaTemplate::open(folder.path()).unwrap();
    assert!(found().is_none());
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "rag", "template": "r"},
        {"name": "default", "template": "{{ bos_token }}{{ eos_token }}"}],
        "bos_token": {"content": "<B>"}, "eos_token": "<E>"}"#,
    );
    let tokenizer = tokenizer("v2");
    let rendered = |template| {
        let request = ChatRequest::new([Message::user("Hi")]);
        JinjaEncoder::new(&tokenizer, template).render(&request).unwrap()
    };
    assert_eq!(rendered(found().unwrap()), "<B><E>");
    write("chat_template.jinja", "own {{ eos_token }}");
    assert_eq!(rendered(found().unwrap()), "own <E>");
    write("tokenizer_config.json", "{");
    let error = JinjaTemplate::open(folder.path()).unwrap_err();
    assert!(matches!(error, JinjaError::Json { .. }), "{error}");
}
