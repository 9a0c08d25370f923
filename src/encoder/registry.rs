//! Which encoders there are and where their models lie.

use std::path::{Path, PathBuf};

use super::card::Card;
use crate::digest::{file_sha256, sha256};
use crate::error::{Error, Result};

/// The model's bytes.
#[derive(Clone, Debug)]
pub enum Model {
    /// Compiled into the program.
    Embedded(&'static [u8]),
    /// A file, possibly with external data beside it.
    File(PathBuf),
}

/// An encoder that can be run.
#[derive(Clone, Debug)]
pub struct Available {
    /// Its card.
    pub card: Card,
    /// Its model.
    pub model: Model,
    /// Identity of the weights: sha256 of the ONNX file, or, with external data, of the list of all files' sha256.
    pub sha256: String,
    /// Size of all its files.
    pub bytes: u64,
}

/// The encoder that runs when none is named.
pub const DEFAULT_ID: &str = "efficientnet-lite0";

const DEFAULT_CARD: &str = include_str!("../../models/efficientnet-lite0.toml");
static DEFAULT_MODEL: &[u8] = include_bytes!("../../models/efficientnet-lite0.onnx");

/// Cards of all encoders that are compiled in.
///
/// # Errors
/// A broken card, which is a fault of the build.
pub fn cards() -> Result<Vec<Card>> {
    Ok(vec![Card::parse(DEFAULT_CARD)?])
}

/// Finds an encoder by id, or by the path of an ONNX file, whose card is `card` or the `.toml` file beside it.
///
/// A file without a card gets one from its graph when it is opened (see [`super::onnx::describe`]).
///
/// # Errors
/// [`Error::Encoder`] where it does not exist, its card is broken, or its sha256 is not the card's.
pub fn find(name: &str, card: Option<&Path>) -> Result<Available> {
    if name == DEFAULT_ID {
        if card.is_some() {
            return Err(Error::Usage("--card belongs to --encoder FILE.onnx".into()));
        }
        let card = Card::parse(DEFAULT_CARD)?;
        let (sha256, bytes) = (card.sha256.clone(), DEFAULT_MODEL.len() as u64);
        return Ok(Available { card, model: Model::Embedded(DEFAULT_MODEL), sha256, bytes });
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|e| e != "onnx") {
        return Err(Error::Encoder(format!(
            "'{name}' is not known here; 'paraffin encoders list' shows what is, and --encoder FILE.onnx runs any other"
        )));
    }
    if !path.is_file() {
        return Err(Error::Encoder(format!("no such file: {name}")));
    }
    let (sha256, bytes) = file_identity(path)?;
    let beside = path.with_extension("toml");
    let card_path = card.map(Path::to_path_buf).or_else(|| beside.is_file().then_some(beside));
    let card = match card_path {
        Some(card_path) => {
            let text = std::fs::read_to_string(&card_path)
                .map_err(|e| Error::Encoder(format!("cannot read the card {}: {e}", card_path.display())))?;
            Card::parse(&text)?
        }
        None => super::onnx::describe(path)?,
    };
    if !card.sha256.is_empty() && card.sha256 != sha256 {
        return Err(Error::Encoder(format!(
            "the model's sha256 is {sha256}, its card says {}: another file, or a damaged one",
            card.sha256
        )));
    }
    Ok(Available { card, model: Model::File(path.to_path_buf()), sha256, bytes })
}

/// The sha256 of an ONNX file; where files beside it hold its weights (external data: their names stand in the graph),
/// the sha256 of the lines `<sha256> <name>` of all of them, the graph first, then by name. Also the size of all of them.
pub(super) fn file_identity(path: &Path) -> Result<(String, u64)> {
    let failed = |e: std::io::Error| Error::Encoder(format!("cannot read {}: {e}", path.display()));
    let graph = std::fs::read(path).map_err(failed)?;
    let own = sha256(&graph);
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut external = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let other = entry.path() != path && entry.file_type().is_ok_and(|t| !t.is_dir());
        if other && name.len() > 3 && holds(&graph, name.as_bytes()) {
            external.push(name);
        }
    }
    if external.is_empty() {
        return Ok((own, graph.len() as u64));
    }
    external.sort();
    let mut lines = format!("{own} graph\n");
    let mut bytes = graph.len() as u64;
    for name in external {
        bytes += std::fs::metadata(directory.join(&name)).map_err(failed)?.len();
        let hash = file_sha256(&directory.join(&name)).map_err(failed)?;
        lines.push_str(&format!("{hash} {name}\n"));
    }
    Ok((sha256(lines.as_bytes()), bytes))
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut at = 0;
    while let Some(found) = haystack[at..].iter().position(|b| b == first) {
        at += found + 1;
        if haystack[at..].starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_its_card_says() {
        let default = find(DEFAULT_ID, None).expect("compiled in");
        let Model::Embedded(bytes) = default.model else { panic!("compiled in") };
        assert_eq!(sha256(bytes), default.card.sha256);
        assert!(!default.card.pathology && default.card.note.contains("not a pathology model"));
    }

    #[test]
    fn unknown_names_and_broken_cards_are_told() {
        assert!(find("uni9", None).expect_err("unknown").to_string().contains("encoders list"));
        assert!(find("nowhere.onnx", None).expect_err("missing").to_string().contains("no such file"));
        let broken = DEFAULT_CARD.replace("px = 224", "px = 2");
        assert!(Card::parse(&broken).expect_err("refused").to_string().contains("2 px"));
        let broken = DEFAULT_CARD.replace("pathology", "patology");
        assert!(Card::parse(&broken).expect_err("refused").to_string().contains("patology"));
    }

    #[test]
    fn external_data_counts() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let model = directory.path().join("m.onnx");
        std::fs::write(&model, b"..location..m.onnx.data..").expect("writes");
        let alone = file_identity(&model).expect("reads");
        std::fs::write(directory.path().join("m.onnx.data"), b"1").expect("writes");
        let first = file_identity(&model).expect("reads");
        std::fs::write(directory.path().join("m.onnx.data"), b"2").expect("writes");
        let second = file_identity(&model).expect("reads");
        assert!(alone.0 != first.0 && first.0 != second.0);
        assert_eq!(first.1, alone.1 + 1);
    }
}
