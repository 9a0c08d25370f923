//! XML as it stands in slides' metadata: bounded in size and nodes, without document types and so without entities of its
//! own or of other files.

use roxmltree::{Document, Node, ParsingOptions};

use super::mpp::parse_number;
use crate::error::{Error, Result};

/// Longest text that is parsed, in bytes. Philips puts pictures in Base64 there, OME the scanner's own metadata.
const MAX_TEXT: usize = 16 << 20;
/// Most elements, texts and comments; a BIF of 50,000 blocks has 200,000.
const MAX_NODES: u32 = 1 << 21;

/// Parses a text; `what` names it in errors, whose words never hold the document's.
///
/// # Errors
/// [`Error::Damaged`] where it is no sound XML.
pub fn parse<'a>(text: &'a str, what: &str) -> Result<Document<'a>> {
    if text.len() > MAX_TEXT {
        return Err(Error::Damaged(format!("{what} has {} bytes", text.len())));
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let text = text.trim_start_matches('\u{feff}').trim();
    Document::parse_with_options(text, options).map_err(|e| {
        let at = e.pos();
        Error::Damaged(format!("{what} is no sound XML (row {}, column {})", at.row, at.col))
    })
}

/// Child elements of that name, whatever their namespace.
pub fn children<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
    node.children().filter(move |n| n.is_element() && n.tag_name().name() == name)
}

/// The first child of this name.
#[must_use]
pub fn child<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

/// The text of the first element that `path` leads to.
pub fn text<'a>(node: Node<'a, '_>, path: &[&'static str]) -> Option<&'a str> {
    let end = path.iter().try_fold(node, |at, name| children(at, name).next())?;
    end.text().map(str::trim)
}

/// All that elements below a node say: the values of their attributes, and their texts.
pub fn values<'a>(node: Node<'a, 'a>) -> impl Iterator<Item = &'a str> {
    let texts = |n: Node<'a, 'a>| n.is_text().then(|| n.text().unwrap_or_default().trim());
    let all = node.descendants().flat_map(move |n| n.attributes().map(|a| a.value()).chain(texts(n)));
    all.filter(|value| !value.is_empty())
}

/// An attribute that must be a finite number.
///
/// # Errors
/// [`Error::Damaged`] where it is absent or no number.
pub fn number(node: Node, name: &str) -> Result<f64> {
    let value = node.attribute(name).and_then(parse_number).filter(|n| n.is_finite());
    value.ok_or_else(|| Error::Damaged(format!("{}: {name} is missing or no number", node.tag_name().name())))
}

/// An attribute that must be a whole number that fits 32 bits.
///
/// # Errors
/// [`Error::Damaged`] where it is absent or something else.
pub fn whole(node: Node, name: &str) -> Result<u32> {
    let value = node.attribute(name).and_then(|text| text.trim().parse().ok());
    value.ok_or_else(|| Error::Damaged(format!("{}: {name} is missing or no whole number", node.tag_name().name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_documents_are_refused() {
        let entities = "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c SYSTEM \"file:///etc/passwd\">]><a>&b;&c;</a>";
        for bad in [entities, "", "<a>", "<a></b>", "no xml", "<a b=\"1\" b=\"2\"/>"] {
            let why = parse(bad, "a tag").err().map(|e| e.to_string()).unwrap_or_default();
            assert!(why.starts_with("damaged slide: a tag is no sound XML"), "{bad}: {why}");
        }
        // Deep nesting costs nodes, not stack.
        let deep = "<a>".repeat(100_000) + &"</a>".repeat(100_000);
        assert_eq!(parse(&deep, "a tag").map(|document| document.root().descendants().count()).ok(), Some(100_001));
        assert!(parse("\u{feff}<?xml version=\"1.0\"?><!-- a --><a b='&#181;m'/>", "a tag").is_ok());
    }

    #[test]
    fn values_are_found_and_judged() {
        let document = parse("<a xmlns='x' n='7' f='2,5' bad='nan'><b> one </b><b>two</b></a>", "a tag").expect("XML");
        let root = document.root_element();
        assert_eq!(text(root, &["b"]), Some("one"));
        assert_eq!(text(root, &["b", "c"]), None);
        assert_eq!((whole(root, "n").ok(), number(root, "f").ok()), (Some(7), Some(2.5)));
        assert!(whole(root, "f").is_err() && number(root, "bad").is_err() && number(root, "none").is_err());
    }
}
