//! A conversation with what goes along with it, from and to JSON.

use super::error::ChatError;
use super::fields::{Field, Members};
use super::json::{Json, object};
use super::message::{Content, Message, Part, PartKind, Role, ToolCall};
use super::schema;
use super::tool::Tool;

/// A conversation, the tools that are offered, and the settings of a request to a server.
///
/// ```
/// use mistral_model::chat::ChatRequest;
///
/// let request = r#"{"messages": [{"role": "user", "content": "And of Italy?"}], "top_p": 0.9}"#;
/// let request = ChatRequest::from_json(request)?;
/// assert_eq!(request.messages[0].text(), "And of Italy?");
/// assert_eq!(request.top_p, Some(0.9));
/// # Ok::<(), mistral_model::chat::ChatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct ChatRequest {
    /// What was said so far, oldest first.
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    pub tools: Vec<Tool>,
    /// Name of the model, which serving wants.
    pub model: Option<String>,
    /// From 0 to 1.
    pub temperature: Option<f64>,
    /// From 0 to 1.
    pub top_p: Option<f64>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u64>,
    /// Where random numbers start.
    pub random_seed: Option<u64>,
    /// Asked for and not supported: an error when the request is encoded.
    pub reasoning_effort: bool,
    /// Asked for and not supported: an error when the request is encoded.
    pub truncate_for_context_length: bool,
}

const FIELDS: [&str; 13] = [
    "model",
    "messages",
    "tools",
    "tool_choice",
    "temperature",
    "top_p",
    "max_tokens",
    "random_seed",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "truncate_for_context_length",
    "continue_final_message",
];

impl ChatRequest {
    /// A conversation without tools.
    pub fn new(messages: impl Into<Vec<Message>>) -> Self {
        Self { messages: messages.into(), ..Self::default() }
    }

    /// Offers tools.
    pub fn with_tools(self, tools: impl Into<Vec<Tool>>) -> Self {
        Self { tools: tools.into(), ..self }
    }

    /// The calls at the end of the conversation that have no result yet, in their order: the next
    /// messages are to be [results](Message::tool_result) of them.
    ///
    /// ```
    /// use mistral_model::chat::{ChatRequest, Message, ToolCall};
    ///
    /// let calls = [ToolCall::new("call00000", "add", "{}"), ToolCall::new("call00001", "ping", "{}")];
    /// let answer = Message::tool_calls(calls.to_vec());
    /// let result = Message::tool_result(&calls[0], "3");
    /// let request = ChatRequest::new([Message::user("?"), answer, result]);
    /// assert_eq!(request.open_calls(), &calls[1..]);
    /// ```
    pub fn open_calls(&self) -> &[ToolCall] {
        let results = self.messages.iter().rev().take_while(|m| m.role() == Role::Tool).count();
        let behind = self.messages.len() - results;
        let last = behind.checked_sub(1).and_then(|last| self.messages.get(last));
        last.and_then(|answer| answer.calls().get(results..)).unwrap_or_default()
    }

    /// Reads a request as Mistral's servers take it.
    ///
    /// `tool_choice`, `parallel_tool_calls` and `response_format` are looked at and not kept: they
    /// change no token of the prompt.
    ///
    /// # Errors
    ///
    /// - [`ChatError::Json`]: no JSON.
    /// - [`ChatError::Field`]: a field of the wrong kind, missing, or unknown.
    /// - [`ChatError::NothingToContinue`]: `continue_final_message` behind another than the
    ///   assistant.
    pub fn from_json(text: &str) -> Result<Self, ChatError> {
        Self::from_value(&Json::parse(text)?)
    }

    /// [`from_json`](Self::from_json) from a value.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Self::from_json), but for [`ChatError::Json`].
    pub fn from_value(value: &Json) -> Result<Self, ChatError> {
        let root = Field::root(value);
        // First of all, as mistral-common does: whatever else is wrong.
        let goes_on = root.get("continue_final_message").map(|field| field.boolean());
        if matches!(goes_on, Some(Ok(true))) && !ends_with_assistant(value) {
            return Err(ChatError::NothingToContinue);
        }
        let fields = root.object(&FIELDS)?;
        let goes_on = goes_on.transpose()?.unwrap_or_default();
        let flag = |name| fields.get(name).map(|field| field.boolean()).transpose();
        let messages = fields.need("messages")?.list()?;
        let messages = messages.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let tools = fields.some("tools").map(|tools| tools.list()).transpose()?;
        let tools = tools.iter().flatten().map(tool).collect::<Result<_, _>>()?;
        flag("parallel_tool_calls")?;
        fields.get("tool_choice").map_or(Ok(()), |choice| check_tool_choice(&choice))?;
        fields.get("response_format").map_or(Ok(()), |format| check_response_format(&format))?;
        let effort = fields.some("reasoning_effort");
        let share = |name| fields.get(name).map(|field| field.share()).transpose();
        let count = |name| fields.some(name).map(|field| field.count()).transpose();
        let mut request = Self {
            messages,
            tools,
            model: fields.some("model").map(|m| m.string()).transpose()?.map(str::to_owned),
            temperature: share("temperature")?,
            top_p: share("top_p")?,
            max_tokens: count("max_tokens")?,
            random_seed: count("random_seed")?,
            reasoning_effort: effort.map(|effort| check_effort(&effort)).transpose()?.is_some(),
            truncate_for_context_length: flag("truncate_for_context_length")?.unwrap_or_default(),
        };
        if let Some(Message::Assistant { prefix, .. }) = request.messages.last_mut() {
            *prefix |= goes_on;
        }
        Ok(request)
    }

