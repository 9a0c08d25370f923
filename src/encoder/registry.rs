//! Which encoders there are and where their models lie.

use std::path::{Path, PathBuf};

use super::card::{Card, Compute, Known, Route};
use super::{onnx_file, store};
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

static DEFAULT_MODEL: &[u8] = include_bytes!("../../models/efficientnet-lite0.onnx");

/// Ids and cards of `models/`, by id.
static CARDS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/cards.rs"));

/// The metadata entry in which an exported model carries its card.
const CARD_METADATA: &str = "paraffin.card";

/// The cards of all encoders that the program knows, by id. Most of their models are not here.
///
/// # Errors
/// A broken card, which is a fault of the build.
pub fn cards() -> Result<Vec<Card>> {
    CARDS.iter().map(|(_, text)| Card::parse(text)).collect()
}

/// The card of an id or an alias, if the program knows it.
///
/// # Errors
/// As [`cards`].
pub fn known(name: &str) -> Result<Option<Card>> {
    if let Some((_, text)) = CARDS.iter().find(|(id, _)| *id == name) {
        return Card::parse(text).map(Some);
    }
    Ok(cards()?.into_iter().find(|card| card.aliases.iter().any(|alias| alias == name)))
}

/// Finds an encoder that can be run: by id or alias, the built-in one or in the local store; by the path of an ONNX file; by
/// a folder with one, as `scripts/export_onnx.py` writes it. `compute` asks for the model that computes in that precision:
/// `<id>.fp16.onnx` beside `<id>.onnx`.
///
/// A file's card is `card`, else the `.toml` file beside it, else what it carries itself, else what its graph tells (see
/// `describe`).
///
/// # Errors
/// [`Error::Encoder`] where it does not exist, its card is broken, or its sha256 is not the card's; for a known encoder
/// whose model is not here it says how to get it.
pub fn find(name: &str, card: Option<&Path>, compute: Option<Compute>) -> Result<Available> {
    let found = find_plain(name, card, compute)?;
    match (compute, found.card.compute) {
        (Some(wanted), have) if have != Some(wanted) => Err(not_in(&found.card, wanted)),
        _ => Ok(found),
    }
}

fn find_plain(name: &str, card: Option<&Path>, compute: Option<Compute>) -> Result<Available> {
    let path = Path::new(name);
    if path.is_dir() {
        return open_file(&of_kind(model_in(path)?, compute), card);
    }
    if path.extension().is_some_and(|e| e == "onnx") {
        return if path.is_file() {
            open_file(&of_kind(path.to_path_buf(), compute), card)
        } else {
            Err(Error::Encoder(format!("no such file: {name}")))
        };
    }
    if name.contains('/') {
        return Err(Error::Encoder(format!("no such file or folder: {name}")));
    }
    if card.is_some() {
        return Err(Error::Usage("--card belongs to --encoder FILE.onnx".into()));
    }
    let known = known(name)?;
    let id = known.as_ref().map_or(name, |card| &card.id);
    if id == DEFAULT_ID {
        let card = known.ok_or_else(|| Error::Internal(format!("{DEFAULT_ID} has no card")))?;
        let (sha256, bytes) = (card.sha256.clone(), DEFAULT_MODEL.len() as u64);
        return Ok(Available { card, model: Model::Embedded(DEFAULT_MODEL), sha256, bytes });
    }
    let folder = store::folder(id, compute).or_else(|| store::folder(id, None));
    match (folder, &known) {
        (Some(folder), _) => open_file(&model_in(&folder)?, None),
        (None, Some(card)) => Err(Error::Encoder(format!("the model of '{id}' is not here. {}", how_to_get(card)))),
        (None, None) => Err(Error::Encoder(format!(
            "'{name}' is not known here; 'paraffin encoders list' shows what is, and --encoder FILE.onnx runs any other"
        ))),
    }
}

/// The file beside a model that computes so, `<name>.fp16.onnx`, or the model itself where there is none.
fn of_kind(model: PathBuf, compute: Option<Compute>) -> PathBuf {
    let kin = compute.map(|compute| model.with_extension(format!("{compute}.onnx")));
    kin.filter(|kin| kin.is_file()).unwrap_or(model)
}

