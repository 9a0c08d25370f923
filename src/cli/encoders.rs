//! `paraffin encoders`: what encoders there are, and the local store of their models.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::args::EncodersCommand;
use super::check;
use crate::encoder::card::{Card, Known};
use crate::encoder::registry::{self, DEFAULT_ID};
use crate::encoder::store;
use crate::error::{Error, Result};

/// Runs the command.
///
/// # Errors
/// [`Error::Encoder`] for an unknown encoder or an unusable model, [`Error::Write`] where the store cannot be written.
pub fn run(command: &EncodersCommand) -> Result<ExitCode> {
    match command {
        EncodersCommand::List { commercial, here, json } => list(*commercial, *here, *json)?,
        EncodersCommand::Show { encoder, json } => show(encoder, *json)?,
        EncodersCommand::Add { encoder, weights, card, replace } => {
            add(encoder, weights.as_deref(), card.as_deref(), *replace)?;
        }
        EncodersCommand::Remove { id } => {
            out!("{} removed", store::remove(id)?.join(", "));
        }
        EncodersCommand::Check { encoder, card, precision_compute, device, batch_size, threads, json } => {
            let found = registry::find(encoder, card.as_deref(), *precision_compute)?;
            let options = check::Options { device: *device, batch: *batch_size, threads: *threads, json: *json };
            return check::run(&found, options);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_here(card: &Card) -> bool {
    card.id == DEFAULT_ID || store::folder(&card.id, None).is_some()
}

/// All cards: those the program knows, then those that only the store has.
fn all() -> Result<Vec<Card>> {
    let mut cards = registry::cards()?;
    for id in store::ids() {
        if cards.iter().all(|card| card.id != id) {
            cards.push(registry::find(&id, None, None)?.card);
        }
    }
    Ok(cards)
}

fn list(commercial: bool, here: bool, json: bool) -> Result<()> {
    let mut cards = all()?;
    cards.retain(|card| (!commercial || card.commercial_use == Known::Yes) && (!here || is_here(card)));
    // The default first: it is the one that always runs.
    cards.sort_by_key(|card| card.id != DEFAULT_ID);
    if json {
        let cards: Result<Vec<_>> = cards.iter().map(with_presence).collect();
        out!("{}", to_json(&cards?)?);
        return Ok(());
    }
    out!(
        "{:<22} {:>5} {:>5} {:>6}  {:<10} {:<5} {:<4}  licence",
        "id",
        "dim",
        "tile",
        "µm/px",
        "commercial",
        "gated",
        "here"
    );
    for card in cards {
        let here = match (&*card.id, is_here(&card)) {
            (DEFAULT_ID, _) => "in",
            (_, true) => "yes",
            _ => "",
        };
        out!(
            "{:<22} {:>5} {:>5} {:>6}  {:<10} {:<5} {here:<4}  {}{}",
            card.id,
            card.output.dim,
            card.tile.px,
            card.tile.mpp,
            word(card.commercial_use),
            word(card.gated),
            card.license,
            if card.pathology { "" } else { "; not a pathology model" },
        );
    }
    out!(
        "\nhere: in = part of the program and the default, yes = in the local store. 'paraffin encoders show ID' says how to get one."
    );
    out!("Any other: --encoder FILE.onnx, with a card of the same name (.toml) beside it.");
    Ok(())
}

fn word(known: Known) -> &'static str {
    match known {
        Known::Yes => "yes",
        Known::No => "no",
        Known::Unclear => "?",
    }
}

fn with_presence(card: &Card) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(card).map_err(|e| Error::Internal(e.to_string()))?;
    value["here"] = json!(is_here(card));
    Ok(value)
}

fn show(name: &str, json: bool) -> Result<()> {
    let card = match registry::known(name)? {
        Some(card) if store::folder(&card.id, None).is_none() => card,
        _ => registry::find(name, None, None)?.card,
    };
    if json {
        out!("{}", to_json(&with_presence(&card)?)?);
        return Ok(());
    }
    out!("{}", toml::to_string(&card).map_err(|e| Error::Internal(e.to_string()))?);
    let id = &card.id;
    match (is_here(&card), name == id || card.aliases.iter().any(|alias| alias == name)) {
        (true, _) => out!("# here: --encoder {id}"),
        (false, true) => out!("# not here. {}", registry::how_to_get(&card)),
        (false, false) => out!("# --encoder {name}, or 'paraffin encoders add {name}' and --encoder {id}"),
    }
    Ok(())
}

fn add(name: &str, weights: Option<&Path>, card: Option<&Path>, replace: bool) -> Result<()> {
    let encoder = match weights {
        None => {
            let path = Path::new(name);
            if !path.exists() {
                return Err(Error::Encoder(format!("no such file or folder: {name}; for an id: --weights DIR")));
            }
            registry::find(name, card, None)?
        }
        Some(folder) => {
            let known = registry::known(name)?;
            let found = registry::find(&folder.to_string_lossy(), None, None).map_err(|e| match &known {
                Some(card) if folder.join(&card.weights.file).is_file() && !card.weights.file.is_empty() => {
                    let (id, file) = (&card.id, folder.join(&card.weights.file));
                    Error::Encoder(format!(
                        "{} holds the weights, not a model: scripts/export_onnx.py {id} --weights {} -o {id}/",
                        folder.display(),
                        file.display()
                    ))
                }
                _ => e,
            })?;
            let wanted = known.map_or_else(|| name.to_string(), |card| card.id);
            if found.card.id != wanted {
                return Err(Error::Encoder(format!(
                    "the model in {} is '{}', not '{wanted}'",
                    folder.display(),
                    found.card.id
                )));
            }
            found
        }
    };
    let folder = store::add(&encoder, replace)?;
    out!("{} added: {:.1} MB in \"{}\"", encoder.card.id, encoder.bytes as f64 / 1e6, folder.display());
    out!("paraffin embed SLIDES -o OUT --encoder {}", encoder.card.id);
    Ok(())
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::Internal(e.to_string()))
}
