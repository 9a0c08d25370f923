//! `paraffin doctor`: which runtime libraries and devices are there, and what to do about those that are not.

use std::process::ExitCode;

use crate::encoder::Encoder;
use crate::encoder::device::Device;
use crate::encoder::library;
use crate::encoder::onnx::{OnnxModel, SessionOptions};
use crate::encoder::registry::{self, DEFAULT_ID};
use crate::error::Error;
use crate::slide::openslide;

/// Runs the command: exit code 0 if the main job can run, 1 otherwise.
#[must_use]
pub fn run() -> ExitCode {
    out!("paraffin      {}", env!("CARGO_PKG_VERSION"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    out!("cores         {cores}");
    let mut works = true;
    match (library::version(), library::path()) {
        (Ok(version), Ok(path)) => {
            out!("ONNX Runtime  {version} (\"{}\")", path.display());
            works &= tell("cpu", try_device(Device::Cpu));
            if !tell("cuda", try_device(Device::Cuda(0))) {
                library::cuda_lacks().iter().for_each(|what| out!("              {what}"));
            }
        }
        (Err(e), _) | (_, Err(e)) => {
            out!("ONNX Runtime  missing: {e}");
            works = false;
        }
    }
    match openslide::version() {
        Ok(version) => out!("OpenSlide     {version}"),
        Err(e) => out!("OpenSlide     missing: {e}; SVS and tiled TIFF are read without it"),
    }
    if works { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(name: &str, result: Result<(), String>) -> bool {
    match &result {
        Ok(()) => out!("  {name:<11} works (default encoder, one tile)"),
        Err(why) => out!("  {name:<11} not usable: {why}"),
    }
    result.is_ok()
}

/// Embeds a white tile with the default encoder.
fn try_device(device: Device) -> Result<(), String> {
    let encoder = registry::find(DEFAULT_ID, None, None).map_err(|e| e.to_string())?;
    let options = SessionOptions { device, threads: 1, batch: 1 };
    // Not with the advice to call this command.
    let told = |e| match e {
        Error::Device { why, .. } => why,
        e => e.to_string(),
    };
    let mut session = OnnxModel::open(&encoder, options).map_err(told)?.encoder();
    let px = encoder.card.input.px as usize;
    let mut out = Vec::new();
    session.embed(&vec![255; px * px * 3], 1, &mut out).map_err(|e| e.to_string())?;
    if out.iter().all(|v| v.is_finite()) { Ok(()) } else { Err("the embedding is not finite".into()) }
}
