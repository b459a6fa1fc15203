//! `mistral chat`: a conversation, line by line.

mod calls;
mod lines;
mod order;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mistral_model::chat::{ChatRequest, Conversation, ConversationError, Message, ReplyEnd, Role};
use mistral_model::generate::StopStrings;
use mistral_model::{ModelError, SessionOptions, Transformer};

use self::lines::Lines;
use self::order::Order;
use super::print;
use crate::args::ChatArgs;
use crate::failure::Failure;
use crate::input;
use crate::interrupt::Interrupt;
use crate::model::{self, ModelSource};
use crate::output::WholeFile;
use crate::template;

pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    // Everything that can be wrong with the options, before the weights are read.
    args.sampling.sampler()?;
    let source = ModelSource::new(args.model.as_deref());
    let tokenizer = source.tokenizer(args.tokenizer.format())?;
    let format = template::format(&tokenizer, args.model.as_deref(), args.template.template)?;
    let stops = args.stop.iter().map(String::as_str).chain(format.stop_strings().iter().copied());
    let stops = StopStrings::new(stops)?;
    let request = match &args.load {
        Some(path) => load(path, args.guardrail)?,
        None => ChatRequest::new(opening(args.system.as_deref(), args.guardrail)),
    };
    let lines = Lines::open(args.history.as_deref())?;

    let checkpoint = source.checkpoint(args.compute.open.options())?;
    let adapter = args.adapter.open(checkpoint.config())?;
    let model = model::load(&checkpoint)?;
    let options = SessionOptions {
        // A window that has turned over can still take back an answer.
        rewind_slack: args.max_tokens.min(4096),
        ..args.compute.session(args.kv_dtype, usize::MAX)
    };
    let interrupt = Interrupt::listen()?;
    let session = model::session(&model, options, adapter)?.with_cancel(interrupt.flag());
    let chat = Conversation::new(&*format, session, request, stops);
    let told = lines.of_a_person();
    Talk { args, chat, interrupt, told }.run(lines)
}

/// What stands before all that is said.
fn opening(system: Option<&str>, guardrail: bool) -> Vec<Message> {
    guarded(ChatRequest::new(Vec::from_iter(system.map(Message::system))), guardrail).messages
}

fn guarded(request: ChatRequest, guardrail: bool) -> ChatRequest {
    if guardrail { request.guarded() } else { request }
}

/// A conversation from a file.
fn load(path: &Path, guardrail: bool) -> Result<ChatRequest, Failure> {
    let text = input::file(path, input::CHAT)?;
    match ChatRequest::from_json(&text) {
        Ok(request) => Ok(guarded(request, guardrail)),
        Err(source) => Err(Failure::NoConversation { path: path.to_owned(), source }),
    }
}

/// Two that talk.
struct Talk<'a> {
    args: &'a ChatArgs,
    chat: Conversation<'a, &'a Transformer>,
    interrupt: Interrupt,
    /// Whether to tell what became of a command. Another program wants answers alone.
    told: bool,
}

