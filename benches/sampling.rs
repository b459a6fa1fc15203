//! `sampling/...`: a token from the logits of a vocabulary of 32768.
//!
//! The logits fall off as those of a language model do, so that a nucleus is small. Beside each
//! step stands `sampling/sort`: top-p by sorting the whole vocabulary, as it is defined. Elements
//! are logits.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a bench may panic

use std::hint::black_box;

use benches::numbers;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mistral_model::generate::{LogitBias, TokenLogProbs};
use mistral_model::{Sampler, SamplerOptions};

const VOCAB: usize = 32_768;

/// The `n`-th likeliest token, of ids in no order, is about `n^-1.5` times as likely as the first.
fn logits() -> Vec<f32> {
    let mut noise = numbers(5);
    (0..VOCAB)
        .map(|id| {
            let place = (id * 12_289 + 77) % VOCAB;
            -1.5 * (place as f32 + 1.0).ln() + 0.1 * noise()
        })
        .collect()
}

fn steps(c: &mut Criterion) {
    let logits = logits();
    let d = SamplerOptions::default();
    let penalised = SamplerOptions { repetition_penalty: 1.1, presence_penalty: 0.5, ..d };
    let all =
        SamplerOptions { top_k: Some(200), typical_p: 0.95, top_p: 0.95, min_p: 0.05, ..penalised };
    let bias = LogitBias::new((0..100).map(|id| (id * 300, 0.5))).unwrap();
    let mut group = c.benchmark_group("sampling");
    group.throughput(Throughput::Elements(VOCAB as u64));
    for (name, sampler) in [
        ("greedy", Sampler::greedy()),
        ("temperature", Sampler::new(d).unwrap()),
        ("top_k=40", Sampler::new(SamplerOptions { top_k: Some(40), ..d }).unwrap()),
        ("top_p=0.95", Sampler::new(SamplerOptions { top_p: 0.95, ..d }).unwrap()),
        ("typical=0.95", Sampler::new(SamplerOptions { typical_p: 0.95, ..d }).unwrap()),
        ("min_p=0.05", Sampler::new(SamplerOptions { min_p: 0.05, ..d }).unwrap()),
        ("penalties/history=4096", Sampler::new(penalised).unwrap()),
        ("everything/history=4096", Sampler::new(all).unwrap().with_filter(bias)),
    ] {
        let mut observed = sampler;
        observed.observe(&(0..4096).map(|i| i * 7 % 5000).collect::<Vec<u32>>());
        group.bench_function(name, |b| {
            // A fresh history for each batch, so that it keeps its length.
            let mut sampler = observed.clone();
            b.iter(|| sampler.sample(black_box(&logits)).unwrap());
        });
    }
    group.bench_function("sort", |b| b.iter(|| sort(black_box(&logits), 0.95, 0.5)));
    group.bench_function("log_probs/top=5", |b| {
        b.iter(|| TokenLogProbs::new(black_box(&logits), 7, 5).unwrap());
    });
    group.finish();
}

/// Top-p as it is defined.
fn sort(logits: &[f32], share: f32, number: f32) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|l| (l - largest).exp()).collect();
    let total: f32 = weights.iter().sum();
    let mut sorted: Vec<(f32, u32)> = weights.iter().map(|w| w / total).zip(0..).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut reached = 0.0;
    let kept = sorted.iter().position(|(p, _)| {
        reached += p;
        reached >= share
    });
    let nucleus = &sorted[..=kept.unwrap_or(VOCAB - 1)];
    let goal = number * nucleus.iter().map(|(p, _)| p).sum::<f32>();
    let mut passed = 0.0;
    let drawn = nucleus.iter().find(|(p, _)| {
        passed += p;
        passed > goal
    });
    drawn.unwrap_or(&nucleus[0]).1
}

criterion_group!(benches, steps);
criterion_main!(benches);
