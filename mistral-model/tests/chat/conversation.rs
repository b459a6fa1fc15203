//! Turns over one session give the answers of sessions that start anew.

use mistral_model::chat::{
    ChatEncoder, ChatRequest, Conversation, ConversationError, Message, ReplyEnd, TemplateVersion,
    ToolCall, Validation,
};
use mistral_model::generate::{LogitFilter, SamplerError, StopStrings};
use mistral_model::{
    Config, DType, ModelError, Sampler, Session, SessionOptions, Tokenizer, Transformer, Window,
};

use super::{demo, tokenizer};

fn say(chat: &mut Conversation<'_, &Transformer>, text: &str, tokens: usize) -> (String, ReplyEnd) {
    let mut reply = chat.say(Message::user(text), Sampler::greedy(), tokens).unwrap();
    let parts = reply.by_ref().map(|part| part.unwrap().text).collect();
    (parts, reply.finish())
}

fn chat<'c>(
    format: &'c ChatEncoder<'_>,
    model: &'c Transformer,
) -> Conversation<'c, &'c Transformer> {
    let session = Session::new(model, SessionOptions::default()).unwrap();
    Conversation::new(format, session, ChatRequest::default(), StopStrings::default())
}

/// The demo model, with a window of 128 that turns over, and without.
fn models() -> [(Transformer, Tokenizer); 2] {
    let open = |window| {
        let options = mistral_model::OpenOptions::new().window(window);
        let checkpoint = mistral_model::Checkpoint::open_with(demo(), options).unwrap();
        (checkpoint.load().unwrap(), Tokenizer::open(demo()).unwrap())
    };
    [open(Window::last(128).unwrap()), open(Window::Full)]
}

#[test]
fn a_turn_gives_the_answer_of_a_session_that_starts_anew() {
    for (model, tokenizer) in models() {
        let format = ChatEncoder::new(&tokenizer).unwrap();
        assert_eq!(format.template(), TemplateVersion::Plain);
        let mut whole = chat(&format, &model);
        whole.request_mut().messages.push(Message::system("Tales are told."));
        for text in ["Who lived in the wood?", "And then?", "What did the fox say?", "Why?"] {
            let before = whole.request().clone();
            let found = say(&mut whole, text, 25);
            let session = Session::new(&model, SessionOptions::default()).unwrap();
            let mut fresh = Conversation::new(&format, session, before, StopStrings::default());
            assert_eq!(say(&mut fresh, text, 25), found, "{text}");
            assert_eq!(fresh.request(), whole.request());
        }
        assert_eq!(whole.request().messages.len(), 9);
    }
}

#[test]
fn what_was_read_is_not_read_again() {
    let [_, (model, tokenizer)] = models();
    let format = ChatEncoder::new(&tokenizer).unwrap();
    let mut chat = chat(&format, &model);
    say(&mut chat, "Who lived in the wood?", 12);
    let before = chat.session().tokens().to_vec();
    say(&mut chat, "And then?", 1);
    let kept = chat.session().tokens().iter().zip(&before).take_while(|(a, b)| a == b).count();
    assert!(kept > before.len() / 2, "{kept} of {}", before.len());
    let prompt = ChatRequest::new(&chat.request().messages[..3]);
    assert_eq!(chat.session().tokens(), format.encode(&prompt, Validation::Test).unwrap().ids);
}

#[test]
fn an_answer_that_is_broken_off_is_part_of_the_conversation() {
    let [(model, tokenizer), _] = models();
    let format = ChatEncoder::new(&tokenizer).unwrap();
    let mut chat = chat(&format, &model);
    let mut reply = chat.say(Message::user("Tell!"), Sampler::greedy(), 50).unwrap();
    let first = reply.next().unwrap().unwrap().text;
    assert_eq!(reply.finish(), ReplyEnd::Stopped);
    assert_eq!(chat.request().messages[1], Message::assistant(first));
}

#[test]
fn a_prefix_is_gone_on_with() {
    let [(model, tokenizer), _] = models();
    let format = ChatEncoder::new(&tokenizer).unwrap();
    let mut chat = chat(&format, &model);
    chat.request_mut().messages.push(Message::user("Tell!"));
    let mut reply = chat.say(Message::prefix("Once"), Sampler::greedy(), 4).unwrap();
    let rest: String = reply.by_ref().map(|part| part.unwrap().text).collect();
    assert_eq!(reply.finish(), ReplyEnd::MaxTokens);
    assert_eq!(chat.request().messages[1], Message::assistant(format!("Once{rest}")));
}