    /// The conversation and the tools as JSON that [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> Json {
        let messages = self.messages.iter().map(Message::to_json).collect();
        let mut members = vec![("messages".to_owned(), Json::Array(messages))];
        if !self.tools.is_empty() {
            let tools = self.tools.iter().map(Tool::to_json).collect();
            members.push(("tools".to_owned(), Json::Array(tools)));
        }
        Json::Object(members)
    }
}

fn ends_with_assistant(request: &Json) -> bool {
    let messages = request.get("messages");
    let last = messages.and_then(|messages| messages.as_array()?.last());
    last.is_some_and(|last| last.get("role").and_then(Json::as_str) == Some("assistant"))
}

fn message(field: &Field<'_>) -> Result<Message, ChatError> {
    const EXPECTED: &str = "system, user, assistant or tool";
    let role = field.value().get("role").and_then(Json::as_str);
    let Some(role) = Role::ALL.into_iter().find(|known| Some(known.name()) == role) else {
        let all = &["role", "content", "tool_calls", "prefix", "tool_call_id", "name"];
        return Err(field.object(all)?.need("role")?.error(EXPECTED));
    };
    let string = |members: &Members<'_>, name| {
        let value = members.some(name).map(|field| field.string()).transpose()?;
        Ok::<_, ChatError>(value.map(str::to_owned))
    };
    match role {
        Role::System | Role::User => {
            let members = field.object(&["role", "content"])?;
            let content = content(&members.need("content")?, role)?;
            Ok(match role {
                Role::System => Message::System { content },
                _ => Message::User { content },
            })
        }
        Role::Assistant => {
            let members = field.object(&["role", "content", "tool_calls", "prefix"])?;
            let calls = members.some("tool_calls").map(|calls| calls.list()).transpose()?;
            let prefix = members.get("prefix").map(|prefix| prefix.boolean()).transpose()?;
            Ok(Message::Assistant {
                content: members.some("content").map(|said| content(&said, role)).transpose()?,
                tool_calls: calls.iter().flatten().map(tool_call).collect::<Result<_, _>>()?,
                prefix: prefix.unwrap_or_default(),
            })
        }
        Role::Tool => {
            let members = field.object(&["role", "content", "tool_call_id", "name"])?;
            Ok(Message::Tool {
                content: content(&members.need("content")?, role)?,
                call_id: string(&members, "tool_call_id")?,
                name: string(&members, "name")?,
            })
        }
    }
}

fn content(field: &Field<'_>, role: Role) -> Result<Content, ChatError> {
    match field.value() {
        Json::String(text) => Ok(Content::Text(text.clone())),
        Json::Array(_) => {
            let parts = field.list()?;
            Ok(Content::Parts(
                parts.iter().map(|field| part(field, role)).collect::<Result<_, _>>()?,
            ))
        }
        _ => Err(field.error("a string, or an array of parts")),
    }
}

fn part(field: &Field<'_>, role: Role) -> Result<Part, ChatError> {
    // What a picture or a sound holds is not looked at: no template here writes it.
    let kind = match field.value().get("type").and_then(Json::as_str) {
        Some("text") => {
            let text = field.object(&["type", "text"])?.need("text")?.string()?;
            return Ok(Part::Text(text.to_owned()));
        }
        Some(name @ ("image" | "image_url")) => {
            field.object(&["type", name])?.need(name)?;
            PartKind::Image
        }
        Some(name @ ("input_audio" | "audio_url")) => {
            field.object(&["type", name])?.need(name)?;
            PartKind::Audio
        }
        Some("thinking") => {
            let members = field.object(&["type", "thinking", "closed"])?;
            members.need("thinking")?.string()?;
            members.get("closed").map(|closed| closed.boolean()).transpose()?;
            PartKind::Thinking
        }
        _ => {
            return Err(field.error(
                "a part of type text, image, image_url, input_audio, audio_url or thinking",
            ));
        }
    };
    let fits = match role {
        Role::User | Role::Tool => kind != PartKind::Thinking,
        Role::System => kind != PartKind::Image,
        Role::Assistant => kind == PartKind::Thinking,
    };
    if fits { Ok(Part::Other(kind)) } else { Err(field.error("a part that this role can say")) }
}

