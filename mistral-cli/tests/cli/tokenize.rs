//! `mistral tokenize`.

use serde_json::Value;

use super::program::{arg, golden, mistral, mistral_with_stdin};

const TEXT: &str = "The wolf said nothing more.";

#[test]
fn lines_and_json_tell_the_same_tokens() {
    let json = mistral(&["tokenize", TEXT, "--json"]).json();
    let strings = |field: &str, of: fn(&Value) -> String| -> Vec<String> {
        json[field].as_array().unwrap().iter().map(of).collect()
    };
    let ids = strings("ids", |id| id.as_u64().unwrap().to_string());
    let pieces = strings("pieces", |piece| piece.as_str().unwrap().to_owned());
    let lines: String = ids.iter().zip(&pieces).map(|(id, p)| format!("{id}\t{p}\n")).collect();
    assert_eq!(mistral(&["tokenize", TEXT]).text(), lines);
    assert_eq!(json["text"], TEXT);
    let joined = pieces[1..].concat().replace('\u{2581}', " ");
    assert_eq!(joined.trim_start(), TEXT);
}

#[test]
fn text_may_come_from_stdin_by_name_or_by_default() {
    let direct = mistral(&["tokenize", TEXT]);
    assert_eq!(mistral_with_stdin(&["tokenize", "-"], TEXT.as_bytes()), direct);
    assert_eq!(mistral_with_stdin(&["tokenize"], format!("{TEXT}\n").as_bytes()), direct);
}

#[test]
fn the_empty_text_is_the_piece_that_begins_a_sequence() {
    assert_eq!(mistral(&["tokenize", ""]).text().lines().count(), 1);
}

#[test]
fn another_tokenizer_gives_the_ids_of_its_own_vocabulary() {
    let folder = golden("tokenizer/v1");
    let ids = |text| mistral(&["tokenize", text, "--json", "--model", arg(&folder)]).json();
    let file = folder.join("tokenizer.json");
    let of_file = mistral(&["tokenize", TEXT, "--json", "--model", arg(&file)]).json();
    assert_eq!(ids(TEXT), of_file);
    assert_eq!(ids("")["pieces"][0], "<s>");
}