impl Talk<'_> {
    /// Goes on until the lines end.
    fn run(mut self, mut lines: Lines) -> Result<(), Failure> {
        self.tell("/help lists the commands, Ctrl-D leaves");
        loop {
            // At a terminal Ctrl-C is for the line.
            self.interrupt.idle(!self.told);
            let line = lines.next();
            self.interrupt.idle(false);
            let line = match line {
                Ok(Some(line)) => line,
                Ok(None) => break,
                // One line that cannot be read is not the end of the others.
                Err(failure @ Failure::NotUtf8 { .. }) => {
                    failure.report();
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let done = match Order::from_line(&line) {
                None => Ok(()),
                Some(Order::Quit) => break,
                Some(order) => self.obey(order),
            };
            match done {
                // What went wrong ends one turn, and not the conversation.
                Err(failure) if !failure.is_output() => failure.report(),
                done => done?,
            }
        }
        Ok(())
    }

    fn obey(&mut self, order: Order<'_>) -> Result<(), Failure> {
        match order {
            Order::Say(text) => {
                self.drop_open_calls();
                self.answer(Message::user(text))
            }
            Order::Result(text) => self.result(text),
            Order::Help => print(order::HELP),
            Order::Reset => {
                self.reset();
                self.tell("what was said is forgotten");
                Ok(())
            }
            Order::System(text) => {
                let system = Some(text).filter(|text| !text.is_empty());
                self.chat.request_mut().messages = opening(system, self.args.guardrail);
                let what = if text.is_empty() { "no instructions" } else { "new instructions" };
                self.tell(&format!("{what}, and what was said is forgotten"));
                Ok(())
            }
            Order::Save(path) => {
                let mut file = WholeFile::create_private(&from_home(path))?;
                file.write(format!("{}\n", self.chat.request().to_json()).as_bytes())?;
                file.commit()?;
                self.tell(&format!("saved {}", self.messages()));
                Ok(())
            }
            Order::Load(path) => {
                *self.chat.request_mut() = load(&from_home(path), self.args.guardrail)?;
                self.tell(&format!("loaded {}", self.messages()));
                self.tell_open_call();
                Ok(())
            }
            Order::Unknown(name) => {
                note(&format!("there is no {name}: /help lists the commands, and /{name} is said"));
                Ok(())
            }
            Order::Incomplete(usage) => {
                note(&format!("expected {usage}"));
                Ok(())
            }
            Order::Quit => Ok(()),
        }
    }

    /// Forgets what was said. Instructions and tools stay, wherever they came from.
    fn reset(&mut self) {
        let request = self.chat.request_mut();
        request.messages.retain(|message| message.role() == Role::System);
    }

    /// Answers the first call that waits; with the last one the model goes on.
    fn result(&mut self, text: &str) -> Result<(), Failure> {
        let (call, last) = match self.chat.request().open_calls() {
            [] => {
                note("no call waits for a result");
                return Ok(());
            }
            [call, rest @ ..] => (call, rest.is_empty()),
        };
        let result = Message::tool_result(call, text);
        if last {
            return self.answer(result);
        }
        self.chat.request_mut().messages.push(result);
        self.tell_open_call();
        Ok(())
    }

    /// Calls that somebody passes over were never made: no template can write them.
    fn drop_open_calls(&mut self) {
        if self.chat.request().open_calls().is_empty() {
            return;
        }
        let messages = &mut self.chat.request_mut().messages;
        messages.truncate(messages.iter().rposition(|m| m.role() != Role::Tool).unwrap_or(0));
        note("the model's calls were not answered with /result: they are forgotten");
    }

    /// Shows the answer to a message as it comes.
    fn answer(&mut self, message: Message) -> Result<(), Failure> {
        self.interrupt.forget();
        let sampler = self.args.sampling.sampler()?;
        let mut reply = match self.chat.say(message, sampler, self.args.max_tokens) {
            Err(ConversationError::Model(ModelError::Cancelled)) => {
                self.tell("stopped before the answer: what you said last is forgotten");
                return Ok(());
            }
            reply => reply?,
        };
        let (mut shown, mut fresh) = (Ok(()), true);
        while !self.interrupt.pressed()
            && shown.is_ok()
            && let Some(part) = reply.next()
        {
            shown = match part {
                Ok(part) => print(&calls::shown(&part, &mut fresh)),
                // A token that was cancelled on its way.
                Err(ConversationError::Model(ModelError::Cancelled)) => break,
                Err(error) => Err(error.into()),
            };
        }
        let end = reply.finish();
        print("\n")?;
        match end {
            ReplyEnd::ContextFull => note("the model's context is full: /reset starts anew"),
            ReplyEnd::MaxTokens => self.tell("cut here: --max-tokens allows longer answers"),
            _ => {}
        }
        self.tell_open_call();
        shown
    }

    /// Which call waits for a result, if one does.
    fn tell_open_call(&self) {
        if let Some(call) = self.chat.request().open_calls().first() {
            self.tell(&format!("/result TEXT answers the call of {}", call.name));
        }
    }

    /// How long the conversation is.
    fn messages(&self) -> String {
        match self.chat.request().messages.len() {
            1 => "1 message".to_owned(),
            n => format!("{n} messages"),
        }
    }

    /// Something to know for a person who waits for it.
    fn tell(&self, text: &str) {
        if self.told {
            note(text);
        }
    }
}

/// A path as people write it: `~` in front is the folder of their own, as shells have it.
fn from_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// Something to know, beside the answers.
fn note(text: &str) {
    // If nobody listens, nobody wants to know.
    let _ = writeln!(io::stderr(), "note: {text}");
}
