//! `mistral bench`. What is fast is not asked here: only that figures are there, and make sense.

use std::fs;
use std::path::Path;

use mistral_model::{Config, SimdLevel, WeightFormat};
use serde_json::{Value, json};

use super::program::{arg, demo, golden, mistral};

/// Figures with `_min` and `_max` beside them.
const SPREAD: [&str; 4] = [
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "decode_gb_per_second",
    "prefill_gops_per_second",
];

/// Little work, of the kind that every test needs.
const SMALL: [&str; 8] = ["--prompt", "9", "--gen", "3", "--repeat", "2", "--threads", "2"];

#[track_caller]
fn bench(options: &[&str]) -> Value {
    mistral(&[&["bench", "--json"][..], &SMALL, options].concat()).json()
}

/// The demo model's sizes, with random weights.
#[track_caller]
fn bench_of_demo_shape(options: &[&str]) -> Value {
    let config = demo().join("config.json");
    bench(&[&["--shape", arg(&config)][..], options].concat())
}

#[track_caller]
fn number(report: &Value, field: &str) -> f64 {
    assert!(report[field].is_number(), "{field} is {}", report[field]);
    report[field].as_f64().unwrap()
}

fn demo_config() -> Config {
    let json = fs::read_to_string(demo().join("config.json")).unwrap();
    Config::from_hf_json(&json).unwrap()
}

#[test]
fn every_figure_is_above_zero_and_the_median_lies_between_least_and_most() {
    let report = bench_of_demo_shape(&[]);
    for field in SPREAD {
        let [min, median, max] =
            ["_min", "", "_max"].map(|end| number(&report, &format!("{field}{end}")));
        assert!(0.0 < min && min <= median && median <= max, "{field}: {min} {median} {max}");
    }
    for field in
        ["read_gb_per_second", "f32_gflops", "bf16_gflops", "int8_gops", "load_seconds", "kv_bytes"]
    {
        assert!(number(&report, field) > 0.0, "{field}");
    }
}

#[test]
fn the_settings_are_told_with_the_figures() {
    let options = ["--weights", "q5_0", "--kv-dtype", "f32", "--layers", "2", "--depth", "5"];
    let report = bench_of_demo_shape(&options);
    let simd = SimdLevel::detect().name();
    for (field, value) in [("weights", "q5_0"), ("kv_dtype", "f32"), ("simd", simd)] {
        assert_eq!(report[field], value, "{field}");
    }
    assert_eq!(report["mmap"], false);
    assert_eq!(report["window"], json!(demo_config().window.size().map(usize::from)));
    let counts = [
        ("layers", 2),
        ("prompt", 9),
        ("gen", 3),
        ("depth", 5),
        ("batch", 1),
        ("chunk", 512),
        ("threads", 2),
        ("repeat", 2),
    ];
    for (field, value) in counts {
        assert_eq!(report[field], value, "{field}");
    }
}

#[test]
fn a_window_is_that_of_the_options_and_what_files_leave_open_is_told_once() {
    let config = golden("models/v03").join("config.json");
    let shape = ["--shape", arg(&config), "--weights", "f32", "--depth", "400"];
    let with = |window| bench(&[&shape[..], &["--window", window, "--chunk", "7"]].concat());
    let (narrow, none) = (with("16"), with("none"));
    assert_eq!((&narrow["window"], &none["window"]), (&json!(16), &json!(null)));
    assert_eq!(narrow["chunk"], 7);
    assert!(number(&narrow, "kv_bytes") < number(&none, "kv_bytes"));

    let file = golden("gguf/mixed-no-window.gguf");
    let model = ["bench", "--model", arg(&file), "--weights", "f32,q8_0"];
    let silent = mistral(&[&model[..], &SMALL].concat());
    assert_eq!(silent.stderr.matches("warning: ").count(), 1, "{}", silent.stderr);
    mistral(&[&model[..], &SMALL, &["--window", "12"]].concat()).text();
}

