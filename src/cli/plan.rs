//! `paraffin plan`: what a run over these slides will take, and the plan that workers divide.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::threads;
use super::session;
use super::worker_args::PlanArgs;
use crate::encoder::crew;
use crate::encoder::registry;
use crate::error::{Error, Result};
use crate::features::Precision;
use crate::job::discover::discover;
use crate::job::plan::{self, Plan};
use crate::job::summary::plural;
use crate::job::{Job, JobOptions, ids};

/// How long the encoder is measured.
const PROBE: Duration = Duration::from_secs(3);
/// What a slide leaves beside its features: overview, patches, records (a mean of real slides).
const BESIDE_BYTES: u64 = 400_000;
/// Failing slides that are named.
const NAMED: usize = 20;

/// Runs the command.
///
/// # Errors
/// What keeps the plan from being made.
pub fn run(args: &PlanArgs) -> Result<ExitCode> {
    let naming = args.ids.naming()?;
    if naming.recipient.is_some() {
        return Err(Error::Usage(
            "a plan keeps paths in site-private for workers that have no identity: with --ids-recipient divide the slides by \
             --shard i/n without a plan"
                .into(),
        ));
    }
    naming.check(&args.out)?;
    let found = discover(&args.slides.slides, args.slides.slide_list.as_deref(), args.slides.mpp(), naming.mode)?;
    if found.slides.is_empty() {
        return Err(Error::Usage("no slides found".into()));
    }
    let card = match registry::known(&args.encoder)? {
        Some(card) => card,
        None => registry::find(&args.encoder, None, None)?.card,
    };
    let options = args.tiles.options(&card, 0, threads(None))?;
    let job = Job::new(
        options,
        JobOptions {
            out: args.out.clone(),
            encoder: None,
            precision: Precision::default(),
            slide_level: Vec::new(),
            overviews: false,
            contours: false,
            device: "cpu".into(),
        },
    )?;
    eprintln!("{}", session::found_line(&found, naming.mode));
    job.open_out()?;
    let ids = ids::assign(&args.out, &found.slides, &naming, &|id| job.invalidate(id))?;
    let share = plan::tissue_share(job.grid_dir(), job.options());
    let estimated = plan::estimate(&found.slides, &ids, job.options(), share);
    let failing: Vec<(&str, &str, String)> = estimated
        .iter()
        .zip(&found.slides)
        .filter_map(|(e, slide)| {
            let why = e.fails.as_ref()?;
            Some((e.line.id.as_str(), why.kind(), session::told(why, &slide.path, naming.mode)))
        })
        .collect();
    let plan = Plan::new(job.grid_name(), share, estimated.iter().map(|e| e.line.clone()).collect());
    let file = args.file.clone().unwrap_or_else(|| args.out.join("plan.jsonl"));
    let new = plan.write(&file, &args.out, &found.slides)?;

    let value_bytes = match args.precision {
        // Measured (benches/RESULTS.md, "Writing features").
        Precision::F32M10 => 1.85,
        Precision::F32 => 4.05,
        Precision::F16 => 2.02,
    };
    let head = &plan.head;
    let rows = head.tiles as f64 * card.output.dim as f64 * value_bytes;
    let bytes = rows as u64 + BESIDE_BYTES * (head.slides - head.failing);
    let free = free_bytes(&args.out);
    let rate = if args.no_probe { None } else { probe(args)? };
    let hours = rate.map(|rate| head.tiles as f64 / rate / 3600.0);
    let read: u64 = plan.slides.iter().map(|s| s.bytes).sum();
    if args.json {
        let mut kinds = BTreeMap::<&str, u64>::new();
        failing.iter().for_each(|(_, kind, _)| *kinds.entry(*kind).or_default() += 1);
        let facts = json!({
            "plan": head, "bytes_read": read, "bytes_written": bytes, "bytes_free": free,
            "tiles_per_second": rate, "hours": hours, "failing": kinds,
        });
        out!("{}", serde_json::to_string_pretty(&facts).map_err(|e| Error::Internal(e.to_string()))?);
        return Ok(ExitCode::SUCCESS);
    }
    let size = |bytes: u64| match bytes {
        ..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    };
    out!("{} {} of {}, about {} tiles", head.slides, plural(head.slides as usize, "slide"), size(read), head.tiles);
    out!("  {} of the grid taken for tissue{}", percent(share), if share < 1.0 { "" } else { " (--tissue none)" });
    match (rate, hours) {
        (Some(rate), Some(hours)) => out!("  {hours:.2} hours on this machine: {rate:.1} tiles/s of {} alone", card.id),
        _ => out!("  time not estimated: the encoder was not measured"),
    }
    let room = free.map_or("free space unknown".into(), |free| {
        format!("{} free{}", size(free), if free < bytes { ": NOT ENOUGH" } else { "" })
    });
    out!("  {} to be written, {room}", size(bytes));
    if !failing.is_empty() {
        out!("  {} will fail as {} now:", failing.len(), if failing.len() == 1 { "it is" } else { "they are" });
        for (id, kind, why) in failing.iter().take(NAMED) {
            out!("    {id}  {kind}  {why}");
        }
        if failing.len() > NAMED {
            out!("    ... and {} more, marked in the plan", failing.len() - NAMED);
        }
    }
    out!("{} \"{}\"", if new { "plan written:" } else { "the same plan is there already:" }, file.display());
    Ok(ExitCode::SUCCESS)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Tiles a second of the encoder with all threads; `None` where its model is not here.
fn probe(args: &PlanArgs) -> Result<Option<f64>> {
    let encoder = match registry::find(&args.encoder, None, None) {
        Ok(encoder) => encoder,
        Err(e) => {
            eprintln!("not measured: {e}");
            return Ok(None);
        }
    };
    let devices = args.device.clone().unwrap_or_default();
    let threads = threads(args.threads);
    let batch = if devices.is_cpu() { 1 } else { 64 };
    let mut encoders =
        crew::open(&encoder, &devices, threads, batch, &|text| eprintln!("{text}"), &(Arc::new(|_, _| {}) as _))?;
    let px = encoder.card.input.px as usize;
    let tiles: Vec<u8> = (0..batch * px * px * 3).map(|i| (i % 251) as u8).collect();
    crew::rate(&mut encoders, &tiles, batch)?;
    let (started, mut rates) = (Instant::now(), Vec::new());
    while rates.is_empty() || started.elapsed() < PROBE {
        rates.push(crew::rate(&mut encoders, &tiles, batch)?);
    }
    rates.sort_by(f64::total_cmp);
    Ok(Some(rates[rates.len() / 2]))
}

/// Bytes that this user may still write where `path` lies.
fn free_bytes(path: &std::path::Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut facts = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a zero byte, and the structure is written before it is read.
    #[allow(unsafe_code, reason = "the standard library does not tell free space")]
    let facts = unsafe {
        if libc::statvfs(path.as_ptr(), facts.as_mut_ptr()) != 0 {
            return None;
        }
        facts.assume_init()
    };
    Some(facts.f_bavail as u64 * facts.f_frsize as u64)
}