fn not_in(card: &Card, wanted: Compute) -> Error {
    let id = &card.id;
    let have =
        card.compute.map_or("its card does not say in what it computes".into(), |c| format!("it computes in {c}"));
    let way = match (wanted, card.architecture.route) {
        (_, Route::None) => format!("give a file that does, whose card says compute = \"{wanted}\""),
        (Compute::Bf16, _) => {
            "no way to make one is known: ONNX Runtime has no bf16 products on processors, and fp16 with \
                               float32 between the products keeps more digits"
                .into()
        }
        _ => format!("scripts/export_onnx.py {id} --weights FILE --precision {wanted} -o {id}/ makes one"),
    };
    Error::Encoder(format!("no {wanted} model of '{id}' here ({have}); {way}"))
}

/// What a user does to get the model of a known encoder, in words.
#[must_use]
pub fn how_to_get(card: &Card) -> String {
    let weights = &card.weights;
    let file = if weights.file.is_empty() { "its weights" } else { &weights.file };
    let on_request = match card.gated {
        Known::Yes => ", handed out on request",
        Known::No => "",
        Known::Unclear => ", perhaps on request",
    };
    let first = format!("Get {file} from {} ({}{on_request}); then", weights.source, card.license);
    match card.architecture.route {
        Route::None => {
            format!("{first} export it by its authors' code and give the file: --encoder FILE.onnx --card CARD.toml")
        }
        Route::Direct | Route::Torch => {
            let id = &card.id;
            format!("{first} scripts/export_onnx.py {id} --weights {file} -o {id}/ and --encoder {id}/")
        }
    }
}

/// The one model of a folder; beside `<id>.onnx` there may be others of its kind, `<id>.fp16.onnx`.
fn model_in(folder: &Path) -> Result<PathBuf> {
    let failed = |e: std::io::Error| Error::Encoder(format!("cannot read {}: {e}", folder.display()));
    let entries: Vec<PathBuf> =
        folder.read_dir().map_err(failed)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(failed)?;
    let mut models: Vec<PathBuf> = entries.into_iter().filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
    models.sort_by_key(|p| (p.as_os_str().len(), p.clone()));
    let Some(first) = models.first() else {
        return Err(Error::Encoder(format!("no .onnx file in {}", folder.display())));
    };
    let stem = format!("{}.", first.with_extension("").file_name().unwrap_or_default().to_string_lossy());
    let kin = |p: &PathBuf| p.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&stem));
    if let Some(other) = models.iter().find(|p| !kin(p)) {
        return Err(Error::Encoder(format!(
            "several models in {}: name the file, {} or {}",
            folder.display(),
            first.display(),
            other.display()
        )));
    }
    Ok(first.clone())
}

fn open_file(path: &Path, card: Option<&Path>) -> Result<Available> {
    let failed = |e: std::io::Error| Error::Encoder(format!("cannot read {}: {e}", path.display()));
    let (sha256, bytes) = file_identity(path)?;
    let beside = path.with_extension("toml");
    let card_path = card.map(Path::to_path_buf).or_else(|| beside.is_file().then_some(beside));
    let card = match card_path {
        Some(card_path) => {
            let text = std::fs::read_to_string(&card_path)
                .map_err(|e| Error::Encoder(format!("cannot read the card {}: {e}", card_path.display())))?;
            Card::parse(&text)?
        }
        None => match onnx_file::facts(path).map_err(failed)?.get(CARD_METADATA) {
            Some(text) => Card::parse(text)?,
            None => super::describe::describe(path)?,
        },
    };
    check_sha256(&card.sha256, &sha256)?;
    Ok(Available { card, model: Model::File(path.to_path_buf()), sha256, bytes })
}

/// An ONNX file, or the only one in a folder, and the text of the card beside it (same name, `.toml`). `wrong` puts a reason in
/// the words of whoever asks.
pub(super) fn model_and_card(path: &Path, wrong: impl Fn(String) -> Error) -> Result<(PathBuf, String)> {
    let file = if path.is_dir() { model_in(path)? } else { path.to_path_buf() };
    if !file.is_file() {
        return Err(wrong("no such file".into()));
    }
    let card = file.with_extension("toml");
    let text = std::fs::read_to_string(&card)
        .map_err(|e| wrong(format!("its card {} cannot be read: {e}", card.display())))?;
    Ok((file, text))
}