fn check_type(members: &Members<'_>) -> Result<(), ChatError> {
    let kind = members.get("type");
    kind.map_or(Ok(()), |kind| kind.word(&["function"], "function").map(drop))
}

fn tool_call(field: &Field<'_>) -> Result<ToolCall, ChatError> {
    let members = field.object(&["id", "type", "function"])?;
    check_type(&members)?;
    let id = members.get("id").map(|id| id.string()).transpose()?.map(str::to_owned);
    let function = members.need("function")?.object(&["name", "arguments"])?;
    let arguments = function.need("arguments")?;
    let arguments = match arguments.value() {
        Json::Object(_) => arguments.value().to_string(),
        Json::Null => "{}".to_owned(),
        _ => arguments.string()?.to_owned(),
    };
    Ok(ToolCall { id, name: function.need("name")?.string()?.to_owned(), arguments })
}

fn tool(field: &Field<'_>) -> Result<Tool, ChatError> {
    let members = field.object(&["type", "function"])?;
    check_type(&members)?;
    let function = members.need("function")?;
    let function = function.object(&["name", "description", "parameters", "strict"])?;
    function.get("strict").map(|strict| strict.boolean()).transpose()?;
    let description = function.get("description").map(|text| text.string()).transpose()?;
    let parameters = function.need("parameters")?;
    if parameters.value().as_object().is_none() {
        return Err(parameters.error("an object"));
    }
    let name = function.need("name")?.string()?;
    Ok(Tool::new(name, description.unwrap_or_default(), parameters.value().clone()))
}

fn check_tool_choice(field: &Field<'_>) -> Result<(), ChatError> {
    const EXPECTED: &str = "auto, none, any, required or a function";
    if field.value().as_object().is_none() {
        return field.word(&["auto", "none", "any", "required"], EXPECTED).map(drop);
    }
    let members = field.object(&["type", "function"])?;
    check_type(&members)?;
    members.need("function")?.object(&["name"])?.need("name")?.string().map(drop)
}

fn check_response_format(field: &Field<'_>) -> Result<(), ChatError> {
    const KINDS: &str = "text, json_object or json_schema";
    let members = field.object(&["type", "json_schema"])?;
    let kind = members.get("type");
    let kind = kind.map(|kind| kind.word(&["text", "json_object", "json_schema"], KINDS));
    let Some(schema) = members.some("json_schema") else {
        let wanted = kind.transpose()? == Some("json_schema");
        return if wanted { members.need("json_schema")?.object(&[]).map(drop) } else { Ok(()) };
    };
    kind.transpose()?;
    let named = schema.object(&["name", "description", "schema", "custom_schema", "strict"])?;
    named.need("name")?.string()?;
    named.some("description").map(|text| text.string()).transpose()?;
    named.get("strict").map(|strict| strict.boolean()).transpose()?;
    let schema = named.get("schema").map_or_else(|| named.need("custom_schema"), Ok)?;
    match schema.value().as_object().map(|_| schema::violation(schema.value())) {
        Some(None) => Ok(()),
        _ => Err(schema.error("a JSON schema (draft 7)")),
    }
}

fn check_effort(field: &Field<'_>) -> Result<(), ChatError> {
    const WORDS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    field.word(&WORDS, "none, minimal, low, medium, high, xhigh or max").map(drop)
}

impl Message {
    /// As it stands in a request. Parts that are no text are left out.
    fn to_json(&self) -> Json {
        let mut members = vec![("role".to_owned(), Json::from(self.role().name()))];
        let mut member = |name: &str, value| members.push((name.to_owned(), value));
        if let Some(content) = self.content() {
            member("content", content.to_json());
        }
        match self {
            Self::Assistant { tool_calls, prefix, .. } => {
                if !tool_calls.is_empty() {
                    let calls = tool_calls.iter().map(ToolCall::to_json).collect();
                    member("tool_calls", Json::Array(calls));
                }
                if *prefix {
                    member("prefix", Json::Bool(true));
                }
            }
            Self::Tool { call_id, name, .. } => {
                if let Some(id) = call_id {
                    member("tool_call_id", Json::from(id.as_str()));
                }
                if let Some(name) = name {
                    member("name", Json::from(name.as_str()));
                }
            }
            Self::System { .. } | Self::User { .. } => {}
        }
        Json::Object(members)
    }
}

impl Content {
    fn to_json(&self) -> Json {
        let part = |text| object([("type", Json::from("text")), ("text", Json::from(text))]);
        match self {
            Self::Text(text) => Json::from(text.as_str()),
            Self::Parts(_) => Json::Array(self.texts().map(part).collect()),
        }
    }
}

impl ToolCall {
    fn to_json(&self) -> Json {
        let function = object([
            ("name", Json::from(self.name.as_str())),
            ("arguments", Json::from(self.arguments.as_str())),
        ]);
        let mut members = vec![("function".to_owned(), function)];
        if let Some(id) = &self.id {
            members.insert(0, ("id".to_owned(), Json::from(id.as_str())));
        }
        Json::Object(members)
    }
}
