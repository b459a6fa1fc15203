//! What users of a session rely on: the same bits however tokens come in, and errors that lose
//! nothing.
#![allow(clippy::unwrap_used)] // a test may panic

use std::sync::Arc;
use std::thread;

use mistral_model::ndarray::Array2;
use mistral_model::{
    Batch, Config, DType, KvFormat, ModelError, Sampler, SamplerOptions, Session, SessionOptions,
    Transformer, WeightFormat, Window,
};

const W: usize = 5;

fn config(window: Window) -> Config {
    Config {
        dim: 48,
        n_layers: 3,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 8,
        hidden_dim: 80,
        vocab_size: 96,
        window,
        context_len: 64,
        ..Config::mistral_7b_v01()
    }
}

fn model(window: Window) -> Transformer {
    Transformer::random(&config(window), DType::BF16, 11).unwrap()
}

fn windowed() -> Transformer {
    model(Window::last(W).unwrap())
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + i * 13 + 1) % 96).collect()
}

fn options(kv_dtype: impl Into<KvFormat>, max_chunk: usize) -> SessionOptions {
    SessionOptions { kv_dtype: kv_dtype.into(), max_chunk, ..Default::default() }
}

/// Logits of every position, as bits.
fn all_bits(model: &Transformer, tokens: &[u32], options: SessionOptions) -> Vec<u32> {
    let mut session = Session::new(model, options).unwrap();
    let mut bits = Vec::new();
    session
        .logits_of_all(tokens, |first, logits| {
            assert_eq!(first * 96, bits.len());
            bits.extend(logits.iter().map(|x| x.to_bits()));
            Ok::<(), ModelError>(())
        })
        .unwrap();
    bits
}

#[test]
fn any_chunking_in_any_cache_format_equals_one_shot() {
    let tokens = tokens(6 * W + 3);
    for model in [windowed(), model(Window::Full)] {
        let mut by_format = Vec::new();
        for dtype in KvFormat::ALL {
            let whole = all_bits(&model, &tokens, options(dtype, tokens.len()));
            for chunk in [1, 3, W - 1, W, W + 1, 3 * W, 1000] {
                let chunked = all_bits(&model, &tokens, options(dtype, chunk));
                assert!(chunked == whole, "{dtype}, chunks of {chunk}");
            }
            by_format.push(whole);
        }
        assert_ne!(by_format[0], by_format[1], "f16 rounds");
        assert_ne!(by_format[1], by_format[2], "bf16 rounds otherwise");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (model, tokens) = (windowed(), tokens(40));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| all_bits(&model, &tokens, options(DType::F16, 17)))
    };
    let one = on(1);
    for threads in [2, 5] {
        assert!(on(threads) == one, "{threads} threads");
    }
}

#[test]
fn two_conversations_share_one_model_without_hearing_each_other() {
    let model = Arc::new(windowed());
    let talk = |model: Arc<Transformer>, prompt: Vec<u32>| {
        let mut session = Session::new(model, SessionOptions::default()).unwrap();
        let generator = session.generate(&prompt, Sampler::greedy()).unwrap().ignore_eos();
        generator.take(30).collect::<Result<Vec<u32>, _>>().unwrap()
    };
    let prompts = [vec![1, 5, 9], vec![1, 80, 2, 33]];
    let alone = prompts.clone().map(|prompt| talk(model.clone(), prompt));
    let together = prompts.map(|prompt| {
        let model = model.clone();
        thread::spawn(move || talk(model, prompt))
    });
    assert_ne!(alone[0], alone[1]);
    assert_eq!(together.map(|handle| handle.join().unwrap()), alone);
}

#[test]
fn what_is_generated_is_what_the_logits_of_its_own_text_say() {
    let model = windowed();
    let mut session = Session::new(&model, SessionOptions::default()).unwrap();
    let generator = session.generate(&[1, 7], Sampler::greedy()).unwrap().ignore_eos();
    let written: Vec<u32> = generator.take(3 * W).collect::<Result<_, _>>().unwrap();
    let text = [&[1, 7], written.as_slice()].concat();
    let bits = all_bits(&model, &text, options(DType::F16, 4));
    for (i, token) in written.iter().enumerate() {
        let row = bits[(i + 1) * 96..(i + 2) * 96].iter().map(|b| f32::from_bits(*b));
        let best = row.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
        assert_eq!(best as u32, *token, "token {i}");
    }
}