/// That a model is the one that its card means; a card may leave it open.
pub(super) fn check_sha256(card: &str, sha256: &str) -> Result<()> {
    if card.is_empty() || card == sha256 {
        return Ok(());
    }
    Err(Error::Encoder(format!("the model's sha256 is {sha256}, its card says {card}: another file, or a damaged one")))
}

/// The sha256 of an ONNX file; where files beside it hold its weights (external data), the sha256 of the lines
/// `<sha256> <name>` of all of them, the graph first, then by name. Also the size of all of them. A model of the store that
/// nobody touched since it came is not read again.
pub(super) fn file_identity(path: &Path) -> Result<(String, u64)> {
    match store::identity(path) {
        Some(stored) => Ok(stored),
        None => hashed(path).map_err(|e| Error::Encoder(format!("cannot read {}: {e}", path.display()))),
    }
}

/// [`file_identity`], read anew.
pub(super) fn hashed(path: &Path) -> std::io::Result<(String, u64)> {
    let own = file_sha256(path)?;
    let mut bytes = path.metadata()?.len();
    let external = external_files(path)?;
    if external.is_empty() {
        return Ok((own, bytes));
    }
    let mut lines = format!("{own} graph\n");
    for file in external {
        bytes += file.metadata()?.len();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines.push_str(&format!("{} {name}\n", file_sha256(&file)?));
    }
    Ok((sha256(lines.as_bytes()), bytes))
}

