//! Text that is held to a schema, a grammar or an expression: it follows, always.
#![cfg(feature = "constrain")]
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

use std::path::PathBuf;

use mistral_model::generate::{
    Constraint, ConstraintError, Constraints, LogitBias, LogitFilter, Sampler, SamplerError,
    TextGenerator,
};
use mistral_model::{
    Config, DType, SamplerOptions, Session, SessionOptions, Tokenizer, Transformer, Window,
};
use serde::Deserialize;
use serde_json::Value;

const BOS: u32 = 1;
const EOS: u32 = 2;

/// 3072 pieces, with bytes to fall back to.
fn tokenizer() -> Tokenizer {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../mistral-cli/demo/model");
    Tokenizer::open(folder).unwrap()
}

fn options(seed: u64) -> SamplerOptions {
    SamplerOptions { seed, ..SamplerOptions::default() }
}

/// What a model writes that knows nothing: every token is as likely as another, by turns.
fn babble(tokenizer: &Tokenizer, constraint: &Constraint, seed: u64) -> Vec<u32> {
    let mut sampler = Sampler::new(options(seed)).unwrap().with_filter(constraint.clone());
    let mut ids = Vec::new();
    for step in 0..2000u64 {
        let noise = |id: u64| ((id + 7) * (step + 3) * (seed + 11) % 1013) as f32 / 500.0;
        let logits: Vec<f32> = (0..tokenizer.vocab_size() as u64).map(noise).collect();
        match sampler.sample(&logits).unwrap() {
            EOS => return ids,
            token => ids.push(token),
        }
    }
    panic!("no end: {:?}", tokenizer.decode(&ids));
}

/// The text behind other text, so that no space of it is dropped.
fn text_behind(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let before = tokenizer.encode("x").unwrap();
    let whole = tokenizer.decode(&[&before[..], ids].concat()).unwrap();
    whole.strip_prefix('x').unwrap().to_owned()
}

/// Checks what many seeds write.
#[track_caller]
fn always(constraint: &Constraint, seeds: u64, check: impl Fn(&str)) {
    let tokenizer = tokenizer();
    let mut texts = Vec::new();
    for seed in 0..seeds {
        let text = text_behind(&tokenizer, &babble(&tokenizer, constraint, seed));
        check(&text);
        texts.push(text);
    }
    texts.dedup();
    assert!(texts.len() > 1, "a constraint leaves room for more than {texts:?}");
}

fn constraints() -> Constraints {
    Constraints::new(&tokenizer(), &[EOS]).unwrap()
}

const PERSON: &str = r##"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "role": {"enum": ["king", "fox", "goose girl"]},
        "friends": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/friend"}},
        "weight": {"anyOf": [{"type": "null"}, {"const": 2.5}]}
    },
    "required": ["name", "age", "role", "friends"],
    "additionalProperties": false,
    "$defs": {
        "friend": {
            "type": "object",
            "properties": {"name": {"type": "string", "pattern": "^[A-Z][a-zé]{1,4}$"}},
            "required": ["name"],
            "additionalProperties": false
        }
    }
}"##;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    name: String,
    age: u8,
    role: Role,
    friends: Vec<Friend>,
    weight: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    King,
    Fox,
    #[serde(rename = "goose girl")]
    GooseGirl,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Friend {
    name: String,
}

fn check_person(text: &str) {
    let person: Person = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!((1..=6).contains(&person.name.chars().count()), "{text}");
    assert!(person.age <= 130 && person.friends.len() <= 2, "{text}");
    assert!(person.weight.is_none_or(|weight| weight == 2.5), "{text}");
    assert!(matches!(person.role, Role::King | Role::Fox | Role::GooseGirl));
    for friend in &person.friends {
        let (first, rest) = friend.name.split_at(1);
        assert!(first.as_bytes()[0].is_ascii_uppercase(), "{text}");
        assert!((1..=4).contains(&rest.chars().count()), "{text}");
        assert!(rest.chars().all(|c| c.is_ascii_lowercase() || c == 'é'), "{text}");
    }
}

