//! `paraffin info`: what a slide is. Names of identifying fields, never their values; label and macro pictures are not read.

use serde_json::{Value, json};

use super::args::InfoArgs;
use crate::error::{Error, Result};
use crate::report::overview;
use crate::slide::mpp::MppOverride;
use crate::slide::{Slide, lowpower};

/// Longest side of `--thumbnail`.
const THUMBNAIL_PX: f64 = 1024.0;

/// Runs the command.
///
/// # Errors
/// Those of opening the slide; the thumbnail's.
pub fn run(args: &InfoArgs) -> Result<()> {
    let slide = Slide::open(&args.slide)?;
    let facts = facts(&slide);
    if args.json {
        println!("{facts:#}");
    } else {
        print!("{}", words(&slide, &facts));
    }
    if let Some(path) = &args.thumbnail {
        let longest = f64::from(slide.level0().width.max(slide.level0().height));
        let low = lowpower::read(&slide, (longest / THUMBNAIL_PX).max(1.0), 0)?;
        let jpeg = overview::encode_jpeg(&low.image, 85).map_err(|e| Error::Internal(e.to_string()))?;
        std::fs::write(path, jpeg).map_err(|e| Error::write(path.display().to_string(), e))?;
    }
    Ok(())
}

fn facts(slide: &Slide) -> Value {
    let info = slide.info();
    let mpp = match slide.mpp(MppOverride::default()) {
        Ok(mpp) => json!({ "x": mpp.x, "y": mpp.y, "source": mpp.source }),
        Err(e) => json!({ "error": e.to_string() }),
    };
    let levels: Vec<Value> = info
        .levels
        .iter()
        .map(|l| {
            json!({
                "width": l.width, "height": l.height, "downsample": l.downsample,
                "block_width": l.block_width, "block_height": l.block_height, "coding": l.coding.name(),
            })
        })
        .collect();
    json!({
        "format": info.format,
        "reader": info.reader,
        "levels": levels,
        "mpp": mpp,
        "objective_power": info.objective_power,
        "icc_profile": info.icc_profile,
        "associated_images": info.associated_images,
        "identifying_fields": info.identifying_fields,
        "notes": info.notes,
    })
}

fn words(slide: &Slide, facts: &Value) -> String {
    let info = slide.info();
    let list = |items: &[String]| if items.is_empty() { "none".to_string() } else { items.join(", ") };
    let mpp = match slide.mpp(MppOverride::default()) {
        Ok(mpp) if mpp.x == mpp.y => format!("{} µm per pixel (from {})", mpp.x, mpp.source),
        Ok(mpp) => format!("{} x {} µm per pixel (from {})", mpp.x, mpp.y, mpp.source),
        Err(_) => facts["mpp"]["error"].as_str().unwrap_or_default().to_string(),
    };
    let mut out = format!("format             {} (reader: {})\n", info.format, info.reader);
    out += &format!("resolution         {mpp}\n");
    let power = info.objective_power.map_or("not stated".to_string(), |p| format!("{p}x"));
    out += &format!("objective power    {power}\n");
    for (i, l) in info.levels.iter().enumerate() {
        let name = if i == 0 { "levels" } else { "" };
        out += &format!(
            "{name:<18} {i}: {} x {} px, downsample {}, blocks {} x {}, {}\n",
            l.width,
            l.height,
            l.downsample,
            l.block_width,
            l.block_height,
            l.coding.name()
        );
    }
    out += &format!("associated images  {} (never read)\n", list(&info.associated_images));
    out += &format!("identifying fields {} (values are never shown or copied)\n", list(&info.identifying_fields));
    out += &format!("ICC profile        {}\n", if info.icc_profile { "present, not applied" } else { "none" });
    for note in &info.notes {
        out += &format!("note               {note}\n");
    }
    out
}
