//! `paraffin encoders`: the cards of the encoders that can be used.

use super::args::EncodersCommand;
use crate::encoder::registry::{self, DEFAULT_ID};
use crate::error::{Error, Result};

/// Runs the command.
///
/// # Errors
/// [`Error::Encoder`] for an unknown id.
pub fn run(command: &EncodersCommand) -> Result<()> {
    match command {
        EncodersCommand::List { json } => {
            let cards = registry::cards()?;
            if *json {
                println!("{}", to_json(&cards)?);
                return Ok(());
            }
            println!("{:<20} {:>5} {:>6} {:>6}  {:<12} note", "id", "dim", "tile", "µm/px", "licence");
            for card in cards {
                let default = if card.id == DEFAULT_ID { "default; " } else { "" };
                println!(
                    "{:<20} {:>5} {:>6} {:>6}  {:<12} {default}{}",
                    card.id, card.output.dim, card.tile.px, card.tile.mpp, card.license, card.note
                );
            }
            println!("\nAny other: --encoder FILE.onnx, with a card of the same name (.toml) beside it.");
            Ok(())
        }
        EncodersCommand::Show { id, json } => {
            let encoder = registry::find(id, None)?;
            if *json {
                println!("{}", to_json(&encoder.card)?);
            } else {
                print!("{}", toml::to_string(&encoder.card).map_err(|e| Error::Internal(e.to_string()))?);
            }
            Ok(())
        }
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::Internal(e.to_string()))
}
