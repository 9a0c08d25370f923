//! `paraffin embed`: the whole job.

use std::process::ExitCode;

use rayon::prelude::*;

use super::args::EmbedArgs;
use super::session::{Session, Start};
use crate::encoder::Encoder;
use crate::encoder::onnx::{self, Device, OnnxEncoder, SessionOptions};
use crate::encoder::registry::{self, Available};
use crate::error::Result;
use crate::job::{Job, JobOptions};
use crate::pipeline::{self, Hooks, Staffing};

/// A model up to this size has one single-threaded session per core, which is the fastest on a processor; a larger one has
/// one session with all cores, or its weights would lie in memory several times.
const SESSION_PER_CORE_BYTES: u64 = 512 << 20;

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
            overviews: !args.run.no_overviews,
            device: device.to_string(),
        },
    )?;
    let (session, mut job) = match Session::start(&args.slides, &args.run, job)? {
        Start::Go(session, job) => (session, job),
        Start::Done(code) => return Ok(code),
    };
    let card = &encoder.card;
    let threads = args.run.threads();
    let encoders = open_encoders(args, &encoder, device, threads)?;
    job.set_onnxruntime(onnx::version()?);
    let note = if card.pathology || card.note.is_empty() { String::new() } else { format!(" ({})", card.note) };
    session.say(&format!("encoder {}{note} on {device}, {} values a tile", card.id, card.output.dim));
    let staffing = Staffing { readers: threads, batch: batch_size(args, device) };
    session.run(&job, |specs, meter, stop, failed, finished| {
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
        pipeline::run(specs, job.options(), &card.input, encoders, staffing, &hooks, meter, stop)
    })
}

fn batch_size(args: &EmbedArgs, device: Device) -> usize {
    let default = match device {
        // Measured: the smallest batch stays in the cache of a single-threaded session (benches/RESULTS.md).
        Device::Cpu => 1,
        Device::Cuda(_) => 64,
    };
    args.batch_size.unwrap_or(default).clamp(1, 4096)
}

fn open_encoders(
    args: &EmbedArgs,
    encoder: &Available,
    device: Device,
    threads: usize,
) -> Result<Vec<Box<dyn Encoder>>> {
    let (sessions, session_threads) = match device {
        Device::Cpu if encoder.bytes <= SESSION_PER_CORE_BYTES => (threads, 1),
        Device::Cpu => (1, threads),
        Device::Cuda(_) => (1, 1),
    };
    let options = SessionOptions { device, threads: session_threads, batch: batch_size(args, device) };
    let open = |_| OnnxEncoder::open(encoder, options).map(|e| Box::new(e) as Box<dyn Encoder>);
    // Side by side: the graph is optimised anew for each.
    (0..sessions).into_par_iter().map(open).collect()
}
