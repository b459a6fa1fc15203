//! llama.cpp on the CPU, measured as `mistral bench` measures this project; and its quantiser, which
//! makes the files that all engines read.

use std::error::Error;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use clap::{Args, Parser, Subcommand, ValueEnum};
use llama_cpp_sys_2 as llama;
use measure::{Engine, Loaded, Work};

/// Measure llama.cpp on a GGUF file, or write the file in another format
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print one JSON object with the names of `mistral bench --json`
    Bench(Bench),
    /// Write a model with every matrix in one format
    Quantize { from: PathBuf, to: PathBuf, format: Format },
}

#[derive(Args)]
struct Bench {
    #[command(flatten)]
    work: Work,
    /// Attention in one pass, block by block
    #[arg(long)]
    flash_attention: bool,
    /// Leave quantised weights as the file has them
    #[arg(long)]
    no_repack: bool,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Format {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_k")]
    Q4K,
}

impl Format {
    /// What llama.cpp calls it.
    fn number(self) -> llama::llama_ftype {
        match self {
            Self::F32 => llama::LLAMA_FTYPE_ALL_F32,
            Self::F16 => llama::LLAMA_FTYPE_MOSTLY_F16,
            Self::Bf16 => llama::LLAMA_FTYPE_MOSTLY_BF16,
            Self::Q8_0 => llama::LLAMA_FTYPE_MOSTLY_Q8_0,
            Self::Q4_0 => llama::LLAMA_FTYPE_MOSTLY_Q4_0,
            Self::Q4K => llama::LLAMA_FTYPE_MOSTLY_Q4_K_S,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    match Options::parse().command {
        Command::Bench(bench) => bench.work.run(|| load(&bench)),
        Command::Quantize { from, to, format } => quantize(&from, &to, format),
    }
}

fn c_path(path: &Path) -> Result<CString, Box<dyn Error>> {
    Ok(CString::new(path.to_str().ok_or("the path is not UTF-8")?)?)
}

fn quantize(from: &Path, to: &Path, format: Format) -> Result<(), Box<dyn Error>> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: the parameters are the library's own, and both paths outlive the call.
    let status = unsafe {
        let mut params = llama::llama_model_quantize_default_params();
        params.pure_ = true;
        params.ftype = format.number();
        llama::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params)
    };
    if status == 0 { Ok(()) } else { Err("llama.cpp cannot quantise this file".into()) }
}

struct LlamaCpp {
    model: NonNull<llama::llama_model>,
    context: NonNull<llama::llama_context>,
    vocab_size: usize,
}

fn load(bench: &Bench) -> Result<(LlamaCpp, Loaded), Box<dyn Error>> {
    let work = &bench.work;
    let path = c_path(&work.model)?;
    // SAFETY: the parameters are the library's own, and the path outlives the call.
    let model = unsafe {
        llama::llama_backend_init();
        let mut params = llama::llama_model_default_params();
        params.use_extra_bufts = !bench.no_repack;
        NonNull::new(llama::llama_model_load_from_file(path.as_ptr(), params))
    };
    let model = model.ok_or("llama.cpp cannot load this file")?;
    // SAFETY: the model was loaded; it is freed after its context.
    let (context, vocab_size, layers) = unsafe {
        let mut params = llama::llama_context_default_params();
        params.n_ctx = u32::try_from(work.positions())?;
        params.n_batch = u32::try_from(work.chunk)?;
        params.n_ubatch = u32::try_from(work.chunk)?;
        params.n_threads = i32::try_from(work.threads)?;
        params.n_threads_batch = i32::try_from(work.threads)?;
        params.flash_attn_type = if bench.flash_attention {
            llama::LLAMA_FLASH_ATTN_TYPE_ENABLED
        } else {
            llama::LLAMA_FLASH_ATTN_TYPE_DISABLED
        };
        let context = NonNull::new(llama::llama_init_from_model(model.as_ptr(), params));
        let vocab = llama::llama_model_get_vocab(model.as_ptr());
        (
            context.ok_or("llama.cpp cannot make a context")?,
            usize::try_from(llama::llama_vocab_n_tokens(vocab))?,
            usize::try_from(llama::llama_model_n_layer(model.as_ptr()))?,
        )
    };
    let on = |setting, on| if on { setting } else { "" };
    let loaded = Loaded {
        engine: format!(
            "llama.cpp{}{}",
            on(", flash attention", bench.flash_attention),
            on(", not repacked", bench.no_repack)
        ),
        layers,
        vocab_size,
        weights: format_of(model),
        kv_dtype: "f16",
    };
    Ok((LlamaCpp { model, context, vocab_size }, loaded))
}

/// The format of most weights, by its name here.
fn format_of(model: NonNull<llama::llama_model>) -> String {
    // SAFETY: the model was loaded.
    let number = unsafe { llama::llama_model_ftype(model.as_ptr()) } & !llama::LLAMA_FTYPE_GUESSED;
    let format = Format::value_variants().iter().find(|format| format.number() == number);
    let name = format.and_then(Format::to_possible_value);
    name.map_or("unknown".to_owned(), |name| name.get_name().to_owned())
}

impl Engine for LlamaCpp {
    fn reset(&mut self) {
        // SAFETY: the context lives as long as `self`.
        unsafe { llama::llama_memory_clear(llama::llama_get_memory(self.context.as_ptr()), false) }
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut tokens: Vec<i32> =
            tokens.iter().map(|&token| i32::try_from(token)).collect::<Result<_, _>>()?;
        // SAFETY: the batch borrows `tokens`, which outlive the call; the logits of the last token are
        // `vocab_size` floats that stay until the next call.
        unsafe {
            let batch =
                llama::llama_batch_get_one(tokens.as_mut_ptr(), i32::try_from(tokens.len())?);
            if llama::llama_decode(self.context.as_ptr(), batch) != 0 {
                return Err("llama.cpp cannot decode".into());
            }
            let logits = llama::llama_get_logits_ith(self.context.as_ptr(), -1);
            let logits = NonNull::new(logits).ok_or("llama.cpp has no logits")?;
            Ok(std::slice::from_raw_parts(logits.as_ptr(), self.vocab_size).to_vec())
        }
    }
}

impl Drop for LlamaCpp {
    fn drop(&mut self) {
        // SAFETY: both were made by the library and are freed once, the context first.
        unsafe {
            llama::llama_free(self.context.as_ptr());
            llama::llama_model_free(self.model.as_ptr());
        }
    }
}
