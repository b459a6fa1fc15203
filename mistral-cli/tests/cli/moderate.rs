//! `mistral moderate`.

use std::fs;

use serde_json::json;

use super::program::{arg, configure, copy_of, demo, mistral, mistral_with_stdin};

#[test]
fn a_model_that_cannot_judge_gives_no_verdict() {
    let run = mistral(&["moderate", "How to kill a linux process?"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.contains("permitted answer with probability 0.0"), "{}", run.stderr);
    assert!(run.stderr.contains("trained to follow instructions"), "{}", run.stderr);
}

#[test]
fn the_least_share_is_that_of_the_four_answers_together() {
    let found = mistral(&["moderate", "A tale of a fox", "--min-share", "0", "--json"]).json();
    let share = found["share"].as_f64().unwrap();
    let verdict = |min_share: f64| {
        mistral(&["moderate", "A tale of a fox", "--min-share", &min_share.to_string()])
    };
    assert_eq!(verdict(share * 0.999).text().trim_end(), found["verdict"]);
    let none = verdict(share * 1.001);
    assert_eq!((none.code, none.stdout.as_str()), (Some(1), ""));
    let told = format!("a permitted answer with probability {share:.6}, expected at least ");
    assert!(none.stderr.contains(&told), "{}", none.stderr);
    let default = mistral(&["moderate", "A tale of a fox"]);
    assert!(default.stderr.contains("expected at least 0.5;"), "{}", default.stderr);
}

#[test]
fn the_verdict_is_one_word_or_json_and_repeats() {
    let args = ["moderate", "A tale of a fox", "--min-share", "0"];
    let verdict = mistral(&args).text();
    let verdict = verdict.trim_end();
    let names = ["acceptable", "hateful_content", "illegal_activities", "unqualified_advice"];
    assert!(names.contains(&verdict), "{verdict}");
    let report = mistral(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(report["verdict"], verdict);
    let found = names.map(|name| report["probabilities"][name].as_f64().unwrap());
    assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{found:?}");
    let best = found.iter().copied().fold(0.0, f64::max);
    assert_eq!(report["probabilities"][verdict].as_f64(), Some(best));
    let share = report["share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 0.1, "{share}");
    let piped = mistral_with_stdin(&["moderate", "-", "--min-share", "0"], b"A tale of a fox\n");
    assert_eq!(piped.text().trim_end(), verdict);
}

#[test]
fn an_answer_is_judged_with_its_prompt() {
    let probabilities = |more: &[&str]| {
        let args = ["moderate", "Yes", "--min-share", "0", "--json"];
        mistral(&[&args[..], more].concat()).json()["probabilities"].clone()
    };
    assert_ne!(probabilities(&["--prompt", "Is it a cold?"]), probabilities(&[]));
}

#[test]
fn bad_options_are_refused() {
    for share in ["2", "-1", "nan"] {
        let error = mistral(&["moderate", "x", "--min-share", share]).refusal();
        assert!(error.contains("expected a number from 0 to 1"), "{error}");
    }
    let error = mistral(&["moderate", "x", "--template", "v3"]).refusal();
    assert!(error.contains("no control piece [INST]"), "{error}");
}

#[test]
fn a_text_that_cannot_be_judged_is_bad_input_and_told() {
    let broken = mistral_with_stdin(&["moderate", "-"], b"tale \xff");
    assert!(broken.refusal().contains("standard input is not UTF-8: byte 5 is 0xff"));
    let usage = mistral(&["moderate"]);
    assert_eq!((usage.code, usage.stdout.as_str()), (Some(2), ""));
    let error = mistral(&["moderate", "x", "--model", "no/such/folder"]).refusal();
    assert!(error.contains("no/such/folder"), "{error}");

    let folder = copy_of(&demo());
    configure(folder.path(), json!({"sliding_window": null, "max_position_embeddings": 100}));
    let error = mistral(&["moderate", "x", "--model", arg(folder.path())]).refusal();
    assert!(error.contains("exceed the context of 100"), "{error}");
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = mistral(&["moderate", "x", "--model", arg(folder.path())]).refusal();
    assert!(error.contains("tokenizer"), "{error}");
}
