//! `paraffin embed`: the whole job.

use std::process::ExitCode;

use super::args::{EmbedArgs, ProgressKind};
use super::session::{Session, Start};
use crate::encoder::Encoder;
use crate::encoder::onnx::{self, Device, OnnxModel, SessionOptions};
use crate::encoder::registry;
use crate::error::Result;
use crate::job::summary::plural;
use crate::job::{Job, JobOptions, VectorsMade};
use crate::pipeline::{self, Hooks, Staffing};

/// Largest model of which several tiles are computed side by side.
const SIDE_BY_SIDE_BYTES: u64 = 512 << 20;

/// Runs the command.
///
/// # Errors
/// What keeps the run from starting or ends all of it; a slide's own failure is in the table and the exit code.
pub fn run(args: &EmbedArgs) -> Result<ExitCode> {
    let encoder = registry::find(&args.encoder, args.card.as_deref())?;
    let options = args.tiles.options(&encoder.card, args.run.allow_failed_tiles)?;
    let device = args.device();
    let job = Job::new(
        options,
        JobOptions {
            out: args.run.out.clone(),
            encoder: Some(encoder.clone()),
            precision: args.precision,
            slide_level: args.slide_level()?,
            overviews: !args.run.no_overviews,
            device: device.to_string(),
        },
    )?;
    let (session, job) = match Session::start(&args.slides, &args.run, job)? {
        Start::Go(session, job) => (session, job),
        Start::Done(code) => return Ok(code),
    };
    let card = &encoder.card;
    let threads = args.run.threads();
    let note = if card.pathology || card.note.is_empty() { String::new() } else { format!(" ({})", card.note) };
    if session.has_tiles() {
        session.say(&format!("encoder {}{note} on {device}, {} values a tile", card.id, card.output.dim));
    }
    // A model computes several tiles side by side, a thread each, which is the fastest on a processor; a large one one
    // batch after the other with all cores, or each thread's intermediate values would lie in memory.
    let (encoders, model_threads) = match device {
        Device::Cpu if encoder.bytes <= SIDE_BY_SIDE_BYTES => (threads, 1),
        Device::Cpu => (1, threads),
        Device::Cuda(_) => (1, 1),
    };
    let batch = batch_size(args, device);
    let staffing = Staffing { readers: threads, encoders, batch };
    let open_encoders = || {
        let model = OnnxModel::open(&encoder, SessionOptions { device, threads: model_threads, batch })?;
        job.begin(Some(onnx::version()?))?;
        Ok((0..encoders).map(|_| Box::new(model.encoder()) as Box<dyn Encoder>).collect())
    };
    let slides = session.slides().to_vec();
    let mut vectors = Vec::new();
    let code = session.run(&job, |specs, meter, stop, failed, finished| {
        let hooks = Hooks {
            wanted: &|spec| !job.status(&spec.id).is_done(),
            open_writer: &|slide| job.open_writer(slide),
            publish: &|slide, writer, outcome| {
                job.publish_features(slide, writer, &outcome)?;
                finished(slide, &outcome);
                Ok(())
            },
            failed,
        };
        if specs.is_empty() {
            // Only vectors are missing, of features that lie there; their mean needs no model.
            job.begin(onnx::version().ok())?;
        } else {
            pipeline::run(specs, job.options(), &card.input, open_encoders, staffing, &hooks, meter, stop)?;
        }
        vectors = job.make_vectors(&slides, stop, failed)?;
        Ok(())
    })?;
    if args.run.progress != ProgressKind::None {
        vectors.iter().for_each(tell_vectors);
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

fn batch_size(args: &EmbedArgs, device: Device) -> usize {
    let default = match device {
        // Measured: the smallest batch stays in the cache of a single-threaded session (benches/RESULTS.md).
        Device::Cpu => 1,
        Device::Cuda(_) => 64,
    };
    args.batch_size.unwrap_or(default).clamp(1, 4096)
}
