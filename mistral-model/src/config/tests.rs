//! Each rule by its smallest file.

use super::*;

/// A complete file with `extra` keys instead of `without`.
fn hf(without: &str, extra: &str) -> String {
    let lines = [
        r#""hidden_size": 64"#,
        r#""intermediate_size": 128"#,
        r#""num_hidden_layers": 2"#,
        r#""num_attention_heads": 8"#,
        r#""num_key_value_heads": 2"#,
        r#""vocab_size": 256"#,
        r#""rms_norm_eps": 1e-5"#,
        r#""rope_theta": 1e6"#,
        r#""sliding_window": 9"#,
    ];
    let kept = lines.iter().filter(|line| without.is_empty() || !line.contains(without));
    let mut all: Vec<&str> = kept.copied().collect();
    all.extend((!extra.is_empty()).then_some(extra));
    format!("{{{}}}", all.join(", "))
}

fn problems(result: Result<Config, ConfigError>) -> Vec<String> {
    match result {
        Err(ConfigError::Invalid { problems }) => problems.iter().map(|p| p.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_window_is_4096_and_null_is_none() {
    let window = |json: &str| Config::from_hf_json(json).unwrap().window;
    assert_eq!(window(&hf("", "")), Window::last(9).unwrap());
    assert_eq!(window(&hf("sliding_window", "")), Window::last(4096).unwrap());
    assert_eq!(window(&hf("sliding_window", r#""sliding_window": null"#)), Window::Full);
}

#[test]
fn theta_is_found_in_both_of_its_homes() {
    let theta = |json: &str| Config::from_hf_json(json).unwrap().rope_theta;
    assert_eq!(theta(&hf("", "")), 1e6);
    let v5 = r#""rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}"#;
    assert_eq!(theta(&hf("rope_theta", v5)), 5e5);
    assert_eq!(theta(&hf("rope_theta", "")), 1e4);
}

#[test]
fn defaults_are_those_of_the_library() {
    let config = Config::from_hf_json(&hf("rms_norm_eps", r#""head_dim": null"#)).unwrap();
    assert_eq!((config.head_dim, config.norm_eps), (8, 1e-6));
    let config = Config::from_hf_json(&hf("num_key", r#""head_dim": 16"#)).unwrap();
    assert_eq!((config.head_dim, config.n_kv_heads), (16, 8));
    let many = Config::from_hf_json(&hf("", r#""eos_token_id": [2, 7]"#)).unwrap();
    assert_eq!(many.eos_tokens, [2, 7]);
}

#[test]
fn everything_missing_is_listed_at_once() {
    let found = problems(Config::from_hf_json(r#"{"model_type": "llama", "hidden_act": "gelu"}"#));
    for part in
        ["model_type is llama, expected mistral", "hidden_act is gelu", "hidden_size is missing"]
    {
        assert!(found.iter().any(|problem| problem.contains(part)), "{part} in {found:?}");
    }
    assert!(found.len() >= 7, "{found:?}");
}

#[test]
fn what_would_change_the_numbers_is_refused() {
    for extra in [
        r#""rope_scaling": {"type": "yarn"}"#,
        r#""rope_parameters": {"rope_type": "yarn"}"#,
        r#""quantization_config": {"quant_method": "gptq"}"#,
        r#""quantization_config": {"quant_method": "compressed-tensors",
            "format": "int-quantized", "config_groups": {"group_0": {"weights": {"num_bits": 8,
            "type": "int", "symmetric": true, "strategy": "group", "group_size": 64}}}}"#,
        r#""architectures": ["LlamaForCausalLM"]"#,
        r#""attention_bias": true"#,
        r#""layer_types": ["sliding_attention", "full_attention"]"#,
        r#""bos_token_id": 256"#,
        r#""head_dim": 7"#,
    ] {
        assert!(!problems(Config::from_hf_json(&hf("", extra))).is_empty(), "{extra}");
    }
    let zero = problems(Config::from_hf_json(&hf("sliding", r#""sliding_window": 0"#)));
    assert!(zero[0].contains("sliding_window is 0"), "{zero:?}");
    let heads = problems(Config::from_hf_json(&hf("num_key", r#""num_key_value_heads": 3"#)));
    assert!(heads[0].contains("a divisor of n_heads"), "{heads:?}");
    let layers = hf("num_hidden", r#""num_hidden_layers": 1000000000000"#);
    assert!(problems(Config::from_hf_json(&layers))[0].contains("n_layers"));
    assert!(matches!(Config::from_hf_json("{"), Err(ConfigError::Json { .. })));
}

fn params(extra: &str) -> Result<Config, ConfigError> {
    Config::from_params_json(&format!(
        r#"{{"dim": 64, "n_layers": 2, "head_dim": 8, "hidden_dim": 128, "n_heads": 8,
            "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": 256{extra}}}"#
    ))
}

#[test]
fn theta_of_params_follows_the_window_when_it_is_missing() {
    let of = |extra| {
        let config = params(extra).unwrap();
        (config.window, config.rope_theta)
    };
    assert_eq!(of(""), (Window::Full, 1e6));
    assert_eq!(of(r#", "sliding_window": 4096"#), (Window::last(4096).unwrap(), 1e4));
    assert_eq!(of(r#", "_sliding_window": 12"#), (Window::last(12).unwrap(), 1e4));
    assert_eq!(of(r#", "sliding_window": [5, 5]"#), (Window::last(5).unwrap(), 1e4));
    assert_eq!(of(r#", "sliding_window": 5, "rope_theta": 2e4"#).1, 2e4);
    assert_eq!(params("").unwrap().rope_layout, RopeLayout::Interleaved);
}

#[test]
fn windows_that_differ_between_layers_are_refused() {
    let found = problems(params(r#", "sliding_window": [5, null]"#));
    assert!(found[0].contains("expected one for all layers"), "{found:?}");
    assert!(problems(params(r#", "moe": {}"#))[0].contains("moe"));
}

#[test]
fn the_presets_have_the_published_sizes() {
    // Published: 7,241,732,096 parameters for v0.1 and v0.2, 7,248,023,552 for v0.3.
    let bytes = |parameters: usize| Some((parameters - 65 * 4096) * 2 + 65 * 4096 * 4);
    assert_eq!(Config::mistral_7b_v01().weight_bytes(DType::BF16), bytes(7_241_732_096));
    assert_eq!(Config::mistral_7b_v02().weight_bytes(DType::BF16), bytes(7_241_732_096));
    assert_eq!(Config::mistral_7b_v03().weight_bytes(DType::BF16), bytes(7_248_023_552));
    assert_eq!(Config::mistral_7b_v01().window, Window::last(4096).unwrap());
    for config in [Config::mistral_7b_v01(), Config::mistral_7b_v02(), Config::mistral_7b_v03()] {
        config.validate().unwrap();
    }
}
