//! What a run tells on standard error: lines for people, or one JSON object an event (`docs/log-events.md`).

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::error::Error;

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl LogFormat {
    /// The version of the events' form.
    pub const SCHEMA: &str = "paraffin-log/1";

    /// Whether people read along.
    #[must_use]
    pub fn is_text(self) -> bool {
        self == LogFormat::Text
    }

    /// Tells an event, where events are wanted; `fields` is an object of ids and numbers, without paths.
    pub fn event(self, name: &str, fields: Value) {
        if self.is_text() {
            return;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_millis() as f64 / 1000.0);
        let mut event = json!({ "time": time, "event": name });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        // One write a line, so that those of several workers on one stream do not mix.
        let line = format!("{event}\n");
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    /// Tells what ended the program, in the words of `message`.
    pub fn error(self, error: &Error, message: &str) {
        if self.is_text() {
            eprintln!("paraffin: {message}");
            return;
        }
        self.event(
            "error",
            json!({ "kind": error.kind(), "message": without_path(message), "exit_code": error.exit_code() }),
        );
    }
}

/// A message without the path that stands last in it, in quotes.
fn without_path(message: &str) -> &str {
    message.find(": \"").map_or(message, |at| &message[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_last_and_are_left_out() {
        assert_eq!(
            without_path("cannot look for slides: gone: \"/x/Mrs \\\"X\\\".svs\""),
            "cannot look for slides: gone"
        );
        assert_eq!(without_path("no slides found"), "no slides found");
    }
}
