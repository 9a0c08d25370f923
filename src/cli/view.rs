//! `paraffin view`: slides in the browser of this machine.

use std::process::ExitCode;
use std::sync::Arc;

use super::args::ViewArgs;
use crate::error::{Error, Result};
use crate::record::grid_dirs;
use crate::report::cohort::Cohort;
use crate::view::http::Server;
use crate::view::{Subject, Viewer};

/// Runs the command, until a signal ends it.
///
/// # Errors
/// Those of opening the slide or OUT; [`Error::Internal`] where the port cannot be listened on.
pub fn run(args: &ViewArgs) -> Result<ExitCode> {
    if !args.subject.exists() {
        return Err(Error::Usage(format!("no such slide or directory: \"{}\"", args.subject.display())));
    }
    // A directory may be a slide too (DICOM).
    let is_out = args.subject.is_dir() && !grid_dirs(&args.subject).map_err(Error::Read)?.is_empty();
    let subject = if is_out {
        Subject::Out(Box::new(Cohort::open(&args.subject, args.artefact.as_deref())?), args.slides.clone())
    } else {
        Subject::Slide(args.subject.clone())
    };
    let viewer = Arc::new(Viewer::new(subject)?);
    let server = Server::bind(args.port)
        .map_err(|e| Error::Internal(format!("cannot listen on 127.0.0.1, port {}: {e}", args.port)))?;
    out!("{}", server.address());
    eprintln!("open this address in a browser on this machine; it is secret, and ends with this program (Ctrl-C)");
    let indexer = viewer.clone();
    std::thread::spawn(move || indexer.fill_index());
    server
        .serve(move |request| viewer.answer(request))
        .map_err(|e| Error::Internal(format!("the viewer's server: {e}")))?;
    Ok(ExitCode::SUCCESS)
}