#[test]
fn a_seed_gives_its_text_again_and_a_dropped_generator_leaves_the_session_whole() {
    let model = windowed();
    let sampled = |seed, session: &mut Session<&Transformer>| {
        session.reset().unwrap();
        let sampler = Sampler::new(SamplerOptions { seed, ..Default::default() }).unwrap();
        let generator = session.generate(&[1, 7], sampler).unwrap().ignore_eos();
        generator.take(20).collect::<Result<Vec<u32>, _>>().unwrap()
    };
    let mut session = Session::new(&model, SessionOptions::default()).unwrap();
    let first = sampled(3, &mut session);
    // Prompt and all tokens but the last one are part of the sequence now.
    assert_eq!(session.position(), 2 + 19);
    let logits = session.decode(first[19]).unwrap().to_vec();
    let bits = all_bits(&model, &[&[1, 7], first.as_slice()].concat(), SessionOptions::default());
    assert!(logits.iter().map(|x| x.to_bits()).eq(bits[21 * 96..].iter().copied()));
    assert_eq!(sampled(3, &mut session), first);
    assert_ne!(sampled(4, &mut session), first);
}

#[test]
fn a_text_ends_before_a_token_that_ends_it() {
    let greedy = |eos_tokens: Vec<u32>| {
        let config = Config { eos_tokens, ..config(Window::last(W).unwrap()) };
        let model = Transformer::random(&config, DType::BF16, 11).unwrap();
        let mut session = Session::new(&model, SessionOptions::default()).unwrap();
        let generator = session.generate(&[1, 7], Sampler::greedy()).unwrap();
        generator.take(12).collect::<Result<Vec<u32>, _>>().unwrap()
    };
    let free = greedy(vec![]);
    let end = free.iter().position(|token| *token == free[6]).unwrap();
    assert_eq!(greedy(vec![free[6]]), free[..end]);
}

#[test]
fn bad_tokens_are_refused_before_anything_is_done() {
    let model = model(Window::Full);
    let mut session = Session::new(&model, options(DType::F16, 4)).unwrap();
    assert!(matches!(session.prefill(&[]), Err(ModelError::EmptyPrompt)));
    assert!(matches!(session.generate_more(Sampler::greedy()), Err(ModelError::EmptyPrompt)));
    let unknown = session.prefill(&[1, 2, 3, 4, 5, 96]).unwrap_err();
    let text = unknown.to_string();
    assert!(text.contains("token 96 at index 5") && text.contains("less than 96"), "{text}");
    assert_eq!(session.position(), 0);

    let before = session.prefill(&tokens(60)).unwrap().to_vec();
    assert_eq!((session.position(), session.remaining()), (60, Some(4)));
    let full = session.prefill(&tokens(5)).unwrap_err();
    assert!(
        matches!(full, ModelError::ContextFull { tokens: 5, position: 60, context_len: 64 }),
        "{full}"
    );
    assert_eq!((session.position(), session.logits()), (60, before.as_slice()));
    session.prefill(&tokens(4)).unwrap();
    assert!(matches!(session.decode(1), Err(ModelError::ContextFull { .. })));
    session.reset().unwrap();
    assert_eq!(session.prefill(&tokens(60)).unwrap(), before);
    let zero = Session::new(&model, options(DType::F16, 0));
    assert!(matches!(zero, Err(ModelError::ZeroChunk)));
    for chunk in [usize::MAX, 1 << 50] {
        let error = Session::new(windowed(), options(DType::F16, chunk)).unwrap_err();
        assert!(
            matches!(error, ModelError::Cache { .. } | ModelError::OutOfMemory { .. }),
            "{error:?}"
        );
    }
}

#[test]
fn a_window_has_no_end_and_constant_memory() {
    let model = windowed();
    let mut session = Session::new(&model, options(DType::F16, 8)).unwrap();
    let bytes = session.cache_bytes();
    session.prefill(&tokens(1000)).unwrap();
    assert_eq!((session.position(), session.remaining()), (1000, None));
    assert_eq!(session.cache_bytes(), bytes);
    let config = model.config();
    let staging = config.cache().with_max_chunk(8).staging_bytes(DType::F16).unwrap();
    assert_eq!(bytes, config.cache_bytes(DType::F16, 1000).unwrap() + staging);
}

#[test]
fn memory_is_what_the_configuration_predicts() {
    for tied_embeddings in [false, true] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let config = Config { tied_embeddings, ..config(Window::Full) };
            let model = Transformer::random(&config, dtype, 1).unwrap();
            assert_eq!(Some(model.bytes()), config.weight_bytes(dtype));
        }
    }
}

