//! A JSON file, value by value: every string with its escapes decoded, also where a name stands twice, and every field against
//! the list of those that may be there.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::allowed;

/// What is told of a file's values.
pub enum Seen<'a> {
    /// A field that the list does not know.
    Unknown,
    /// A text: a string, or the name of a field where the list allows any.
    Text(&'a str),
}

/// Reads `text` through; `tell` hears of each text and unknown field, with the names of the fields that lead there.
///
/// # Errors
/// Where it is no JSON: why, in words without any of its own.
pub fn walk(text: &[u8], list: &[&str], tell: &mut dyn FnMut(&[String], Seen)) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let mut path = Vec::new();
    Walk { list, path: &mut path, known: true, tell }
        .deserialize(&mut reader)
        .and_then(|()| reader.end())
        .map_err(|e| format!("no sound JSON at line {}, column {}", e.line(), e.column()))
}

struct Walk<'a> {
    list: &'a [&'a str],
    path: &'a mut Vec<String>,
    /// Whether the field that leads here is on the list: of what is below an unknown one only texts are told.
    known: bool,
    tell: &'a mut dyn FnMut(&[String], Seen),
}

impl Walk<'_> {
    fn below(&mut self) -> Walk<'_> {
        Walk { list: self.list, path: self.path, known: self.known, tell: self.tell }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        (self.tell)(self.path, Seen::Text(text));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.path.push("[]".into());
        while items.next_element_seed(self.below())?.is_some() {}
        self.path.pop();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        while let Some(name) = fields.next_key::<String>()? {
            // A known name may be one of any: it is searched as well.
            (self.tell)(self.path, Seen::Text(&name));
            let above = self.path.len();
            self.path.push(name);
            let known = self.known && allowed::json_allows(self.list, self.path);
            if self.known && !known {
                (self.tell)(&self.path[..above], Seen::Unknown);
            }
            let below = Walk { known, ..self.below() };
            fields.next_value_seed(below)?;
            self.path.pop();
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_seen_and_every_unknown_field() {
        let text = r#"{"id": "a\u0062c", "files": [{"path": "p", "path": "twice", "x": {"y": "deep"}}], "tissue": {"found": {"z": 1}}}"#;
        let list = ["id", "files[].path", "tissue.found.**"];
        let (mut texts, mut unknown) = (Vec::new(), Vec::new());
        let tell = &mut |path: &[String], seen: Seen| match seen {
            Seen::Text(text) => texts.push(text.to_string()),
            Seen::Unknown => unknown.push(path.join("/")),
        };
        walk(text.as_bytes(), &list, tell).expect("JSON");
        for seen in ["abc", "p", "twice", "deep", "z", "y"] {
            assert!(texts.iter().any(|t| t == seen), "{seen}: {texts:?}");
        }
        assert_eq!(unknown, ["files/[]"], "what is below it is not told again");
        let why = walk(b"{\"Doe\": nonsense}", &list, &mut |_, _| {}).expect_err("refused");
        assert!(why.starts_with("no sound JSON at line 1") && !why.contains("Doe"), "{why}");
        assert!(walk(b"{} Doe", &list, &mut |_, _| {}).is_err(), "something after the end");
    }
}
