//! XML as it stands in slides' metadata: bounded in size and nodes, without document types and so without entities of its
//! own or of other files.

use roxmltree::{Document, Node, ParsingOptions};

/// Longest text that is parsed, in bytes. Philips puts pictures in Base64 there, OME the scanner's own metadata.
const MAX_TEXT: usize = 16 << 20;
/// Most elements, texts and comments.
const MAX_NODES: u32 = 500_000;

/// Parses a text.
///
/// # Errors
/// Says that the text is no sound XML; never quotes it.
pub fn parse(text: &str) -> Result<Document<'_>, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("{} bytes of XML", text.len()));
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    // The parser's own words may quote names out of the text.
    let text = text.trim_start_matches('\u{feff}').trim_start();
    Document::parse_with_options(text, options).map_err(|e| format!("the XML is not sound (line {})", e.pos().row))
}

/// The children of this name, whatever their namespace: formats change the version in it.
pub fn children<'a, 'i: 'a>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |n| n.is_element() && n.tag_name().name() == name)
}

/// The first child of this name.
#[must_use]
pub fn child<'a, 'i: 'a>(node: Node<'a, 'i>, name: &'static str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_xml_is_parsed_and_the_rest_refused_in_words_of_our_own() {
        let text = "\u{feff}<?xml version=\"1.0\"?><!-- a --><a xmlns='urn:v1'><b c='&#181;m'/><b/></a>";
        let document = parse(text).expect("parses");
        let root = document.root_element();
        assert_eq!(children(root, "b").count(), 2);
        assert_eq!(child(root, "b").and_then(|b| b.attribute("c")), Some("µm"));
        for bad in ["", "<a>", "<a></b>", "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>", "<a>&secret;</a>", "<secret"] {
            let why = parse(bad).expect_err("refused");
            assert!(!why.contains("secret"), "{why}");
        }
        // Deep nesting costs nodes, not stack.
        assert!(parse(&("<a>".repeat(100_000) + &"</a>".repeat(100_000))).is_ok());
        assert!(parse(&"<a>".repeat(600_000)).is_err());
    }
}
