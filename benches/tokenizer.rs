//! `tokenizer/...`: text to ids, by our encoder and by the `tokenizers` crate from the same
//! `tokenizer.json` of Mistral 7B v0.1, in one run. Bytes are those of the text.
//!
//! `corpus` is prose with line breaks; `line=...` is one line of letters in no order and without a
//! space, where nothing can be encoded word by word. Both encoders give the same ids, which is
//! checked first.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a bench may panic

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mistral_model::Tokenizer;

/// Letters in an order without a period.
fn line(letters: u64) -> String {
    (0..letters).map(|i| char::from(b'a' + (i * i * i % 1009 % 26) as u8)).collect()
}

fn encode(c: &mut Criterion) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let json = root.join("mistral-model/tests/golden/tokenizer/v1/tokenizer.json");
    let json = fs::read(json).unwrap();
    let ours = Tokenizer::from_json(&json).unwrap();
    let mut library = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    // As ours: text is only ever text.
    library.set_encode_special_tokens(true);

    let corpus = fs::read_to_string(root.join("mistral-cli/demo/corpus/valid.txt")).unwrap();
    for (name, text) in
        [("corpus", corpus), ("line=10k", line(10_000)), ("line=1M", line(1_000_000))]
    {
        let ids = ours.encode_without_bos(&text).unwrap();
        assert_eq!(library.encode_fast(text.as_str(), false).unwrap().get_ids(), ids, "{name}");
        let mut group = c.benchmark_group(format!("tokenizer/encode/{name}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        // The longest takes the crate a second.
        group.sample_size(if text.len() < 500_000 { 50 } else { 10 });
        group.bench_function("ours", |b| {
            b.iter(|| ours.encode_without_bos(black_box(&text)).unwrap());
        });
        group.bench_function("tokenizers-crate", |b| {
            b.iter(|| library.encode_fast(black_box(text.as_str()), false).unwrap());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(5));
    targets = encode
}
criterion_main!(benches);
