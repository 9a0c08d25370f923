//! RO-Crate 1.2: the site manifest in the research world's wrapping, with its sha256 and the software that made what it counts.
//!
//! It holds what the manifest holds and nothing of a slide: `site-manifest.json` and `ro-crate-metadata.json`. Actions have no dates and
//! no agents. The one date is `datePublished`, which the specification demands of every crate and the user gives; a year is enough.
//!
//! Reference: <https://w3id.org/ro/crate/1.2>, "Root Data Entity", "Provenance of entities".

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::unwritable;
use crate::digest;
use crate::error::{Error, Result};
use crate::features::refuse_inside;
use crate::record::manifest::{MANIFEST_NAME, SiteManifest};
use crate::record::{Runtime, publish};

/// Its name in the crate.
const METADATA_NAME: &str = "ro-crate-metadata.json";
const TERMS: &str = "No licence is given with this file: what may be done with it is what the sites have agreed upon.";

/// Whether a date is one of ISO 8601: a year, a month or a day.
#[must_use]
pub fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_digit());
    let within = |part: &str, most: u32| digits(part, 2) && (1..=most).contains(&part.parse().unwrap_or(0));
    match parts[..] {
        [year] => digits(year, 4),
        [year, month] => digits(year, 4) && within(month, 12),
        [year, month, day] => digits(year, 4) && within(month, 12) && within(day, 31),
        _ => false,
    }
}

/// Writes the crate of OUT's site manifest to `dir`, which is made; returns the number of artefacts that it tells of.
///
/// # Errors
/// [`Error::Usage`] for a directory in `out` or a `date` that is none, [`Error::Output`] where OUT has no manifest or a damaged one,
/// [`Error::Write`].
pub fn write(out: &Path, dir: &Path, date: &str) -> Result<usize> {
    refuse_inside(out, dir)?;
    if !is_date(date) {
        return Err(Error::Usage(format!("'{date}' is no date: give a year, as 2026, a month, as 2026-11, or a day")));
    }
    let source = out.join(MANIFEST_NAME);
    if !source.is_file() {
        return Err(Error::Output(format!("OUT has no {MANIFEST_NAME}: every run of paraffin embed writes it")));
    }
    let manifest = SiteManifest::read(&source)?;
    let bytes = std::fs::read(&source).map_err(|e| Error::Output(format!("{MANIFEST_NAME} cannot be read: {e}")))?;
    let crate_json = describe(&manifest, &bytes, date);
    let mut text = serde_json::to_vec_pretty(&crate_json).map_err(|e| Error::Internal(format!("a crate: {e}")))?;
    text.push(b'\n');
    publish::create_dir_all(dir).map_err(unwritable)?;
    publish::write_atomic(&dir.join(MANIFEST_NAME), &bytes).map_err(|e| Error::write(MANIFEST_NAME, e))?;
    publish::write_atomic(&dir.join(METADATA_NAME), &text).map_err(|e| Error::write(METADATA_NAME, e))?;
    Ok(manifest.artefacts.len())
}

fn describe(manifest: &SiteManifest, bytes: &[u8], date: &str) -> Value {
    let refer = |id: &str| json!({"@id": id});
    let mut software: BTreeMap<String, Value> = BTreeMap::new();
    let mut actions = Vec::new();
    for artefact in &manifest.artefacts {
        let name = format!("{}/{}", artefact.grid, artefact.artefact);
        let mut instruments: Vec<String> =
            artefact.runtimes.iter().flat_map(|r| add_software(r, &mut software)).collect();
        instruments.sort();
        instruments.dedup();
        let instruments: Vec<Value> = instruments.iter().map(|id| refer(id)).collect();
        let mut devices: Vec<&str> = artefact.runtimes.iter().map(|r| r.device.as_str()).collect();
        devices.sort_unstable();
        devices.dedup();
        actions.push(json!({
            "@id": format!("#{name}"),
            "@type": "CreateAction",
            "name": name,
            "description": format!(
                "{} slides, {} tiles under the contract of sha256 {}, on {}",
                artefact.slides,
                artefact.tiles,
                artefact.contract_sha256,
                devices.join(", ")
            ),
            "instrument": single(instruments),
            "result": refer(MANIFEST_NAME),
        }));
    }
    let mentions: Vec<Value> = actions.iter().map(|a| json!({"@id": a["@id"]})).collect();
    let mut graph = vec![
        json!({
            "@id": METADATA_NAME,
            "@type": "CreativeWork",
            "name": "RO-Crate metadata",
            "conformsTo": refer("https://w3id.org/ro/crate/1.2"),
            "about": refer("./"),
        }),
        json!({
            "@id": "./",
            "@type": "Dataset",
            "name": "Site manifest of whole-slide image features",
            "description": "Contracts, counts and software of the features that a site holds. No slide, patient or person is named.",
            "datePublished": date,
            "license": refer("#terms"),
            "hasPart": refer(MANIFEST_NAME),
            "mentions": single(mentions),
        }),
        json!({
            "@id": MANIFEST_NAME,
            "@type": "File",
            "name": "Site manifest",
            "description": "What the site tells others of its features",
            "encodingFormat": "application/json",
            "contentSize": bytes.len().to_string(),
            "sha256": digest::sha256(bytes),
        }),
        json!({"@id": "#terms", "@type": "CreativeWork", "name": "Terms of use", "description": TERMS}),
    ];
    graph.extend(software.into_values());
    graph.extend(actions);
    let context = json!(["https://w3id.org/ro/crate/1.2/context", {"sha256": "http://schema.org/sha256"}]);
    json!({"@context": context, "@graph": graph})
}

/// A list as RO-Crate wants it: one value stands alone.
fn single(mut values: Vec<Value>) -> Value {
    if values.len() == 1 { values.remove(0) } else { Value::Array(values) }
}

/// Takes note of the software behind a result; returns its entities' ids.
fn add_software(runtime: &Runtime, all: &mut BTreeMap<String, Value>) -> Vec<String> {
    // A SoftwareApplication must have a URL, and paraffin has none that will stay.
    let mut add = |name: &str, version: &str, entity: Value| {
        let id = format!("#{name}-{version}");
        let Value::Object(mut fields) = entity else { return id };
        fields.extend([("@id".to_owned(), json!(id)), ("version".to_owned(), json!(version))]);
        all.insert(id.clone(), Value::Object(fields));
        id
    };
    let paraffin = json!({
        "@type": "CreativeWork",
        "name": "paraffin",
        "description": env!("CARGO_PKG_DESCRIPTION"),
    });
    let mut ids = vec![add("paraffin", &runtime.paraffin, paraffin)];
    if let Some(version) = &runtime.onnxruntime {
        let url = "https://onnxruntime.ai";
        let entity = json!({"@type": "SoftwareApplication", "name": "ONNX Runtime", "url": url});
        ids.push(add("onnxruntime", version, entity));
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_iso_8601() {
        for good in ["2026", "2026-11", "2026-11-30"] {
            assert!(is_date(good), "{good}");
        }
        for bad in ["", "26", "2026-13", "2026-1", "2026-11-00", "2026-11-30T10", "11/2026", "2026-11-"] {
            assert!(!is_date(bad), "{bad}");
        }
    }
}
