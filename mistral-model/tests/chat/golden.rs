//! Every request gives the ids of mistral-common, or its class of error, in both modes.

use std::fs;

use mistral_model::chat::{
    ChatEncoder, ChatError, ChatRequest, Json, Prompt, TemplateVersion, Validation,
};

use super::{golden, tokenizer};

/// Templates with the folder of the tokenizer that goes with them.
const TEMPLATES: [(&str, &str); 4] = [("v1", "v1"), ("v2", "v2"), ("v3-7b", "v2"), ("v3", "v3")];

pub(super) fn read(name: &str) -> Json {
    Json::parse(&fs::read_to_string(golden("chat").join(name)).unwrap()).unwrap()
}

fn encode(
    chat: &ChatEncoder<'_>,
    request: &Json,
    validation: Validation,
) -> Result<Prompt, ChatError> {
    let mut request = request.as_object().unwrap().to_vec();
    if request.iter().all(|(key, _)| key != "model") {
        request.push(("model".to_owned(), Json::from("m")));
    }
    chat.encode(&ChatRequest::from_value(&Json::Object(request))?, validation)
}

pub(super) fn ids(case: &Json, key: &str) -> Vec<u32> {
    let ids = case.get(key).and_then(Json::as_array).unwrap_or_default();
    ids.iter().map(|id| id.to_string().parse().unwrap()).collect()
}

/// What is different from the case, if anything is.
fn difference(found: Result<Prompt, ChatError>, case: &Json) -> Option<String> {
    let same = match (&found, case.get("error").and_then(Json::as_str)) {
        (Err(error), Some(class)) => error.class() == class,
        (Ok(prompt), None) => {
            prompt.ids == ids(case, "ids") && prompt.prefix() == ids(case, "prefix_ids")
        }
        _ => false,
    };
    let error = found.as_ref().err().map(ChatError::class);
    (!same).then(|| format!("{found:?} ({error:?}), expected {case}"))
}

/// What mistral-common makes of each request. The file of v3 holds only what the vocabulary of
/// Mixtral 8x22B makes different from `v3-7b`.
fn results(folder: &str, template: &str) -> Vec<Json> {
    let files: &[&str] = if template == "v3" { &["v3", "v3-7b"] } else { &[template] };
    let results = |name: &&str| read(&format!("{folder}{name}.json")).get("chat").unwrap().clone();
    files.iter().map(results).collect()
}

/// How many requests of a folder were compared.
fn compare(folder: &str) -> usize {
    let requests = read(&format!("{folder}requests.json"));
    let requests = requests.get("chat").and_then(Json::as_array).unwrap();
    let mut wrong = Vec::new();
    for (template, vocabulary) in TEMPLATES {
        let tokenizer = tokenizer(vocabulary);
        let version: TemplateVersion = template.parse().unwrap();
        let chat = ChatEncoder::with_template(&tokenizer, version).unwrap();
        let results = results(folder, template);
        for case in requests {
            let name = case.get("name").and_then(Json::as_str).unwrap();
            let request = case.get("request").unwrap();
            let result = results.iter().find_map(|results| results.get(name)).unwrap();
            let test = result.get("test").unwrap();
            let serving = result.get("serving").filter(|s| s.as_str().is_none()).unwrap_or(test);
            for (mode, case) in [(Validation::Test, test), (Validation::Serving, serving)] {
                let difference = difference(encode(&chat, request, mode), case);
                wrong.extend(difference.map(|d| format!("{template} {name} {mode:?}: {d}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    requests.len()
}

#[test]
fn every_request_gives_the_ids_or_the_error_of_mistral_common() {
    assert_eq!(compare(""), 116);
}

#[test]
fn a_vocabulary_tells_its_template() {
    for (template, vocabulary) in [("v1", "v1"), ("v3-7b", "v2"), ("v3", "v3")] {
        let tokenizer = tokenizer(vocabulary);
        assert_eq!(TemplateVersion::of(&tokenizer).name(), template);
        assert_eq!(ChatEncoder::new(&tokenizer).unwrap().template().name(), template);
    }
}

#[test]
fn a_template_refuses_a_vocabulary_without_its_controls() {
    let tokenizer = tokenizer("v1");
    let error = ChatEncoder::with_template(&tokenizer, TemplateVersion::V3For7B).unwrap_err();
    assert!(matches!(error, ChatError::NoPiece { piece: "[INST]", .. }), "{error}");
}

#[test]
fn borders_and_random_requests_give_the_ids_or_the_error_of_mistral_common() {
    assert_eq!(compare("edges/"), 430);
}
