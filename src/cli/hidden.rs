//! Messages of runs whose ids hide names: what the user typed, and where it lies, is told by its place on the command line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;

use super::args::Cli;

/// Words of the command line that may name a slide or a person, and what stands for them.
pub struct Hidden(Vec<(String, String)>);

impl Hidden {
    /// The words of this process, where they ask for ids that hide names.
    #[must_use]
    pub fn of_process() -> Option<Self> {
        let words: Vec<OsString> = std::env::args_os().collect();
        let words: Vec<String> = words.iter().skip(1).map(|w| w.to_string_lossy().into_owned()).collect();
        let mut hidden = asks_to_hide(&words).then(|| Hidden::of(&words))?;
        for (place, name) in [(std::env::home_dir(), "~"), (std::env::current_dir().ok(), ".")] {
            let place = place.map(|p| p.to_string_lossy().into_owned()).filter(|p| p.len() > 1);
            hidden.0.extend(place.map(|place| (place, name.to_string())));
        }
        Some(hidden)
    }

    fn of(words: &[String]) -> Self {
        let known = flags();
        let mut hidden: Vec<(String, String)> = Vec::new();
        for (number, word) in words.iter().enumerate().skip(1) {
            let place = format!("argument {}", number + 1);
            let (flag, value) = match word.strip_prefix('-') {
                None => (None, Some(word.as_str())),
                Some(_) => match word.split_once('=') {
                    Some((flag, value)) => (Some(flag), Some(value)),
                    None => (Some(word.as_str()), None),
                },
            };
            let mut hide = |text: &str| {
                // Shorter ones, and numbers, name nobody, and their places would make messages unreadable.
                if text.chars().count() > 2 && text.parse::<f64>().is_err() && !MODES.contains(&text) {
                    hidden.push((text.to_string(), place.clone()));
                }
            };
            if let Some(flag) = flag.filter(|flag| !known.contains(*flag)) {
                hide(flag);
                hide(flag.trim_start_matches('-'));
            }
            if let Some(value) = value {
                hide(value);
                let path = Path::new(value);
                for part in [path.file_name(), path.file_stem()].into_iter().flatten() {
                    hide(&part.to_string_lossy());
                }
            }
        }
        // The longest first: a path goes before the name at its end.
        hidden.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Hidden(hidden)
    }

    /// The message without those words.
    #[must_use]
    pub fn clean(&self, message: &str) -> String {
        self.0.iter().fold(message.to_string(), |text, (word, place)| replace_word(&text, word, place))
    }
}

const MODES: [&str; 2] = ["random", "hmac"];

fn asks_to_hide(words: &[String]) -> bool {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = match word.as_str() {
            "--ids" => words.next().map(String::as_str),
            other => other.strip_prefix("--ids="),
        };
        if value.is_some_and(|value| MODES.contains(&value)) {
            return true;
        }
    }
    false
}

/// All flags that there are.
fn flags() -> BTreeSet<String> {
    let command = Cli::command();
    let all = std::iter::once(&command).chain(command.get_subcommands());
    let arguments = all.flat_map(|command| command.get_arguments());
    let mut flags: BTreeSet<String> = ["--help", "-h", "--"].map(String::from).into();
    for argument in arguments {
        let long = argument.get_long_and_visible_aliases().unwrap_or_default();
        flags.extend(long.iter().map(|name| format!("--{name}")));
        flags.extend(argument.get_short().map(|name| format!("-{name}")));
    }
    flags
}

/// Replaces `word` where it is not part of a longer word, nor the name of a flag, as `--out` of a folder called out.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let edge = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (starts, ends) = (edge(word.chars().next()), edge(word.chars().next_back()));
    let mut result = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(word) {
        let end = at + word.len();
        let within = text[..at].ends_with("--")
            || (starts && joins(text[..at].chars().next_back()))
            || (ends && joins(text[end..].chars().next()));
        if at >= done && !within {
            result.push_str(&text[done..at]);
            result.push_str(by);
            done = end;
        }
    }
    result + &text[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_words_are_told_by_their_place() {
        let line = "embed --ids random /data/Doe/John.svs --mpp 0.5 --encoder=doe.onnx --jane-doe -o /home/doe/out";
        let words: Vec<String> = line.split(' ').map(String::from).collect();
        assert!(asks_to_hide(&words));
        let hidden = Hidden::of(&words);
        for (message, clean) in [
            ("cannot read /data/Doe/John.svs", "cannot read argument 4"),
            ("unexpected argument '--jane-doe' found", "unexpected argument 'argument 8' found"),
            ("no encoder doe.onnx here (doe)", "no encoder argument 7 here (argument 7)"),
            ("--mpp 0.5 is odd for '--ids random'", "--mpp 0.5 is odd for '--ids random'"),
            ("\"/home/doe/out/20x\"", "\"argument 10/20x\""),
            ("Johnson", "Johnson"),
        ] {
            assert_eq!(hidden.clean(message), clean);
        }
        let keep: Vec<String> = "embed --ids keep x -o random".split(' ').map(String::from).collect();
        assert!(!asks_to_hide(&keep));
        assert!(asks_to_hide(&["tiles".into(), "--ids=hmac".into()]));
    }
}