#[test]
fn whatever_the_seed_an_object_follows_its_schema() {
    always(&constraints().json_schema(PERSON).unwrap(), 40, check_person);
}

#[test]
fn arrays_of_alternatives_follow_their_schema() {
    let schema = r#"{"type": "array", "minItems": 2, "maxItems": 3,
        "items": {"anyOf": [{"type": "boolean"}, {"type": "integer", "multipleOf": 5,
            "minimum": -20, "maximum": 20}, {"type": "string", "format": "date"}]}}"#;
    always(&constraints().json_schema(schema).unwrap(), 40, |text| {
        let items: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!((2..=3).contains(&items.len()), "{text}");
        for item in items {
            match item {
                Value::Bool(_) => {}
                Value::Number(n) => {
                    // -0 is an integer of JSON, and none of Rust.
                    let n = n.as_f64().unwrap();
                    assert!(n % 5.0 == 0.0 && (-20.0..=20.0).contains(&n), "{text}");
                }
                Value::String(date) => {
                    let parts: Vec<u32> = date.split('-').map(|p| p.parse().unwrap()).collect();
                    assert!(date.len() == 10 && parts.len() == 3, "{text}");
                    assert!((1..=12).contains(&parts[1]) && (1..=31).contains(&parts[2]), "{text}");
                }
                other => panic!("{other}"),
            }
        }
    });
}

#[test]
fn a_schema_may_speak_of_itself() {
    let schema = r##"{"type": "object", "properties": {
        "n": {"enum": [1, 2]}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["n", "next"], "additionalProperties": false}"##;
    always(&constraints().json_schema(schema).unwrap(), 20, |text| {
        let mut item: Value = serde_json::from_str(text).unwrap();
        while !item.is_null() {
            assert_eq!(item.as_object().unwrap().len(), 2, "{text}");
            assert!([1, 2].contains(&item["n"].as_u64().unwrap()), "{text}");
            item = item["next"].take();
        }
    });
}

#[test]
fn a_strangers_schema_cannot_loosen_its_own_reading() {
    let schema = r#"{"not": {"type": "string"}, "x-guidance": {"lenient": true}}"#;
    let error = constraints().json_schema(schema).unwrap_err();
    assert!(matches!(error, ConstraintError::Refused { kind: "schema", .. }), "{error}");
}

#[test]
fn characters_beyond_the_pieces_come_byte_by_byte_and_whole() {
    let constraint = constraints().regex("[é😀ⵣ]{2,5}").unwrap();
    always(&constraint, 20, |text| {
        assert!((2..=5).contains(&text.chars().count()), "{text}");
        assert!(text.chars().all(|c| "é😀ⵣ".contains(c)), "{text}");
    });
}

#[test]
fn an_expression_matches_the_whole_text() {
    let constraint = constraints().regex("[A-Z]{2}-[0-9]{4}( or more)?").unwrap();
    always(&constraint, 30, |text| {
        let plate = text.strip_suffix(" or more").unwrap_or(text);
        let (letters, digits) = plate.split_once('-').unwrap();
        assert!(letters.len() == 2 && letters.chars().all(|c| c.is_ascii_uppercase()), "{text}");
        assert!(digits.len() == 4 && digits.chars().all(|c| c.is_ascii_digit()), "{text}");
    });
}

#[test]
fn a_grammar_holds_what_no_expression_can() {
    let constraint = constraints().grammar("start: \"(\" start \")\" | \"[\" start \"]\" | \"x\"");
    always(&constraint.unwrap(), 30, |text| {
        let mut open = Vec::new();
        for c in text.chars() {
            match c {
                '(' | '[' => open.push(c),
                ')' => assert_eq!(open.pop(), Some('('), "{text}"),
                ']' => assert_eq!(open.pop(), Some('['), "{text}"),
                _ => assert_eq!(c, 'x', "{text}"),
            }
        }
        assert!(open.is_empty() && text.matches('x').count() == 1, "{text}");
    });
}

