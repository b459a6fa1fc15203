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
fn heads_whose_product_wraps_to_a_size_that_fits_are_refused() {
    // 8 * (2^63 + 8) and 2 * (2^63 + 8) are 64 and 16 in 64 bits: those of heads of 8.
    let json = hf("", r#""head_dim": 9223372036854775816"#);
    let found = problems(Config::from_hf_json(&json));
    assert!(found[0].contains("beyond usize"), "{found:?}");
}

#[test]
fn a_value_of_the_wrong_kind_is_named() {
    for (key, value) in
        [("sliding_window", "-1"), ("sliding_window", "[1.5]"), ("eos_token_id", "\"x\"")]
    {
        let json = hf(key, &format!("\"{key}\": {value}"));
        let Err(ConfigError::Json { source }) = Config::from_hf_json(&json) else {
            panic!("{value} is taken for {key}");
        };
        assert!(source.to_string().contains(key), "{source}");
    }
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
        r#""layer_types": ["sliding_attention"]"#,
        r#""layer_types": ["sliding_attention", "chunked_attention"]"#,
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

/// The window of each of the layers.
fn windows(config: &Config) -> Vec<usize> {
    let size = |layer| config.window_of(layer).size().map_or(0, usize::from);
    (0..config.n_layers).map(size).collect()
}

#[test]
fn lists_of_windows_in_params_are_those_of_the_layers_and_repeat() {
    let read = |list: &str| params(&format!(r#", "sliding_window": {list}"#));
    let of = |list: &str| {
        let config = read(list).unwrap();
        (windows(&config), config.layer_windows.len(), config.rope_theta)
    };
    assert_eq!(of("[5, null]"), (vec![5, 0], 2, 1e4));
    assert_eq!(of("[null, 5]"), (vec![0, 5], 2, 1e4));
    assert_eq!(of("[5, 7]"), (vec![5, 7], 2, 1e4));
    // All the same: one window, and no list.
    assert_eq!(of("[5]"), (vec![5, 5], 0, 1e4));
    assert_eq!(of("[null]"), (vec![0, 0], 0, 1e6));
    assert_eq!(of("[]"), (vec![0, 0], 0, 1e6));
    let six = r#"{"dim": 64, "n_layers": 6, "head_dim": 8, "hidden_dim": 128, "n_heads": 8,
        "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": 256, "sliding_window": [3, 4, null]}"#;
    assert_eq!(windows(&Config::from_params_json(six).unwrap()), [3, 4, 0, 3, 4, 0]);
    let found = problems(read("[5, 6, 7]"));
    assert!(found[0].contains("a list of 3 for 2 layers"), "{found:?}");
    assert!(problems(read("[5, 0]"))[0].contains("sliding_window is 0"));
    assert!(problems(params(r#", "moe": {}"#))[0].contains("moe"));
}

#[test]
fn layer_types_say_which_layers_have_the_window() {
    let of = |extra: &str| Config::from_hf_json(&hf("sliding_window", extra));
    let types = |window: &str, types: &str| {
        let extra = format!(r#""sliding_window": {window}, "layer_types": [{types}]"#);
        of(&extra)
    };
    let (sliding, full) = (r#""sliding_attention""#, r#""full_attention""#);
    let windows_of = |window: &str, kinds: [&str; 2]| {
        let config = types(window, &kinds.join(", ")).unwrap();
        (windows(&config), config.layer_windows.len())
    };
    assert_eq!(windows_of("9", [sliding, full]), (vec![9, 0], 2));
    assert_eq!(windows_of("9", [full, sliding]), (vec![0, 9], 2));
    assert_eq!(windows_of("9", [sliding, sliding]), (vec![9, 9], 0));
    assert_eq!(windows_of("9", [full, full]), (vec![0, 0], 0));
    assert_eq!(windows_of("null", [full, full]), (vec![0, 0], 0));
    let found = problems(types("null", &[sliding, full].join(", ")));
    assert!(found[0].contains("sliding_attention, expected full_attention"), "{found:?}");
    let found = problems(types("[9, 5]", &[sliding, full].join(", ")));
    assert!(found[0].contains("missing where sliding_window is a list"), "{found:?}");
}

#[test]
fn what_is_written_reads_back_to_the_same_windows() {
    let of = |list: &[usize]| {
        let layers: Vec<_> = list
            .iter()
            .map(|size| Window::from_hf(Some(*size).filter(|size| *size > 0)).unwrap())
            .collect();
        let base = Config::from_hf_json(&hf("", "")).unwrap();
        let window = *layers.iter().max_by_key(|window| windows::reach(**window)).unwrap();
        let config = Config { n_layers: layers.len(), window, layer_windows: layers, ..base };
        config.validate().unwrap();
        assert_eq!(Config::from_hf_json(&config.to_hf_json()).unwrap(), config);
        config.to_hf_json()
    };
    assert!(of(&[9, 0, 9, 9]).contains("layer_types"));
    assert!(!of(&[9, 5, 0]).contains("layer_types"));
    of(&[5, 9]);
    let short = Config { layer_windows: vec![Window::Full], ..Config::mistral_7b_v01() };
    let found = problems(short.validate().map(|()| short.clone()));
    assert!(found[0].contains("a list of 1"), "{found:?}");
}

#[test]
fn the_cache_is_sized_layer_by_layer() {
    let base = Config { n_layers: 4, ..Config::mistral_7b_v01() };
    let bytes = |sizes: [Option<usize>; 4]| {
        let layer_windows = sizes.map(|size| Window::from_hf(size).unwrap()).to_vec();
        Config { layer_windows, ..base.clone() }.cache_bytes(DType::F16, 20_000).unwrap()
    };
    // Heads, elements, keys and values, bytes; slots without a window come in pages of 128.
    let slots = |bytes| bytes / (8 * 128 * 2 * 2);
    assert_eq!(slots(bytes([Some(1024), None, Some(4096), Some(16)])), 1024 + 20_096 + 4096 + 16);
    assert_eq!(bytes([Some(4096); 4]), base.cache_bytes(DType::F16, 20_000).unwrap());
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
