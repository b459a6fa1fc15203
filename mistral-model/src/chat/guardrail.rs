//! The guardrail of the paper: a system prompt (arXiv:2310.06825, section 5.1).

use super::message::Message;
use super::request::ChatRequest;

/// The system prompt that Mistral recommends, word for word.
pub const SYSTEM_PROMPT: &str = "Always assist with care, respect, and truth. Respond with utmost \
    utility yet securely. Avoid harmful, unethical, prejudiced, or negative content. Ensure replies \
    promote fairness and positivity.";

impl ChatRequest {
    /// Puts the [`SYSTEM_PROMPT`] of the paper before all other messages, unless it is there.
    ///
    /// Other system prompts stay: templates join them with an empty line between.
    ///
    /// ```
    /// use mistral_model::chat::{ChatRequest, Message};
    ///
    /// let request = ChatRequest::new([Message::user("How to kill a linux process?")]).guarded();
    /// assert!(request.messages[0].text().starts_with("Always assist with care"));
    /// assert_eq!(request.clone().guarded(), request);
    /// ```
    pub fn guarded(mut self) -> Self {
        let guardrail = Message::system(SYSTEM_PROMPT);
        if self.messages.first() != Some(&guardrail) {
            self.messages.insert(0, guardrail);
        }
        self
    }
}