/// A model for the vocabulary of 7B v0.3, with a context of so many tokens.
fn random(context_len: usize) -> Transformer {
    let config = Config {
        dim: 32,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 16,
        hidden_dim: 32,
        vocab_size: 32_768,
        window: Window::Full,
        context_len,
        ..Config::mistral_7b_v03()
    };
    Transformer::random(&config, DType::F32, 1).unwrap()
}

/// A model that says what it is told to say.
#[derive(Debug, Clone)]
struct Told(Vec<u32>);

impl LogitFilter for Told {
    fn filter(&mut self, _: &[u32], logits: &mut [f32]) -> Result<(), SamplerError> {
        logits.fill(f32::NEG_INFINITY);
        // Behind the last comes the end.
        logits[self.0.first().copied().unwrap_or(2) as usize] = 0.0;
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<(), SamplerError> {
        self.0.drain(..self.0.len().min(1));
        Ok(())
    }
}

/// Answers with these calls, and gives them as they came out.
fn call(chat: &mut Conversation<'_, &Transformer>, text: &str, calls: &str) -> Vec<ToolCall> {
    // [TOOL_CALLS]
    let mut ids = vec![5];
    ids.extend(tokenizer("v2").encode_without_bos(calls).unwrap());
    let told = Sampler::greedy().with_filter(Told(ids));
    let mut reply = chat.say(Message::user(text), told, 100).unwrap();
    let calls = reply.by_ref().flat_map(|part| part.unwrap().calls).collect();
    assert_eq!(reply.finish(), ReplyEnd::Complete);
    calls
}

#[test]
fn calls_without_ids_are_answered_and_the_conversation_goes_on() {
    let (model, tokenizer) = (random(400), tokenizer("v2"));
    let format = ChatEncoder::new(&tokenizer).unwrap();
    let mut chat = chat(&format, &model);
    let one = r#"[{"name": "ping", "arguments": {}}]"#;
    let three = r#"[{"name": "f", "arguments": {}, "id": "call00002"},
        {"name": "g", "arguments": {}}, {"name": "h", "arguments": {}, "id": null}]"#;
    let mut ids = Vec::new();
    for calls in [one, three] {
        let shown = call(&mut chat, "Call!", calls);
        assert_eq!(chat.request().open_calls(), shown);
        ids.extend(shown.iter().map(|call| call.id.clone().unwrap()));
        let (last, first) = shown.split_last().unwrap();
        let results = first.iter().map(|call| Message::tool_result(call, "1"));
        chat.request_mut().messages.extend(results);
        assert_eq!(chat.request().open_calls(), std::slice::from_ref(last));
        let told = || Sampler::greedy().with_filter(Told(vec![4000]));
        let mut reply = chat.say(Message::tool_result(last, "2"), told(), 5).unwrap();
        assert!(reply.by_ref().all(|part| part.is_ok()));
        assert_eq!(reply.finish(), ReplyEnd::Complete);
        assert_eq!(chat.request().open_calls(), []);
        let mut reply = chat.say(Message::user("And?"), told(), 5).unwrap();
        assert!(reply.by_ref().all(|part| part.is_ok()));
        reply.finish();
    }
    assert_eq!(ids, ["call00000", "call00002", "call00001", "call00003"]);
}

#[test]
fn a_message_that_cannot_stand_leaves_the_conversation_as_it_was() {
    let (model, tokenizer) = (random(40), tokenizer("v2"));
    let format = ChatEncoder::new(&tokenizer).unwrap();
    let mut chat = chat(&format, &model);
    let error = chat.say(Message::assistant("Hi"), Sampler::greedy(), 1).unwrap_err();
    assert!(matches!(error, ConversationError::Chat(_)), "{error}");
    let error = chat.say(Message::user("long ".repeat(50)), Sampler::greedy(), 1).unwrap_err();
    assert!(matches!(error, ConversationError::Model(ModelError::ContextFull { .. })), "{error}");
    assert_eq!(chat.request().messages, []);
    let (_, end) = say(&mut chat, "Hi", 100);
    assert_eq!(end, ReplyEnd::ContextFull);
    assert_eq!(chat.session().position(), 40);
}