#[test]
fn random_weights_repeat_for_a_seed_and_give_logits_of_order_one() {
    let of = |seed| {
        let model = Transformer::random(&config(Window::Full), DType::F32, seed).unwrap();
        let mut session = Session::new(model, SessionOptions::default()).unwrap();
        Array2::from_shape_vec((1, 96), session.prefill(&tokens(9)).unwrap().to_vec()).unwrap()
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    let size = of(1).mapv(|x| x * x).mean().unwrap().sqrt();
    assert!((0.1..10.0).contains(&size), "{size}");
}

#[test]
fn a_batch_gives_each_session_the_bits_it_has_alone() {
    for format in [WeightFormat::BF16, WeightFormat::Q8_0, WeightFormat::Q4_0] {
        let config = Config {
            dim: 64,
            n_heads: 4,
            head_dim: 16,
            hidden_dim: 96,
            ..config(Window::last(5).unwrap())
        };
        let model = Transformer::random(&config, format, 5).unwrap();
        // Unequal lengths, formats of the cache mixed, the window passed in some.
        let start = |n: usize, kv_dtype| {
            let mut session = Session::new(&model, options(kv_dtype, 3)).unwrap();
            session.prefill(&tokens(n)).unwrap();
            session
        };
        let kinds =
            [(1, KvFormat::F32), (4, KvFormat::F16), (9, KvFormat::Int8), (30, KvFormat::BF16)];
        let mut alone: Vec<_> = kinds.iter().map(|(n, kind)| start(*n, *kind)).collect();
        let mut together: Vec<_> = kinds.iter().map(|(n, kind)| start(*n, *kind)).collect();
        let mut batch = Batch::new(&model, 4).unwrap();
        for step in 0..7u32 {
            // Some stay away at times.
            let mut members: Vec<_> = together.iter_mut().collect();
            let mut next: Vec<u32> = (0..4).map(|i| 1 + (step * 5 + i) % 40).collect();
            if step % 3 == 2 {
                members.remove(1);
                next.remove(1);
            }
            batch.decode(&mut members, &next).unwrap();
            let mut others: Vec<_> = alone.iter_mut().collect();
            if step % 3 == 2 {
                others.remove(1);
            }
            for ((member, other), token) in members.iter().zip(others).zip(next) {
                other.decode(token).unwrap();
                assert_eq!(member.logits(), other.logits(), "{format} step {step}");
                assert_eq!(member.position(), other.position());
            }
        }
    }
}

#[test]
fn a_batch_refuses_what_does_not_belong_together_and_appends_nothing() {
    let (model, stranger) = (windowed(), windowed());
    let mut first = Session::new(&model, SessionOptions::default()).unwrap();
    let mut second = Session::new(&model, SessionOptions::default()).unwrap();
    let mut other = Session::new(&stranger, SessionOptions::default()).unwrap();
    let mut batch = Batch::new(&model, 2).unwrap();
    let refused = |result| matches!(result, Err(ModelError::Batch { capacity: 2, .. }));
    assert!(refused(batch.decode(&mut [&mut first, &mut second], &[1])));
    assert!(refused(batch.decode(&mut [&mut first, &mut other], &[1, 2])));
    let unknown = batch.decode(&mut [&mut first, &mut second], &[1, 100_000]);
    assert!(matches!(unknown, Err(ModelError::UnknownToken { .. })));
    assert_eq!((first.position(), second.position(), other.position()), (0, 0, 0));
    batch.decode::<&Transformer>(&mut [], &[]).unwrap();
}

#[test]
fn sinks_are_seen_from_afar_and_change_no_bit_of_the_rest() {
    const SINKS: usize = 3;
    let model = windowed();
    let tokens = tokens(6 * W);
    let with = |sinks, kv_dtype, max_chunk| {
        let options = SessionOptions { kv_dtype, max_chunk, sinks, ..Default::default() };
        all_bits(&model, &tokens, options)
    };
    for kv_dtype in KvFormat::ALL {
        let whole = with(SINKS, kv_dtype, tokens.len());
        for chunk in [1, 2, W, W + SINKS, 3 * W] {
            assert!(with(SINKS, kv_dtype, chunk) == whole, "{kv_dtype}, chunks of {chunk}");
        }
        // Up to a full window nothing has left it.
        let without = with(0, kv_dtype, 7);
        let vocab_size = model.config().vocab_size;
        assert_eq!(whole[..W * vocab_size], without[..W * vocab_size]);
        assert_ne!(whole[W * vocab_size..], without[W * vocab_size..]);
    }
    // No byte more for the length of the text.
    let options = SessionOptions { sinks: SINKS, max_chunk: 4, ..Default::default() };
    let mut session = Session::new(&model, options).unwrap();
    let bytes = session.cache_bytes();
    for _ in 0..20 {
        session.prefill(&tokens).unwrap();
    }
    assert_eq!(session.cache_bytes(), bytes);
}
