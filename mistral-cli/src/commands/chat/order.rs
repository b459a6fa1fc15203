//! What a line asks for.

pub(super) const HELP: &str = "\
/help         this list
/reset        forget what was said
/system TEXT  other instructions for the model (none: without any), and forget what was said
/result TEXT  answer the tool that the model has called
/save FILE    write the conversation as JSON
/load FILE    go on with a conversation that was saved
/quit         leave (also: Ctrl-D)
//TEXT        say a text that begins with /
Ctrl-C stops an answer.
";

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order<'l> {
    Say(&'l str),
    Help,
    Reset,
    System(&'l str),
    /// What a tool answers.
    Result(&'l str),
    Save(&'l str),
    Load(&'l str),
    Quit,
    /// No command has this name.
    Unknown(&'l str),
    /// The command lacks what is named here.
    Incomplete(&'static str),
}

impl<'l> Order<'l> {
    /// `None`: an empty line.
    pub(super) fn from_line(line: &'l str) -> Option<Self> {
        if line.trim().is_empty() {
            return None;
        }
        if line.starts_with("//") {
            return line.get(1..).map(Self::Say);
        }
        if !line.starts_with('/') {
            return Some(Self::Say(line));
        }
        let line = line.trim_end();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim_start();
        Some(match name {
            "/help" => Self::Help,
            "/reset" => Self::Reset,
            "/system" => Self::System(rest),
            "/result" if rest.is_empty() => Self::Incomplete("/result TEXT"),
            "/result" => Self::Result(rest),
            "/save" if rest.is_empty() => Self::Incomplete("/save FILE"),
            "/save" => Self::Save(rest),
            "/load" if rest.is_empty() => Self::Incomplete("/load FILE"),
            "/load" => Self::Load(rest),
            "/quit" | "/exit" => Self::Quit,
            name => Self::Unknown(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn a_line_is_a_message_unless_it_begins_with_one_slash() {
        for (line, order) in [
            ("", None),
            (" \t", None),
            (" Hi /help ", Some(Order::Say(" Hi /help "))),
            ("//usr/bin", Some(Order::Say("/usr/bin"))),
            ("/help", Some(Order::Help)),
            ("/reset ", Some(Order::Reset)),
            ("/save\tx", Some(Order::Save("x"))),
            ("/system", Some(Order::System(""))),
            ("/system  Be brief. ", Some(Order::System("Be brief."))),
            ("/result", Some(Order::Incomplete("/result TEXT"))),
            ("/result {\"sum\": 3} ", Some(Order::Result("{\"sum\": 3}"))),
            ("/save", Some(Order::Incomplete("/save FILE"))),
            ("/save my chat.json", Some(Order::Save("my chat.json"))),
            ("/load x", Some(Order::Load("x"))),
            ("/quit", Some(Order::Quit)),
            ("/fly away", Some(Order::Unknown("/fly"))),
        ] {
            assert_eq!(Order::from_line(line), order, "{line:?}");
        }
    }
}
