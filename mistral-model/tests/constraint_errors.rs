//! Schemas, grammars and expressions that cannot be followed, and those that are meant to hurt.
#![cfg(feature = "constrain")]
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

use std::path::PathBuf;

use mistral_model::Tokenizer;
use mistral_model::generate::{ConstraintError, Constraints, LogitFilter};

fn tokenizer() -> Tokenizer {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../mistral-cli/demo/model");
    Tokenizer::open(folder).unwrap()
}

fn constraints() -> Constraints {
    Constraints::new(&tokenizer(), &[2]).unwrap()
}

#[test]
fn a_vocabulary_without_an_end_is_refused() {
    let error = Constraints::new(&tokenizer(), &[]).unwrap_err();
    assert_eq!(error, ConstraintError::NoEnd);
    let error = Constraints::new(&tokenizer(), &[2, 3072]).unwrap_err();
    assert_eq!(error, ConstraintError::UnknownEnd { token: 3072, vocab_size: 3072 });
}

#[test]
fn what_is_no_json_is_told_with_its_place() {
    for bad in ["", "{", "{\"type\": \"string\",}", "\u{0}"] {
        let error = constraints().json_schema(bad).unwrap_err();
        assert!(matches!(error, ConstraintError::Json { .. }), "{bad:?}: {error}");
    }
    match constraints().json_schema("{\n  \"type\": flurb}").unwrap_err() {
        ConstraintError::Json { line, column, .. } => assert_eq!((line, column), (2, 12)),
        other => panic!("{other}"),
    }
}

#[test]
fn schemas_that_are_wrong_impossible_or_beyond_the_library_are_refused() {
    for bad in [
        "3",
        "false",
        r#"{"type": "flurb"}"#,
        r#"{"type": "string", "minLength": "long"}"#,
        r#"{"type": "object", "properties": 5}"#,
        r#"{"type": "string", "pattern": "("}"#,
        r#"{"type": "string", "pattern": "(?=a)b"}"#,
        r#"{"type": "string", "pattern": "\\N{DASH}"}"#,
        r#"{"type": "string", "pattern": "[\\N{EM DASH}]"}"#,
        r#"{"type": "string", "pattern": "\\p{Dash Shaped}"}"#,
        r#"{"type": "string", "pattern": "\\u{}"}"#,
        r#"{"type": "string", "pattern": "\\cA"}"#,
        r#"{"type": "string", "pattern": "\\Q"}"#,
        r#"{"type": "string", "format": "no-such-format"}"#,
        r#"{"type": "integer", "minimum": 5, "maximum": 4}"#,
        r#"{"not": {"type": "string"}}"#,
        r#"{"if": {"type": "string"}, "then": {"maxLength": 3}}"#,
        r##"{"$ref": "#/no/such/place"}"##,
        r#"{"$ref": "https://example.com/schema.json"}"#,
        r#"{"$ref": "file:///etc/passwd"}"#,
    ] {
        let error = constraints().json_schema(bad).unwrap_err();
        assert!(matches!(error, ConstraintError::Refused { kind: "schema", .. }), "{bad}: {error}");
    }
}

#[test]
fn grammars_and_expressions_that_are_none_are_refused() {
    for bad in ["", "start", "start: nothing", "begin: \"a\"", "start: \"a", "start: <no-token>"] {
        let error = constraints().grammar(bad).unwrap_err();
        assert!(matches!(error, ConstraintError::Refused { kind: "grammar", .. }), "{error}");
        assert!(error.to_string().lines().count() == 1, "{error}");
    }
    for bad in ["(", "a{2,1}", "(?=a)b", r"(a)\1", "[z-a]"] {
        let error = constraints().regex(bad).unwrap_err();
        assert!(
            matches!(error, ConstraintError::Refused { kind: "regular expression", .. }),
            "{bad}: {error}"
        );
    }
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let fits = format!("\"{}\"", "a".repeat((64 << 10) - 2));
    let long = format!("{fits} ");
    let too_long = |kind| ConstraintError::TooLong { kind, found: 65_537, limit: 65_536 };
    assert_eq!(constraints().json_schema(&long).unwrap_err(), too_long("schema"));
    assert_eq!(constraints().grammar(&long).unwrap_err(), too_long("grammar"));
    assert_eq!(constraints().regex(&long).unwrap_err(), too_long("regular expression"));
    assert_ne!(constraints().json_schema(&fits).unwrap_err(), too_long("schema"));
}

/// Compiles and takes some steps: whether that goes well or not, it comes to an end.
fn survive(hostile: &str, kind: &str) {
    let constraints = constraints();
    let made = match kind {
        "schema" => constraints.json_schema(hostile),
        "grammar" => constraints.grammar(hostile),
        _ => constraints.regex(hostile),
    };
    let Ok(mut constraint) = made else { return };
    for _ in 0..20 {
        let mut logits = vec![0.0f32; 3072];
        if constraint.filter(&[], &mut logits).is_err() {
            return;
        }
        let token = logits.iter().position(|logit| *logit == 0.0).unwrap();
        if constraint.accept(token as u32).is_err() {
            return;
        }
    }
}

#[test]
fn hostile_input_neither_panics_nor_overflows_the_stack_nor_runs_for_ever() {
    let nested = |n: usize, open: &str, inner: &str, close: &str| {
        [&open.repeat(n), inner, &close.repeat(n)].concat()
    };
    let either = |i: usize| {
        format!(
            r#"{{"anyOf": [{{"properties": {{"a{i}": {{"type": "string"}}}}}},
                {{"properties": {{"b{i}": {{"type": "integer"}}}}}}]}}"#
        )
    };
    let alternatives: Vec<String> = (0..60).map(either).collect();
    for schema in [
        nested(1000, r#"{"items": "#, "{}", "}"),
        nested(120, "[", "", "]"),
        nested(60, r#"{"items": "#, "{}", "}"),
        nested(30, r#"{"anyOf": [{"type": "string"}, "#, r#"{"type": "integer"}"#, "]}"),
        format!(r#"{{"allOf": [{}]}}"#, alternatives.join(",")),
        r#"{"type": "array", "minItems": 1000000000}"#.to_owned(),
        r#"{"type": "array", "maxItems": 18446744073709551615}"#.to_owned(),
        r#"{"type": "string", "minLength": 1000000000}"#.to_owned(),
        r#"{"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}"#.to_owned(),
        r#"{"type": "string", "pattern": "^(a|a|b)*(a?){500}a{500}$"}"#.to_owned(),
        r#"{"type": "integer", "multipleOf": 99999999999}"#.to_owned(),
        r##"{"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}"##.to_owned(),
    ] {
        survive(&schema, "schema");
    }
    for grammar in [
        format!("start: {}", nested(5000, "(", "\"a\"", ")")),
        "start: start start | \"a\" |".to_owned(),
        "start: \"a\"{1000000000}".to_owned(),
        "start: a a a a a a a a\na: b b b b b b b b\nb: c? c? c? c? c? c? c? c?\nc: \"x\"?"
            .to_owned(),
        "start: /((a{1000}){1000}){1000}/".to_owned(),
    ] {
        survive(&grammar, "grammar");
    }
    for expression in [
        nested(5000, "(", "a", ")"),
        "(a*)*(a*)*b".to_owned(),
        r"(\w{1,500}\s){1,500}x".to_owned(),
        "((((.*a){9}){9}){9}){9}".to_owned(),
    ] {
        survive(&expression, "expression");
    }
}
