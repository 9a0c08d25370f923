//! `paraffin tiles`: tissue and coordinates only.

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use super::args::TilesArgs;
use super::session::{Session, Start};
use crate::encoder::registry;
use crate::error::{Error, Result};
use crate::features::Precision;
use crate::job::{Job, JobOptions};
use crate::pipeline::prepare::prepare;
use crate::pipeline::{Outcome, guarded};

/// Runs the command.
///
/// # Errors
/// What keeps the run from starting or ends all of it.
pub fn run(args: &TilesArgs) -> Result<ExitCode> {
    // The card is enough: the model need not be here.
    let card = match registry::known(&args.encoder)? {
        Some(card) => card,
        None => registry::find(&args.encoder, None, None)?.card,
    };
    let options = args.tiles.options(&card, args.run.allow_failed_tiles, args.run.threads())?;
    let job = Job::new(
        options,
        JobOptions {
            out: args.run.out.clone(),
            encoder: None,
            precision: Precision::default(),
            slide_level: Vec::new(),
            overviews: !args.run.no_overviews,
            contours: args.run.contours,
            device: "cpu".into(),
        },
    )?;
    let (session, job) = match Session::start(&args.slides, &args.share, &args.run, job)? {
        Start::Go(session, job) => (session, job),
        Start::Done(code) => return Ok(code),
    };
    session.run(&job, |run| {
        job.begin(None)?;
        let meter = run.meter;
        while run.queue.wait(run.stop)? {
            let Some(spec) = run.queue.next() else { continue };
            if run.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            meter.set_current(&spec.id);
            let result = meter.preparing.time(|| {
                guarded(|| {
                    let slide = prepare(&spec, job.options())?;
                    run.leases.check(&spec.id)?;
                    job.draw_overview(&slide)?;
                    job.publish_patches(&slide, &[])?;
                    Ok(slide)
                })
            });
            match result {
                Ok(slide) => {
                    let n = slide.tiles.len() as u64;
                    meter.tiles_planned.add(n);
                    meter.tiles_done.add(n);
                    run.finished(&slide, &Outcome { written: n, unreadable: Vec::new() });
                    meter.slides_done.add(1);
                }
                Err(e) => {
                    run.failed(&spec, &e);
                    meter.slides_failed.add(1);
                }
            }
        }
        Ok(())
    })
}
