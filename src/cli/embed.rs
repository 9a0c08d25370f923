//! `paraffin embed`: the whole job.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::args::EmbedArgs;
use super::session::{Session, Start};
use crate::encoder::card::{Card, Compute};
use crate::encoder::crew;
use crate::encoder::device::Devices;
use crate::encoder::library;
use crate::encoder::registry::{self, Available};
use crate::error::{Error, Result};
use crate::job::stage::Stage;
use crate::job::summary::plural;
use crate::job::{Job, JobOptions, VectorsMade};
use crate::pipeline::canary::{self, Through};
use crate::pipeline::{self, Fetched, Hooks, Staffing};

/// Runs the command.
///
/// # Errors
/// What keeps the run from starting or ends all of it; a slide's own failure is in the table and the exit code.
pub fn run(args: &EmbedArgs) -> Result<ExitCode> {
    let encoder = registry::find(&args.encoder, args.card.as_deref(), args.precision_compute)?;
    let options = args.tiles.options(&encoder.card, args.run.allow_failed_tiles, args.run.threads())?;
    let devices = args.devices()?;
    let batch = batch_size(args, &devices, &encoder)?;
    let job = Job::new(
        options,
        JobOptions {
            out: args.run.out.clone(),
            encoder: Some(encoder.clone()),
            precision: args.precision,
            slide_level: args.slide_level()?,
            overviews: !args.run.no_overviews,
            contours: args.run.contours,
            device: devices.to_string(),
        },
    )?;
    let (session, job) = match Session::start(&args.slides, &args.share, &args.run, job)? {
        Start::Go(session, job) => (session, job),
        Start::Done(code) => return Ok(code),
    };
    let card = &encoder.card;
    let threads = args.run.threads();
    let note = if card.pathology || card.note.is_empty() { String::new() } else { format!(" ({})", card.note) };
    if session.has_tiles() {
        session.say(&format!("encoder {}{note} on {devices}, {} values a tile", card.id, card.output.dim));
        if let Some(compute) = card.compute.filter(|c| *c != Compute::Fp32) {
            session.say(&format!("computes in {compute}; {}", fidelity(card)));
        }
    }
    let staffing = Staffing {
        readers: threads,
        encoders: crew::most(&devices, threads),
        batch,
        checkpoint_every: (args.checkpoint_every > 0).then(|| Duration::from_secs(args.checkpoint_every)),
        // The rest of the grace is for writing.
        patience: Duration::from_secs(args.run.grace) / 2,
    };
    let tell = session.teller();
    let open_encoders = || {
        let halved = tell.clone();
        let halved = move |device, tiles| {
            halved
                .line(&format!("{device}: out of memory; {tiles} tiles at a time from now on (--batch-size {tiles})"));
        };
        let mut encoders =
            crew::open(&encoder, &devices, threads, batch, &|text| tell.line(text), &(Arc::new(halved) as _))?;
        job.begin(Some(library::version()?))?;
        let through = Through { options: job.options(), input: &encoder.card.input, batch, precision: args.precision };
        if let Some(first) = encoders.first_mut() {
            match pipeline::guarded(|| canary::observe(&canary::slide, &through, first.as_mut())) {
                Ok(observed) => job.keep_canary(observed)?,
                // A run is not to end for it; an encoder that fails will do so with the slides as well.
                Err(e) => tell.line(&format!("no canary, so 'compat' cannot compare this run by it: {e}")),
            }
        }
        Ok(encoders)
    };
    let slides = session.slides().to_vec();
    let mut vectors = Vec::new();
    let code = session.run(&job, |run| {
        let coming = run.queue.coming();
        let stage = match &args.stage_dir {
            Some(directory) if !coming.is_empty() => Some(Stage::open(directory, args.stage_bytes, &coming)?),
            _ => None,
        };
        let hooks = Hooks {
            next: &|| run.queue.next(),
            fetch: &|spec| match &stage {
                Some(stage) => stage.fetch(spec, run.stop),
                None => Fetched { path: spec.path.clone(), copy: None },
            },
            resume: &|slide| job.resume(slide, library::version().ok(), &|text| tell.line(text)),
            open_writer: &|slide, resume| job.open_writer(slide, resume),
            keep: &|slide, writer, begun| {
                run.leases.check(&slide.spec.id)?;
                let (id, next, all) = (&slide.spec.id, begun.next, slide.tiles.len());
                if let Err(e) = job.keep(slide, writer, begun) {
                    tell.line(&format!("{id}: the first {next} of {all} tiles are lost: {e}"));
                    return Err(e);
                }
                let log = args.run.log_format;
                if log.is_text() {
                    tell.line(&format!("{id}: kept {next} of {all} tiles"));
                }
                log.event("slide-kept", json!({ "id": id, "kept": next, "tiles": all }));
                Ok(())
            },
            publish: &|slide, writer, outcome| {
                run.leases.check(&slide.spec.id)?;
                job.publish_features(slide, writer, &outcome)?;
                run.finished(slide, &outcome);
                Ok(())
            },
            failed: &|spec, error| run.failed(spec, error),
        };
        std::thread::scope(|scope| {
            if let Some(stage) = &stage {
                scope.spawn(|| stage.copy_ahead(&coming, &|s| run.queue.is_free(s), run.stop, &|text| tell.line(text)));
            }
            let work = || {
                // Once, but for slides that other workers gave up.
                while run.queue.wait(run.stop)? {
                    pipeline::run(job.options(), &card.input, open_encoders, staffing, &hooks, run.meter, run.stop)?;
                }
                Ok(())
            };
            // Also after a panic: the copying would wait for ever.
            let result = pipeline::guarded(work);
            if let Some(stage) = &stage {
                stage.close();
            }
            result
        })?;
        if !job.has_begun() {
            // Only vectors are missing, of features that lie there; their mean needs no model.
            job.begin(library::version().ok())?;
        }
        vectors = job.make_vectors(&slides, run.leases, run.stop, &|spec, error| run.failed(spec, error))?;
        Ok(())
    })?;
    for made in &vectors {
        if args.run.tells() {
            tell_vectors(made);
        }
        args.run.log_format.event(
            "slide-vectors",
            json!({ "artefact": made.name, "made": made.made, "empty": made.empty, "warning": made.warning }),
        );
    }
    Ok(code)
}

fn tell_vectors(vectors: &VectorsMade) {
    let made = vectors.made - vectors.empty;
    let mut line = format!("{made} slide {} in {}", plural(made as usize, "vector"), vectors.name);
    if vectors.empty > 0 {
        line += &format!("; {} {} without tiles, left empty", vectors.empty, plural(vectors.empty as usize, "slide"));
    }
    if let Some(warning) = &vectors.warning {
        line += &format!("; {warning}");
    }
    eprintln!("{line}");
}

/// What is known of a model's distance from its source.
fn fidelity(card: &Card) -> &str {
    if card.verified.is_empty() { "how far that is from fp32 is not on record" } else { &card.verified }
}

fn batch_size(args: &EmbedArgs, devices: &Devices, encoder: &Available) -> Result<usize> {
    let int8 = encoder.card.compute == Some(Compute::Int8);
    if int8 && (!devices.is_cpu() || args.batch_size.is_some_and(|n| n > 1)) {
        return Err(Error::Usage(
            "int8 models take their scale from all tiles of a batch, so that an embedding would depend on its neighbours: \
             they run on cpu in batches of 1"
                .into(),
        ));
    }
    let default = devices.as_slice().iter().map(|d| d.default_batch()).max();
    Ok(args.batch_size.or(default).unwrap_or(1).clamp(1, 4096))
}