/// The files beside an ONNX file that hold its weights, by name.
pub(super) fn external_files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let directory = path.parent().unwrap_or(Path::new(""));
    let beside = |name: String| {
        let plain = Path::new(&name).components().count() == 1 && Path::new(&name).file_name().is_some();
        let file = directory.join(&name);
        match file.is_file() {
            _ if !plain => {
                Err(std::io::Error::other(format!("its weights lie elsewhere ({name}): they must be beside it")))
            }
            false => Err(std::io::Error::other(format!("its weights are missing: {name} must be beside it"))),
            true => Ok(file),
        }
    };
    onnx_file::facts(path)?.external.into_iter().map(beside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::card::{Mlp, Vit};

    #[test]
    fn the_default_is_what_its_card_says() {
        let default = find(DEFAULT_ID, None, None).expect("compiled in");
        let Model::Embedded(bytes) = default.model else { panic!("compiled in") };
        assert_eq!(sha256(bytes), default.card.sha256);
        assert!(!default.card.pathology && default.card.note.contains("not a pathology model"));
    }

    /// Encoders of the registry that the cards were written from; variants add to them.
    const REGISTRY: &[&str] = &[
        "uni",
        "uni2-h",
        "virchow",
        "virchow2",
        "prov-gigapath",
        "gigapath-flash",
        "h-optimus-0",
        "h-optimus-1",
        "h0-mini",
        "mettle",
        "phikon",
        "phikon-v2",
        "hibou-b",
        "hibou-l",
        "kaiko-vits16",
        "kaiko-vits8",
        "kaiko-vitb16",
        "kaiko-vitb8",
        "kaiko-vitl14",
        "midnight-12k",
        "openmidnight",
        "openpath",
        "gpfm",
        "mstar",
        "keep",
        "lunit-vits8",
        "lunit-vits16",
        "ctranspath",
        "resnet50-clam",
        "conch",
        "conch-v1.5",
        "musk",
        "genbio-pathfm",
        "rudolfv-2-s",
        "rudolfv-2-b",
        "rudolfv-2",
        "phaet",
        "mascaret",
        "path-orchestra",
        "crown",
        "prost40m",
        "sp22m",
        "quiltnet-b32",
        "plip",
        "biomedclip",
        "dinov2-l14",
        "gemma4-e4b",
        "gemma4-26b",
    ];

    /// Those whose licence text allows commercial use.
    const COMMERCIAL: &[&str] = &[
        "biomedclip",
        "crown",
        "dinov2-l14",
        "efficientnet-lite0",
        "h-optimus-0",
        "hibou-b",
        "hibou-l",
        "keep",
        "midnight-12k",
        "midnight-12k-cls",
        "openmidnight",
        "openpath",
        "quiltnet-b32",
        "resnet50-clam",
        "virchow",
        "virchow-cls",
    ];

    /// Parameters of a vision transformer, in millions, from its numbers.
    fn parameters(vit: &Vit) -> f64 {
        let (width, hidden) = (vit.width, vit.hidden);
        let first = if vit.mlp == Mlp::Swiglu { 2 * hidden } else { hidden };
        let grid = (vit.positions_px / vit.patch).pow(2) as usize;
        let patch = 3 * (vit.patch * vit.patch) as usize * width + width;
        let tokens = (1 + vit.registers + vit.prefix_positions + grid) * width;
        let norms = 4 * width + if vit.layer_scale { 2 * width } else { 0 };
        let attention = 4 * width * width + 4 * width;
        let mlp = width * first + first + hidden * width + width;
        (patch + tokens + vit.depth * (norms + attention + mlp) + 2 * width) as f64 / 1e6
    }

    #[test]
    fn every_card_is_whole() {
        let cards = cards().expect("all of them parse");
        let ids: Vec<&str> = cards.iter().map(|card| card.id.as_str()).collect();
        for id in REGISTRY {
            assert!(ids.contains(id), "{id} has no card");
        }
        let mut names: Vec<&str> =
            cards.iter().flat_map(|c| c.aliases.iter().chain([&c.id])).map(String::as_str).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name stands twice: {names:?}");
        for ((file, _), card) in CARDS.iter().zip(&cards) {
            let id = &card.id;
            assert_eq!(file, id, "the file's name is the id");
            assert!(!card.name.is_empty() && !card.license.is_empty(), "{id}");
            assert!(card.weights.source.starts_with("https://"), "{id}: {}", card.weights.source);
            assert_eq!(card.commercial_use == Known::Yes, COMMERCIAL.contains(&&**id), "{id}: commercial use");
            assert!(card.pathology || card.note.contains("not a pathology model"), "{id}");
            assert!(card.tile.px >= card.input.px && card.input.resized_px() >= card.input.px, "{id}");
            let variant = REGISTRY.iter().any(|base| *base != id && id.starts_with(&format!("{base}-")));
            assert!(!variant || !card.note.is_empty(), "{id}: how does it differ?");
            if let Some(vit) = &card.architecture.vit {
                let (computed, stated) = (parameters(vit), card.architecture.params_m);
                assert!((computed / stated - 1.0).abs() < 0.03, "{id}: {computed:.1} million parameters, not {stated}");
            }
            assert!(card.architecture.route != Route::None || id == DEFAULT_ID || !card.note.is_empty(), "{id}");
        }
    }

    #[test]
    fn aliases_lead_to_their_card_and_absent_models_to_a_way() {
        assert_eq!(known("uni_v2").expect("parses").map(|card| card.id), Some("uni2-h".into()));
        assert_eq!(known("uni9").expect("parses"), None);
        let card = known("uni").expect("parses").expect("known");
        let way = how_to_get(&card);
        assert!(way.contains("scripts/export_onnx.py uni --weights pytorch_model.bin -o uni/"), "{way}");
        let way = how_to_get(&known("musk").expect("parses").expect("known"));
        assert!(way.contains("--card"), "{way}");
    }

    #[test]
    fn unknown_names_and_broken_cards_are_told() {
        assert!(find("uni9", None, None).expect_err("unknown").to_string().contains("encoders list"));
        for missing in ["nowhere.onnx", "nowhere/"] {
            assert!(find(missing, None, None).expect_err("missing").to_string().contains("no such file"));
        }
        let (_, card) = CARDS.iter().find(|(id, _)| *id == DEFAULT_ID).expect("compiled in");
        let broken = card.replace("px = 224", "px = 2");
        assert!(Card::parse(&broken).expect_err("refused").to_string().contains("2 px"));
        let broken = card.replace("pathology", "patology");
        assert!(Card::parse(&broken).expect_err("refused").to_string().contains("patology"));
    }
}