#[test]
fn a_model_writes_json_through_the_whole_pipeline() {
    let tokenizer = tokenizer();
    let config = Config {
        dim: 32,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 16,
        hidden_dim: 48,
        vocab_size: tokenizer.vocab_size(),
        window: Window::last(16).unwrap(),
        eos_tokens: vec![EOS],
        ..Config::mistral_7b_v01()
    };
    let model = Transformer::random(&config, DType::F32, 3).unwrap();
    let constraint =
        Constraints::new(&tokenizer, &config.eos_tokens).unwrap().json_schema(PERSON).unwrap();
    for seed in 0..8 {
        let options = SamplerOptions { top_p: 0.9, frequency_penalty: 0.2, ..options(seed) };
        let options =
            if seed == 0 { SamplerOptions { temperature: 0.0, ..options } } else { options };
        let sampler = Sampler::new(options).unwrap().with_filter(constraint.clone());
        let mut session = Session::new(&model, SessionOptions::default()).unwrap();
        let tokens = session.generate(&[BOS, 9], sampler).unwrap();
        let text = TextGenerator::new(tokens, &tokenizer, Default::default()).max_tokens(1000);
        check_person(&text.map(Result::unwrap).collect::<String>());
    }
}

/// Which tokens a constraint allows, after it has followed some.
fn allowed(constraint: &mut Constraint, vocab_size: usize) -> Result<Vec<u32>, SamplerError> {
    let mut logits = vec![0.0; vocab_size];
    constraint.filter(&[], &mut logits)?;
    Ok((0..).zip(logits).filter(|(_, l)| *l == 0.0).map(|(id, _)| id).collect())
}

#[test]
fn the_end_is_allowed_where_the_text_may_end_and_other_controls_never() {
    let tokenizer = tokenizer();
    let mut digits = constraints().regex("[0-9]{2,3}").unwrap();
    let mut ends = Vec::new();
    for digit in "123".chars() {
        let ids = allowed(&mut digits, tokenizer.vocab_size()).unwrap();
        assert!(ids.iter().all(|id| *id == EOS || tokenizer.bytes(*id).is_some()));
        ends.push(ids.contains(&EOS));
        assert_eq!(digits.may_end().unwrap(), ids.contains(&EOS));
        digits.accept(tokenizer.id(&digit.to_string()).unwrap()).unwrap();
    }
    assert_eq!(ends, [false, false, true]);
    // Nothing but the end, and that for ever.
    for _ in 0..3 {
        assert_eq!(allowed(&mut digits, tokenizer.vocab_size()).unwrap(), [EOS]);
        digits.accept(EOS).unwrap();
    }
}

#[test]
fn a_grammar_that_names_a_control_token_gets_none() {
    for grammar in ["start: <[1]> \"a\"", "start: <[2]> \"a\"", "start: <[0-2]>"] {
        let mut constraint = constraints().grammar(grammar).unwrap();
        let error = allowed(&mut constraint, 3072).unwrap_err();
        let source = ConstraintError::DeadEnd { tokens: 0 };
        assert_eq!(error, SamplerError::Constraint { source }, "{grammar}");
    }
}

#[test]
fn padding_of_the_logits_is_never_allowed_and_missing_ones_do_no_harm() {
    let mut anything = constraints().regex("(?s:.)*").unwrap();
    assert!(allowed(&mut anything, 4000).unwrap().iter().all(|id| *id < 3072));
    assert!(!allowed(&mut anything, 300).unwrap().is_empty());
}

