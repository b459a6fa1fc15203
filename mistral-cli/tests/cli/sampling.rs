//! `mistral generate`: how tokens are drawn, what they must follow, and how likely they were.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{Run, arg, mistral, mistral_with_stdin};

const PROMPT: &str = "Once upon a time there was";

fn generate(more: &[&str]) -> Run {
    let args = ["generate", PROMPT, "--max-tokens", "40", "--ignore-eos"];
    mistral(&[&args[..], more].concat())
}

/// The ids of a text.
fn ids(text: &str) -> Vec<u64> {
    let report = mistral(&["tokenize", text, "--json"]).json();
    report["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

fn written(more: &[&str]) -> Vec<u64> {
    let report = generate(&[more, &["--logprobs", "0", "--json"]].concat()).json();
    let tokens = report["logprobs"].as_array().unwrap().iter();
    tokens.map(|token| token["token"].as_u64().unwrap()).collect()
}

#[test]
fn penalties_keep_a_greedy_text_from_going_in_circles() {
    let repeats = |more: &[&str]| {
        let mut tokens = written(&[&["--temperature", "0"], more].concat());
        let all = tokens.len();
        tokens.sort_unstable();
        tokens.dedup();
        all - tokens.len()
    };
    let plain = repeats(&[]);
    assert!(plain > 5, "{plain}");
    assert!(repeats(&["--presence-penalty", "2"]) < plain);
    assert!(repeats(&["--frequency-penalty", "2"]) < plain);
    assert!(repeats(&["--repetition-penalty", "5"]) < plain);
    // A penalty on the last token alone forbids little more than stuttering.
    let last = repeats(&["--presence-penalty", "2", "--penalty-last", "1"]);
    assert!(last > repeats(&["--presence-penalty", "2"]));
}

#[test]
fn a_forbidden_token_is_never_written_and_a_wanted_one_always() {
    let first = written(&["--temperature", "0"])[0];
    let never = format!("{first}=-inf");
    assert!(!written(&["--logit-bias", &never]).contains(&first));
    let always = format!("{first}=1000");
    assert!(written(&["--logit-bias", &always]).iter().all(|token| *token == first));
}

#[test]
fn typical_sampling_changes_the_text_and_not_its_repeatability() {
    let typical = |share| written(&["--top-p", "1", "--typical", share]);
    assert_eq!(typical("0.2"), typical("0.2"));
    assert_ne!(typical("0.2"), typical("1"));
}

#[test]
fn log_probabilities_come_a_line_a_token() {
    let lines = generate(&["--logprobs", "3", "--temperature", "0"]).text();
    let tokens: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(tokens.len(), 40);
    for token in &tokens {
        let top = token["top"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: what is written is the likeliest.
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
        let logprobs = top.iter().map(|t| t["logprob"].as_f64().unwrap());
        assert!(logprobs.is_sorted_by(|a, b| a >= b && *a <= 0.0));
        assert!(token["piece"].is_string());
    }
    let report = generate(&["--logprobs", "3", "--temperature", "0", "--json"]).json();
    assert_eq!(report["logprobs"], Value::from(tokens));
    assert!(report.get("prompt_logprobs").is_none());
    assert!(generate(&["--json"]).json().get("logprobs").is_none());
}

#[test]
fn the_prompts_tokens_have_log_probabilities_but_for_the_first() {
    let report = generate(&["--logprobs", "1", "--prompt-logprobs", "--json"]).json();
    let prompt = report["prompt_logprobs"].as_array().unwrap();
    let found: Vec<u64> = prompt.iter().map(|token| token["token"].as_u64().unwrap()).collect();
    assert_eq!(found, ids(PROMPT));
    assert!(prompt[0]["logprob"].is_null() && prompt[0]["top"] == json!([]));
    assert!(prompt[1..].iter().all(|token| token["logprob"].as_f64().unwrap() < 0.0));
    let lines = generate(&["--logprobs", "1", "--prompt-logprobs"]).text();
    assert_eq!(lines.lines().count(), prompt.len() + 40);
    // The text is the same whether or not it is judged.
    assert_eq!(report["text"], generate(&["--json"]).json()["text"]);
}

#[test]
fn a_stop_token_ends_the_text_before_it() {
    let all = written(&["--seed", "4"]);
    let stop = all[9].to_string();
    let before = all.iter().position(|token| *token == all[9]).unwrap();
    let report = generate(&["--seed", "4", "--stop-token", &stop, "--json"]).json();
    assert_eq!(report["stop_reason"], "stop_token");
    assert_eq!(report["generated_tokens"], before);
}

/// A file with text in it.
fn file(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    (folder, path)
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "animal": {"enum": ["fox", "goose"]},
        "legs": {"type": "integer", "minimum": 2, "maximum": 4}
    },
    "required": ["animal", "legs"],
    "additionalProperties": false
}"#;

fn constrained(more: &[&str]) -> Run {
    mistral(
        &[&["generate", "An animal as JSON: ", "--temperature", "1.5", "--json"], more].concat(),
    )
}

#[test]
fn a_schema_is_followed_whatever_the_seed() {
    let (_folder, path) = file("animal.json", SCHEMA);
    for seed in ["1", "2", "3", "4"] {
        let report = constrained(&["--json-schema", arg(&path), "--seed", seed]).json();
        assert_eq!(report["stop_reason"], "end_of_sequence");
        let animal: Value = serde_json::from_str(report["text"].as_str().unwrap()).unwrap();
        assert!(["fox", "goose"].contains(&animal["animal"].as_str().unwrap()), "{animal}");
        assert!((2..=4).contains(&animal["legs"].as_i64().unwrap()), "{animal}");
        assert_eq!(animal.as_object().unwrap().len(), 2, "{animal}");
    }
}

#[test]
fn grammars_and_expressions_are_followed_too() {
    let (_folder, path) = file("tale.lark", "start: \"the \" ANIMAL+ \".\"\nANIMAL: /fox|goose/");
    let text = constrained(&["--grammar", arg(&path)]).json()["text"].as_str().unwrap().to_owned();
    let animals = text.strip_prefix("the ").unwrap().strip_suffix('.').unwrap();
    assert_eq!(animals.replace("fox", "").replace("goose", ""), "");
    let report = constrained(&["--regex", "[0-9]{3}"]).json();
    let number = report["text"].as_str().unwrap();
    assert!(number.len() == 3 && number.parse::<u32>().is_ok(), "{number}");
    let args = ["generate", "A", "--json-schema", "-", "--json"];
    let report = mistral_with_stdin(&args, br#"{"const": [1, "one"]}"#).json();
    let text: Value = serde_json::from_str(report["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, json!([1, "one"]));
}

#[test]
fn bad_settings_are_refused_before_anything_is_written() {
    for (args, says) in [
        (&["--typical", "0"][..], "typical_p is 0"),
        (&["--repetition-penalty", "0"], "repetition penalty is 0"),
        (&["--presence-penalty", "2.5"], "presence penalty is 2.5"),
        (&["--frequency-penalty", "nan"], "frequency penalty is NaN"),
        (&["--logit-bias", "5=nan"], "bias of token 5 is NaN"),
        (&["--logit-bias", "99999=1"], "--logit-bias names token 99999"),
        (&["--stop-token", "99999"], "--stop-token names token 99999"),
        (&["--regex", "("], "regular expression cannot be followed"),
        (&["--json-schema", "no-such-file"], "cannot read no-such-file"),
    ] {
        let error = mistral(&[&["generate", "A"], args].concat()).refusal();
        assert!(error.contains(says), "{args:?}: {error}");
    }
    let (_folder, path) = file("bad.json", r#"{"type": "flurb"}"#);
    let error = mistral(&["generate", "A", "--json-schema", arg(&path)]).refusal();
    assert!(error.contains("schema cannot be followed: Invalid type: flurb"), "{error}");
    for usage in [
        &["--logit-bias", "five=1"][..],
        &["--penalty-last", "0"],
        &["--prompt-logprobs"],
        &["--regex", "a", "--grammar", "b"],
        &["--regex", "a", "--ignore-eos"],
    ] {
        let run = mistral(&[&["generate", "A"], usage].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{usage:?}");
    }
}

#[test]
fn a_grammar_that_never_ends_is_followed_up_to_the_limit() {
    let (_folder, path) = file("circle.lark", "start: \"a\" start");
    let args = ["generate", "A", "--grammar", arg(&path), "--max-tokens", "20", "--json"];
    let report = mistral(&args).json();
    assert_eq!(report["stop_reason"], "max_tokens");
    assert!(report["text"].as_str().unwrap().chars().all(|letter| letter == 'a'), "{report}");
}
