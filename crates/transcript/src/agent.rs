//! The CLI's messages as lines: what the agent says and does.

use serde_json::Value;

use crate::{
    Activity, Item, Line, Role, clean, cost, duration, one_line, text_of, transcript::LINE, turns,
};

/// The longest summary of a tool's input or result, in characters.
const SUMMARY: usize = 120;
/// The longest name of a call that stands before its result, in characters.
const LABEL: usize = 40;
/// How many lines of a tool's error are shown.
const ERROR_LINES: usize = 3;

/// What later lines depend on.
#[derive(Debug, Default)]
pub(crate) struct AgentMessages {
    /// The directory that paths are shown relative to, with a slash at its end.
    workspace: Option<String>,
    /// Calls without a result so far.
    calls: Vec<Call>,
    /// The id of the call whose line was the last one.
    last_call: Option<String>,
    last_words: String,
    cost_usd: Option<f64>,
    num_turns: Option<u64>,
}

#[derive(Debug)]
struct Call {
    id: String,
    label: String,
    indent: usize,
}

impl AgentMessages {
    pub(crate) fn connected(&mut self, workspace: &str) {
        self.workspace = (!workspace.is_empty()).then(|| format!("{workspace}/"));
    }

    /// A message of the CLI.
    pub(crate) fn message(&mut self, message: &Value, out: &mut Vec<Item>) {
        // What a sub-agent does is indented below the call that started it.
        let nested = message.get("parent_tool_use_id").is_some_and(|parent| !parent.is_null());
        let indent = 1 + usize::from(nested);
        match text_of(message, "type") {
            "assistant" => {
                for block in blocks(message) {
                    match text_of(block, "type") {
                        "text" => self.words(text_of(block, "text"), indent, out),
                        "tool_use" | "server_tool_use" => self.call(block, indent, out),
                        _ => {}
                    }
                }
            }
            "user" => {
                for block in blocks(message) {
                    if text_of(block, "type") == "tool_result" {
                        self.result(block, indent + 1, out);
                    }
                }
            }
            "system" => system(message, out),
            _ => {}
        }
    }

    /// The end of the run, from its `completed` or `error`.
    pub(crate) fn end(&mut self, event: &Value, out: &mut Vec<Item>) {
        self.cost_usd = event.get("costUsd").and_then(Value::as_f64);
        self.num_turns = event.get("numTurns").and_then(Value::as_u64);
        // The CLI's result usually repeats the last words.
        let result = text_of(event, "result");
        if text_of(event, "type") == "completed" && clean(result).trim() != self.last_words.trim() {
            self.words(result, 1, out);
        }
    }

    /// The turns and the cost in brackets, or nothing.
    pub(crate) fn account(&self) -> String {
        let turns = self.num_turns.map(turns);
        let cost = self.cost_usd.map(cost);
        let parts: Vec<_> = turns.into_iter().chain(cost).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }

    fn words(&mut self, words: &str, indent: usize, out: &mut Vec<Item>) {
        let words = clean(words);
        // Everything is printed except empty lines around the text.
        for line in words.trim_end().trim_start_matches('\n').lines() {
            push(out, Role::Words, indent, line.trim_end().to_owned());
        }
        self.last_call = None;
        self.last_words = words;
    }

    fn call(&mut self, block: &Value, indent: usize, out: &mut Vec<Item>) {
        let name = one_line(text_of(block, "name"), 60);
        let input = block.get("input").unwrap_or(&Value::Null);
        let text = format!("{name} {}", self.summary(input)).trim_end().to_owned();
        let id = text_of(block, "id").to_owned();
        self.last_call = Some(id.clone());
        self.calls.push(Call { id, label: one_line(&text, LABEL), indent });
        push(out, Role::Tool, indent, format!("> {text}"));
    }

    /// The most telling field of a tool's input.
    fn summary(&self, input: &Value) -> String {
        const TELLING: [&str; 10] = [
            "command",
            "file_path",
            "notebook_path",
            "path",
            "pattern",
            "url",
            "query",
            "description",
            "skill",
            "prompt",
        ];
        let Value::Object(fields) = input else { return String::new() };
        let telling = TELLING.iter().find_map(|name| {
            // For a search, what it looks for says more than where.
            let name =
                if *name == "path" && fields.contains_key("pattern") { "pattern" } else { name };
            fields.get(name)?.as_str()
        });
        let text = match telling {
            Some(text) => self
                .workspace
                .as_ref()
                .map_or(text, |root| text.strip_prefix(root.as_str()).unwrap_or(text)),
            None if fields.is_empty() => "",
            None => return one_line(&input.to_string(), SUMMARY),
        };
        one_line(text, SUMMARY)
    }

