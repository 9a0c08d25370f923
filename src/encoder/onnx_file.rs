//! What an ONNX file says of itself, without loading it: its metadata, and the files beside it that hold weights. Messages are
//! walked through and weights stepped over, so that gigabytes take milliseconds.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Longest text that is read; a card has 2 to 4 KB.
const MAX_ENTRY_BYTES: u64 = 1 << 20;
/// Deepest message; graphs lie in attributes of nodes of graphs.
const MAX_DEPTH: usize = 64;

/// The messages of onnx.proto3 on the way to what is asked for.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    SparseTensor,
    Tensor,
    /// `StringStringEntryProto` of a model's metadata.
    Metadata,
    /// The same of a tensor's external data.
    External,
}

impl Message {
    /// The message in a field; `None` for what is stepped over.
    fn field(self, number: u64) -> Option<Message> {
        Some(match (self, number) {
            (Message::Model, 7) | (Message::Attribute, 6 | 11) => Message::Graph,
            (Message::Model, 14) => Message::Metadata,
            (Message::Model, 25) => Message::Function,
            (Message::Graph, 1) | (Message::Function, 7) => Message::Node,
            (Message::Graph, 5) | (Message::Attribute, 5 | 10) | (Message::SparseTensor, 1 | 2) => Message::Tensor,
            (Message::Graph, 15) | (Message::Attribute, 22 | 23) => Message::SparseTensor,
            (Message::Node, 5) => Message::Attribute,
            (Message::Tensor, 13) => Message::External,
            _ => return None,
        })
    }
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Metadata entries.
    pub metadata: Vec<(String, String)>,
    /// Names of the files with external data, as the graph has them: relative to its own directory.
    pub external: BTreeSet<String>,
    /// Whether any of its weights are float16.
    pub half: bool,
}

/// `TensorProto.DataType.FLOAT16`, in the field `data_type`.
const HALF: (u64, u64) = (2, 10);

impl Facts {
    /// The value of a metadata entry.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// Walks through an ONNX file. Of a file that is none, or damaged, comes what was found until then: whoever loads it will tell.
///
/// # Errors
/// The file cannot be read.
pub fn facts(path: &Path) -> io::Result<Facts> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut walk = Walk { file: BufReader::new(file), at: 0, facts: Facts::default() };
    walk.message(Message::Model, length, 0)?;
    Ok(walk.facts)
}

struct Walk {
    file: BufReader<File>,
    at: u64,
    facts: Facts,
}

impl Walk {
    /// Walks through a message that ends at `end`; `None` where it breaks the format.
    fn message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<Option<()>> {
        if depth > MAX_DEPTH {
            return Ok(None);
        }
        if matches!(message, Message::Metadata | Message::External) {
            return self.entry(message, end);
        }
        while self.at < end {
            let Some(tag) = self.varint()? else { return Ok(None) };
            let length = match tag & 7 {
                0 => {
                    let Some(value) = self.varint()? else { return Ok(None) };
                    self.facts.half |= matches!(message, Message::Tensor) && (tag >> 3, value) == HALF;
                    continue;
                }
                1 => 8,
                5 => 4,
                2 => match self.varint()? {
                    Some(length) => length,
                    None => return Ok(None),
                },
                _ => return Ok(None),
            };
            let Some(stop) = self.at.checked_add(length).filter(|stop| *stop <= end) else { return Ok(None) };
            match message.field(tag >> 3).filter(|_| tag & 7 == 2) {
                Some(inner) => {
                    if self.message(inner, stop, depth + 1)?.is_none() {
                        return Ok(None);
                    }
                }
                None => self.skip_to(stop)?,
            }
        }
        Ok(Some(()))
    }

    /// A key (field 1) and its value (field 2).
    fn entry(&mut self, message: Message, end: u64) -> io::Result<Option<()>> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.at < end {
            let (Some(tag), Some(length)) = (self.varint()?, self.varint()?) else { return Ok(None) };
            let Some(stop) = self.at.checked_add(length).filter(|stop| *stop <= end) else { return Ok(None) };
            if tag & 7 != 2 || length > MAX_ENTRY_BYTES {
                return Ok(None);
            }
            let mut text = vec![0; length as usize];
            self.file.read_exact(&mut text)?;
            self.at = stop;
            let text = String::from_utf8_lossy(&text).into_owned();
            match tag >> 3 {
                1 => key = text,
                2 => value = text,
                _ => {}
            }
        }
        match message {
            Message::Metadata => self.facts.metadata.push((key, value)),
            _ if key == "location" => {
                self.facts.external.insert(value);
            }
            _ => {}
        }
        Ok(Some(()))
    }

    fn skip_to(&mut self, stop: u64) -> io::Result<()> {
        let bytes = i64::try_from(stop - self.at).map_err(io::Error::other)?;
        self.file.seek_relative(bytes)?;
        self.at = stop;
        Ok(())
    }

    /// A variable-length number; `None` where the file ends or the number does not.
    fn varint(&mut self) -> io::Result<Option<u64>> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.file.fill_buf()?.first() else { return Ok(None) };
            self.file.consume(1);
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length > 127 {
            bytes.push(length as u8 & 127 | 128);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(content);
        bytes
    }

    fn entry(key: &str, value: &str) -> Vec<u8> {
        [field(1, key.as_bytes()), field(2, value.as_bytes())].concat()
    }

    fn of(bytes: &[u8]) -> Facts {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), bytes).expect("writes");
        facts(file.path()).expect("reads")
    }

    /// A graph with weights inside, weights in a file, and a graph in an attribute with weights in another.
    fn model() -> Vec<u8> {
        let tensor = |location: &str| {
            [field(8, b"w"), field(13, &entry("location", location)), field(13, &entry("offset", "0"))]
        };
        let inner = field(5, &tensor("inner.data").concat());
        let node = field(5, &field(6, &inner));
        let graph = [field(5, &field(9, &[7; 300])), field(5, &tensor("m.data").concat()), field(1, &node)].concat();
        [vec![8, 10], field(7, &graph), field(14, &entry("other", "x")), field(14, &entry("card", "id = 1"))].concat()
    }

    #[test]
    fn metadata_and_external_data_are_found() {
        let found = of(&model());
        assert_eq!(found.get("card"), Some("id = 1"));
        assert_eq!(found.get("none"), None);
        assert_eq!(found.external.into_iter().collect::<Vec<_>>(), ["inner.data", "m.data"]);
    }

    #[test]
    fn cut_and_damaged_files_give_what_was_found() {
        let (bytes, whole) = (model(), of(&model()));
        for cut in 0..bytes.len() {
            let found = of(&bytes[..cut]);
            assert!(found.external.is_subset(&whole.external) && found.metadata.len() <= 2, "{cut}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] = 0xff;
            of(&bytes);
        }
        for bytes in [&b""[..], b"garbage, and more of it", &[0xff; 64]] {
            assert_eq!(of(bytes), Facts::default());
        }
        // Messages in messages without end.
        let mut deep = vec![];
        for _ in 0..200 {
            deep = field(1, &field(5, &field(6, &deep)));
        }
        of(&field(7, &deep));
        assert!(facts(Path::new("nowhere.onnx")).is_err());
    }

    #[test]
    fn the_default_encoder_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/efficientnet-lite0.onnx");
        let found = facts(&path).expect("reads");
        assert_eq!(found.get("paraffin.id"), Some("efficientnet-lite0"));
        assert!(found.external.is_empty());
    }
}