#[test]
fn what_does_not_fit_is_refused_with_what_it_takes_and_what_is_free() {
    if !Path::new("/proc/meminfo").exists() {
        return;
    }
    // 4 TB of weights; 4 TB of caches.
    for options in [
        &["--layers", "4096", "--weights", "f32"][..],
        &["--shape", "7b-v0.2", "--batch", "1024", "--depth", "32000"],
    ] {
        let error = mistral(&[&["bench"][..], &SMALL, options].concat()).refusal();
        for part in ["the weights take", "the cache", "TiB", "are free"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn random_weights_take_the_bytes_that_are_foretold() {
    for (options, format, n_layers) in [
        (&[][..], WeightFormat::Q8_0, 6),
        (&["--weights", "q4_k"], WeightFormat::Q4K, 6),
        (&["--weights", "bf16", "--layers", "1"], WeightFormat::BF16, 1),
    ] {
        let config = Config { n_layers, ..demo_config() };
        let report = bench_of_demo_shape(options);
        assert_eq!(report["weight_bytes"], config.weight_bytes(format).unwrap(), "{options:?}");
    }
}

#[test]
fn a_model_is_measured_as_inspect_foretells_it() {
    let folder = golden("models/v01");
    for (options, format) in [(&[][..], "f32"), (&["--weights", "q8_0"], "q8_0")] {
        let model = [&["--model", arg(&folder)][..], options].concat();
        let inspect = mistral(&[&["inspect", "--json"][..], &model].concat()).json();
        let report = bench(&model);
        assert_eq!(report["weight_bytes"], inspect["memory"]["weights"], "{options:?}");
        assert_eq!(report["weights"], format);
    }
}

#[test]
fn a_shape_may_be_a_params_json() {
    let config = golden("models/v01-native").join("params.json");
    let report = bench(&["--shape", arg(&config), "--weights", "f32"]);
    let folder = golden("models/v01-native");
    let inspect = mistral(&["inspect", "--json", "--model", arg(&folder)]).json();
    assert_eq!(report["weight_bytes"], inspect["memory"]["weights"]);
}

#[test]
fn a_batch_keeps_one_cache_for_each_sequence() {
    let bytes = |batch| number(&bench_of_demo_shape(&["--batch", batch]), "kv_bytes");
    assert!(bytes("3") > 2.0 * bytes("1"));
}

#[test]
fn the_peak_is_that_of_the_model_where_the_system_tells() {
    let told = fs::read_to_string("/proc/self/status").is_ok_and(|it| it.contains("VmHWM:"));
    let report = bench_of_demo_shape(&[]);
    assert_eq!(report["peak_rss_bytes"].is_u64(), told);
    if told {
        assert!(number(&report, "peak_rss_bytes") >= number(&report, "weight_bytes"));
    }
    // Resetting the peak takes a file that some sandboxes lack.
    if told && fs::OpenOptions::new().write(true).open("/proc/self/clear_refs").is_ok() {
        // Far below what it takes to measure the limits.
        assert!(number(&report, "peak_rss_bytes") < 256.0 * f64::from(1 << 20));
    }
}

#[test]
fn several_formats_make_a_row_each() {
    let config = demo().join("config.json");
    let args = [&["bench", "--shape", arg(&config), "--weights", "bf16,q4_k"][..], &SMALL].concat();
    let text = mistral(&args).text();
    for format in ["bf16", "q4_k"] {
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with(format)).collect();
        assert_eq!(rows.len(), 1, "{text}");
        // The least and the most of prefill and of decode.
        let spreads = rows[0].split('(').skip(1).map(|rest| rest.split_once(')').unwrap().0);
        let spreads: Vec<_> = spreads.map(|spread| spread.split_once('-').unwrap()).collect();
        assert_eq!(spreads.len(), 2, "{text}");
        for (min, max) in spreads {
            assert!(min.parse::<f64>().unwrap() <= max.parse().unwrap(), "{text}");
        }
    }
}

#[test]
fn a_format_that_is_none_is_answered_with_those_that_are() {
    let run = mistral(&["bench", "--weights", "nonsense"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    for name in ["nonsense", "bf16", "q8_0", "q4_k"] {
        assert!(run.stderr.contains(name), "{name}: {}", run.stderr);
    }
}

#[test]
fn options_that_make_no_sense_are_refused_before_anything_is_measured() {
    let config = demo().join("config.json");
    let config = arg(&config);
    for options in [
        &["--prompt", "0"][..],
        &["--gen", "0"],
        &["--batch", "0"],
        &["--repeat", "0"],
        &["--layers", "0"],
        &["--threads", "0"],
        &["--depth", "-1"],
        &["--depth", "18446744073709551615"],
        &["--prompt", "18446744073709551615"],
        &["--batch", "1000000"],
        &["--kv-dtype", "f64"],
        &["--model", ".", "--layers", "2"],
        &["--model", ".", "--shape", "7b-v0.2"],
        &["--json", "--shape", config, "--weights", "bf16,q8_0"],
        &["--shape", "8b"],
    ] {
        let run = mistral(&[&["bench"][..], options].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{options:?}: {}", run.stderr);
    }
}

#[test]
fn a_shape_that_is_no_file_is_named() {
    for shape in ["8b", "no-such-folder/config.json"] {
        let error = mistral(&["bench", "--shape", shape]).refusal();
        assert!(error.contains(shape), "{error}");
    }
}

/// `golden` v01 has rows of 64 weights, of which q4_k makes no block.
#[test]
fn a_format_that_does_not_fit_the_shape_is_refused() {
    let config = golden("models/v01").join("config.json");
    let error = mistral(&["bench", "--shape", arg(&config), "--weights", "q8_0,q4_k"]).refusal();
    assert!(error.contains("q4_k") && error.contains("256"), "{error}");
}

/// v03 has no window, so that its context of 32768 tokens has an end.
#[test]
fn more_tokens_than_the_context_are_refused_before_anything_is_measured() {
    let folder = golden("models/v03");
    let config = folder.join("config.json");
    for model in [["--shape", arg(&config)], ["--model", arg(&folder)]] {
        let sizes = ["--weights", "f32", "--depth", "32757"];
        let error = mistral(&[&["bench"][..], &SMALL, &model, &sizes].concat()).refusal();
        assert!(
            error.contains("12 more tokens after 32757 exceed the context of 32768"),
            "{error}"
        );
    }
}
