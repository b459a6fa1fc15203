#![forbid(unsafe_code)]
//! `mistral`: Mistral models on CPUs, from the command line.
//!
//! What is here: arguments, files, streams and messages. What is not: anything about models, which
//! is `mistral-model`'s. One file a command in `commands/`; `failure.rs` has every error and the
//! exit code it leads to.

mod args;
mod commands;
mod demo;
mod failure;
mod input;
mod interrupt;
mod memory;
mod model;
mod output;
mod progress;
mod requests;
mod template;
mod token_bias;
mod token_list;
mod window_size;

use std::process::ExitCode;

use crate::args::{Cli, Command};
use crate::commands::{
    bench, chat, generate, inspect, logits, moderate, perplexity, quantize, score, tokenize,
};
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(message) => {
            // Help and version go to standard output; who closes it has read enough.
            let _ = message.print();
            return ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2));
        }
    };
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Runs a command inside the one thread pool of the process.
fn run(command: &Command) -> Result<(), Failure> {
    // 0 is rayon's word for one thread a core.
    let threads = command.threads().map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| match command {
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Moderate(args) => moderate::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Score(args) => score::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Bench(args) => bench::run(args),
    })
}
