//! `paraffin info`: what a slide is. Names of identifying fields, never their values; label and macro pictures are not read.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use image::imageops::{self, FilterType};
use serde_json::{Value, json};

use super::args::InfoArgs;
use crate::error::{Error, Result};
use crate::pipeline::tissue::describe;
use crate::report::overview;
use crate::slide::mpp::{Mpp, MppOverride, MppSource};
use crate::slide::{Slide, lowpower};
use crate::tissue::TissueOptions;

/// Runs the command.
///
/// # Errors
/// Those of opening the slide; the thumbnail's.
pub fn run(args: &InfoArgs) -> Result<()> {
    if let Some(path) = &args.thumbnail {
        check_thumbnail(path)?;
    }
    let slide = Slide::open(&args.slide)?;
    let given = args.mpp.map(|mpp| (mpp, MppSource::User));
    let mpp = slide.mpp(MppOverride { given, ..MppOverride::default() });
    let tissue = match (&mpp, args.tissue) {
        (Ok(mpp), true) => Some(describe(&slide, *mpp, &TissueOptions::default())?),
        (Err(e), true) => return Err(Error::Mpp(format!("tissue cannot be looked for: {e}"))),
        (_, false) => None,
    };
    if args.json {
        let mut facts = facts(&slide, &mpp);
        if let Some(tissue) = tissue {
            facts["tissue"] = tissue;
        }
        out!("{facts:#}");
    } else {
        out!("{}{}", words(&slide, &mpp), tissue.as_ref().map_or(String::new(), tissue_words));
    }
    match &args.thumbnail {
        Some(path) => write_thumbnail(&slide, args.thumbnail_px, path),
        None => Ok(()),
    }
}

/// A thumbnail is a JPEG by name, and takes no other file's place: some slides are made of JPEG files.
fn check_thumbnail(path: &Path) -> Result<()> {
    let is_jpeg = path.extension().is_some_and(|e| ["jpg", "jpeg"].iter().any(|jpeg| e.eq_ignore_ascii_case(jpeg)));
    if !is_jpeg {
        return Err(Error::Usage("--thumbnail writes a JPEG file: its name must end in .jpg or .jpeg".into()));
    }
    if path.symlink_metadata().is_ok() {
        return Err(Error::Usage(
            "--thumbnail overwrites no file: remove the one of this name, or give another".into(),
        ));
    }
    Ok(())
}

fn write_thumbnail(slide: &Slide, longest_px: u32, path: &Path) -> Result<()> {
    let level0 = slide.level0();
    let longest = f64::from(level0.width.max(level0.height));
    let mut picture = lowpower::read(slide, (longest / f64::from(longest_px)).max(1.0), 0)?.image;
    let (width, height) = picture.dimensions();
    if width.max(height) > longest_px {
        let side =
            |px: u32| (f64::from(px) * f64::from(longest_px) / f64::from(width.max(height))).round().max(1.0) as u32;
        picture = imageops::resize(&picture, side(width), side(height), FilterType::Triangle);
    }
    let jpeg = overview::encode_jpeg(&picture, 85).map_err(|e| Error::Internal(e.to_string()))?;
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut f| f.write_all(&jpeg)).map_err(|e| Error::write("the thumbnail", e))
}

fn tissue_words(tissue: &Value) -> String {
    let mut out = format!("\ntissue             {} mm²\n", tissue["area_mm2"]);
    out += &format!("tissue method      {}", tissue["why"].as_str().unwrap_or_default());
    let areas = tissue["artefacts_mm2"].as_object().into_iter().flatten();
    let areas = areas.filter(|(_, mm2)| mm2.as_f64().is_some_and(|mm2| mm2 > 0.0));
    let areas: Vec<String> = areas.map(|(name, mm2)| format!("{} {mm2} mm²", name.replace('_', " "))).collect();
    out += &format!("\nartefacts          {}", if areas.is_empty() { "none".into() } else { areas.join(", ") });
    for warning in tissue["warnings"].as_array().into_iter().flatten() {
        out += &format!("\nwarning            {}", warning.as_str().unwrap_or_default());
    }
    out
}

fn facts(slide: &Slide, mpp: &Result<Mpp>) -> Value {
    let info = slide.info();
    let mpp = match mpp {
        Ok(mpp) => json!({ "x": mpp.x, "y": mpp.y, "source": mpp.source }),
        Err(e) => json!({ "error": e.to_string() }),
    };
    let stated = info.stated_mpp.iter().map(|s| json!({ "x": s.x, "y": s.y, "source": s.source }));
    let levels = info.levels.iter().map(|l| {
        json!({
            "width": l.width, "height": l.height, "downsample": l.downsample,
            "block_width": l.block_width, "block_height": l.block_height, "coding": l.coding.name(),
        })
    });
    let bounds = slide.reader.bounds().map(|b| json!({ "x": b.x, "y": b.y, "width": b.width, "height": b.height }));
    json!({
        "format": info.format,
        "reader": info.reader,
        "levels": levels.collect::<Vec<_>>(),
        "mpp": mpp,
        "stated_mpp": stated.collect::<Vec<_>>(),
        "objective_power": info.objective_power,
        "bounds": bounds,
        "icc_profile": info.icc_profile,
        "associated_images": info.associated_images,
        "identifying_fields": info.identifying_fields,
        "notes": info.notes,
    })
}

fn words(slide: &Slide, mpp: &Result<Mpp>) -> String {
    let info = slide.info();
    let list = |items: &[String]| if items.is_empty() { "none".to_string() } else { items.join(", ") };
    let mpp = match mpp {
        Ok(mpp) if mpp.x == mpp.y => format!("{} µm per pixel (from {})", mpp.x, mpp.source),
        Ok(mpp) => format!("{} x {} µm per pixel (from {})", mpp.x, mpp.y, mpp.source),
        Err(e) => e.to_string(),
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
    let bounds = slide.reader.bounds();
    let bounds =
        bounds.map_or("not stated".to_string(), |b| format!("{} x {} px at x {}, y {}", b.width, b.height, b.x, b.y));
    out += &format!("scanned part       {bounds}\n");
    out += &format!("associated images  {} (never read)\n", list(&info.associated_images));
    out += &format!("identifying fields {} (values are never shown or copied)\n", list(&info.identifying_fields));
    out += &format!(
        "ICC profile        {}\n",
        if info.icc_profile { "present (applied with --icc srgb only)" } else { "none" }
    );
    for note in &info.notes {
        out += &format!("note               {note}\n");
    }
    out.truncate(out.trim_end().len());
    out
}