#[test]
fn one_space_may_come_first_if_it_is_allowed() {
    let plain = constraints();
    let spaced = plain.clone().allow_leading_space();
    let tokenizer = tokenizer();
    let space = tokenizer.id("\u{2581}").unwrap();
    let first = |constraints: &Constraints| {
        let mut constraint = constraints.json_schema(r#"{"enum": ["a", "b"]}"#).unwrap();
        let ids = allowed(&mut constraint, 3072).unwrap();
        (ids.contains(&space), constraint)
    };
    assert!(!first(&plain).0);
    let (allows_space, mut constraint) = first(&spaced);
    assert!(allows_space);
    constraint.accept(space).unwrap();
    assert!(!allowed(&mut constraint, 3072).unwrap().contains(&space), "one is enough");
    always(&spaced.json_schema(PERSON).unwrap(), 10, check_person);
    let word = spaced.regex("[a-z]{3}").unwrap();
    always(&word, 10, |text| assert_eq!(text.strip_prefix(' ').unwrap_or(text).len(), 3));
}

#[test]
fn clones_go_their_own_ways() {
    let tokenizer = tokenizer();
    let mut first = constraints().regex("ab|cd").unwrap();
    let mut second = first.clone();
    first.accept(tokenizer.id("a").unwrap()).unwrap();
    second.accept(tokenizer.id("c").unwrap()).unwrap();
    let bytes = |constraint: &mut Constraint| {
        let ids = allowed(constraint, 3072).unwrap();
        ids.iter().map(|id| tokenizer.bytes(*id).unwrap().into_owned()).collect::<Vec<_>>()
    };
    // As a piece, and as the byte.
    assert_eq!(bytes(&mut first), [b"b", b"b"]);
    assert_eq!(bytes(&mut second), [b"d", b"d"]);
}

/// Pieces without bytes to fall back to: a, b and their pair.
fn small_tokenizer() -> Tokenizer {
    let json = r#"{"added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4},
            "merges": ["a b"], "byte_fallback": false}}"#;
    Tokenizer::from_json(json.as_bytes()).unwrap()
}

#[test]
fn where_nothing_can_follow_there_is_an_error_and_no_token() {
    let small = Constraints::new(&small_tokenizer(), &[1]).unwrap();
    for (expression, after) in [("c", 0), ("ac", 1), ("abac", 2)] {
        let constraint = small.regex(expression).unwrap();
        let mut sampler = Sampler::greedy().with_filter(constraint);
        let logits = [9.0, 8.0, 1.0, 2.0, 3.0];
        let mut tokens = 0;
        let error = loop {
            match sampler.sample(&logits) {
                Ok(token) => assert!(token > 1, "{token}"),
                Err(error) => break error,
            }
            tokens += 1;
        };
        let source = ConstraintError::DeadEnd { tokens: after };
        assert_eq!((error, tokens), (SamplerError::Constraint { source }, after), "{expression}");
    }
    let without_end = constraints().json_schema(r##"{"$ref": "#"}"##).unwrap();
    let error = Sampler::greedy().with_filter(without_end).sample(&[0.0; 3072]).unwrap_err();
    let source = ConstraintError::DeadEnd { tokens: 0 };
    assert_eq!(error, SamplerError::Constraint { source });
}

#[test]
fn a_token_that_a_later_filter_allows_again_is_an_error() {
    #[derive(Debug, Clone)]
    struct Always(u32);
    impl LogitFilter for Always {
        fn filter(&mut self, _: &[u32], logits: &mut [f32]) -> Result<(), SamplerError> {
            logits[self.0 as usize] = 100.0;
            Ok(())
        }
    }
    let constraint = constraints().regex("[0-9]+").unwrap();
    let mut sampler = Sampler::greedy().with_filter(constraint.clone()).with_filter(Always(BOS));
    let source = ConstraintError::Forbidden { token: BOS, tokens: 0 };
    assert_eq!(sampler.sample(&[0.0; 3072]), Err(SamplerError::Constraint { source }));
    // A bias cannot bring back what is forbidden.
    let bias = LogitBias::new([(BOS, 1e30)]).unwrap();
    let mut sampler = Sampler::greedy().with_filter(constraint).with_filter(bias);
    assert_ne!(sampler.sample(&[0.0; 3072]).unwrap(), BOS);
}