    fn result(&mut self, block: &Value, indent: usize, out: &mut Vec<Item>) {
        let id = text_of(block, "tool_use_id");
        // The results of parallel calls come in any order, so each names its call.
        let parallel = self.calls.iter().filter(|call| call.indent + 1 == indent).count() > 1;
        let place = self.calls.iter().position(|call| call.id == id);
        let call = place.map(|place| self.calls.remove(place).label).unwrap_or_default();
        let follows = self.last_call.take().is_some_and(|last| last == id);
        let label = if follows && !parallel { String::new() } else { format!("{call}: ") };
        let failed = block.get("is_error").and_then(Value::as_bool).unwrap_or_default();
        let content = result_text(block.get("content").unwrap_or(&Value::Null));
        let lines: Vec<_> = content.lines().filter(|line| !line.trim().is_empty()).collect();
        let (role, shown) = if failed { (Role::Trouble, ERROR_LINES) } else { (Role::Detail, 1) };
        if lines.is_empty() {
            let nothing = if failed { "failed without a message" } else { "(nothing)" };
            push(out, role, indent, format!("{label}{nothing}"));
        }
        let left = lines.len().saturating_sub(shown);
        for (number, line) in lines.iter().take(shown).enumerate() {
            let label = if number == 0 { label.as_str() } else { "" };
            let mut text = format!("{label}{}", one_line(line, SUMMARY));
            if left > 0 && number + 1 == shown {
                text.push_str(&format!(" (+{left} lines)"));
            }
            push(out, role, indent, text);
        }
    }
}

fn system(message: &Value, out: &mut Vec<Item>) {
    match text_of(message, "subtype") {
        "init" => {
            let model = one_line(text_of(message, "model"), 60);
            if !model.is_empty() {
                out.push(Item::Activity(Activity::Working(format!("{model} is working"))));
            }
        }
        "api_retry" => {
            let count = |name| message.get(name).and_then(Value::as_u64).unwrap_or_default();
            let pause = message.get("retry_delay_ms").and_then(Value::as_f64).unwrap_or_default();
            let error = match message.get("error_status").and_then(Value::as_u64) {
                Some(status) => format!("answered {status}"),
                None => "does not answer".to_owned(),
            };
            let text = format!(
                "the model's API {error}: attempt {} of {} in {}",
                count("attempt") + 1,
                count("max_retries") + 1,
                duration(pause as u64),
            );
            push(out, Role::Trouble, 1, text);
        }
        "unparsed_line" => {
            let text = "the agent printed a line that is not a message";
            push(out, Role::Trouble, 1, text.to_owned());
        }
        "compact_boundary" => {
            push(out, Role::Detail, 1, "the conversation was shortened".to_owned());
        }
        "model_fallback" => push(out, Role::Detail, 1, "another model takes over".to_owned()),
        _ => {}
    }
}

fn blocks(message: &Value) -> &[Value] {
    let content = message.get("message").and_then(|message| message.get("content"));
    content.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A tool's result as text: a string, or blocks, of which only text blocks are readable.
fn result_text(content: &Value) -> String {
    let text = match content {
        Value::String(text) => clean(text),
        Value::Array(blocks) => {
            let texts: Vec<_> = blocks
                .iter()
                .map(|block| match text_of(block, "type") {
                    "text" => clean(text_of(block, "text")),
                    kind => format!("({kind})"),
                })
                .collect();
            texts.join("\n")
        }
        _ => String::new(),
    };
    // The CLI's mark for errors; the colour says the same.
    text.replace("<tool_use_error>", "").replace("</tool_use_error>", "")
}

fn push(out: &mut Vec<Item>, role: Role, indent: usize, text: String) {
    let text = if role == Role::Words { text } else { one_line(&text, LINE) };
    out.push(Item::Line(Line { role, indent, text }));
}
