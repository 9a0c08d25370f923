//! `paraffin encoders check`: loads a model and runs known tiles through it.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use super::encoders::to_json;
use crate::encoder::Encoder;
use crate::encoder::device::Device;
use crate::encoder::library;
use crate::encoder::onnx::{OnnxModel, SessionOptions};
use crate::encoder::registry::Available;
use crate::error::{Error, Result};
use crate::runtime;

/// How to check.
pub struct Options {
    pub device: Device,
    pub batch: Option<NonZeroUsize>,
    pub threads: Option<NonZeroUsize>,
    pub json: bool,
}

/// How long speed is measured.
const MEASURED: Duration = Duration::from_secs(3);
/// Below this cosine a tile's embedding depends on its place in the batch.
const LEAST_COSINE: f64 = 0.9999;

/// Runs the command: exit code 0 if the model is usable, 1 if its values are not.
///
/// # Errors
/// [`Error::Encoder`] and [`Error::Library`] where it cannot be loaded or run.
pub fn run(encoder: &Available, options: Options) -> Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.map_or(cores, NonZeroUsize::get);
    let batch = options.batch.map_or(options.device.default_batch(), NonZeroUsize::get);
    let start = Instant::now();
    let model = OnnxModel::open(encoder, SessionOptions { device: options.device, threads, batch })?;
    let load_seconds = start.elapsed().as_secs_f64();
    let mut session = model.encoder();
    let px = encoder.card.input.px as usize;
    let tiles = canaries(px);
    let embeddings = embed(&mut session, &tiles, batch, 0)?;
    let moved = embed(&mut session, &tiles, batch, batch - 1)?;
    let finite = embeddings.iter().flatten().all(|v| v.is_finite());
    let distinct = (1..tiles.len()).all(|i| embeddings[i] != embeddings[0]);
    let least = embeddings.iter().zip(&moved).map(|(a, b)| cosine(a, b)).fold(f64::INFINITY, f64::min);
    let difference =
        embeddings.iter().flatten().zip(moved.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let rate = rate(&mut session, &tiles, batch)?;
    let fine = finite && distinct && least >= LEAST_COSINE;
    let card = &encoder.card;
    if options.json {
        let facts = json!({
            "id": card.id, "sha256": encoder.sha256, "model_bytes": encoder.bytes, "dim": card.output.dim,
            "device": options.device.to_string(), "compute": card.compute, "onnxruntime": library::version()?, "threads": threads, "batch": batch,
            "load_seconds": load_seconds, "tiles_per_second": rate, "peak_memory_bytes": peak_memory(),
            "finite": finite, "distinct": distinct, "batch_place_max_difference": difference,
            "batch_place_min_cosine": least, "verified": card.verified, "usable": fine,
        });
        out!("{}", to_json(&facts)?);
    } else {
        out!("{} ({}), {:.1} MB, sha256 {}", card.id, card.name, encoder.bytes as f64 / 1e6, encoder.sha256);
        out!("  on {}, ONNX Runtime {}: loaded in {load_seconds:.2} s", options.device, library::version()?);
        out!("  {} values a tile of {px} px: {}", card.output.dim, if finite { "finite" } else { "NOT finite" });
        out!(
            "  {} different tiles: {}",
            tiles.len(),
            if distinct { "different embeddings" } else { "EQUAL embeddings" }
        );
        out!("  place in a batch of {batch}: changes a value by {difference:.1e} at most, least cosine {least:.7}");
        out!("  {rate:.1} tiles/s with {threads} threads in batches of {batch}");
        if let Some(bytes) = peak_memory() {
            out!("  {:.0} MB of memory at most", bytes as f64 / 1e6);
        }
        let verified =
            if card.verified.is_empty() { "no comparison with its source on record" } else { &card.verified };
        out!("  on record: {verified}");
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tiles that look like nothing else: noise, the colours of a stain in waves, white glass, a ramp. Always the same.
fn canaries(px: usize) -> Vec<Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise = (0..px * px * 3).map(|_| {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 56) as u8
    });
    let noise = noise.collect();
    let paint = |colour: &dyn Fn(usize, usize) -> [u8; 3]| {
        (0..px * px).flat_map(|i| colour(i % px, i / px)).collect::<Vec<u8>>()
    };
    let wave = |x: usize, y: usize| ((x * x / 7 + y * 5) % 96) as u8;
    vec![
        noise,
        paint(&|x, y| [190 - wave(x, y), 120 - wave(y, x), 170 - wave(x, y) / 2]),
        paint(&|_, _| [243; 3]),
        paint(&|x, y| [(x * 255 / px) as u8, (y * 255 / px) as u8, 128]),
    ]
}

/// The embedding of each tile, alone in a batch at this place; the other places hold another tile.
fn embed(session: &mut impl Encoder, tiles: &[Vec<u8>], batch: usize, place: usize) -> Result<Vec<Vec<f32>>> {
    let dim = session.dim();
    let mut out = Vec::new();
    let one = |i: usize| {
        let other = &tiles[(i + 1) % tiles.len()];
        let pixels: Vec<u8> = (0..batch).flat_map(|p| if p == place { &tiles[i] } else { other }).copied().collect();
        session.embed(&pixels, batch, &mut out)?;
        out.get(place * dim..(place + 1) * dim)
            .map(<[f32]>::to_vec)
            .ok_or_else(|| Error::Encoder("the model gives fewer embeddings than tiles".into()))
    };
    (0..tiles.len()).map(one).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn rate(session: &mut impl Encoder, tiles: &[Vec<u8>], batch: usize) -> Result<f64> {
    let pixels: Vec<u8> = (0..batch).flat_map(|i| &tiles[i % tiles.len()]).copied().collect();
    let (mut count, mut out, start) = (0, Vec::new(), Instant::now());
    while count == 0 || start.elapsed() < MEASURED {
        session.embed(&pixels, batch, &mut out)?;
        count += batch;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Most memory this process ever had resident, in bytes.
fn peak_memory() -> Option<u64> {
    runtime::proc_bytes("/proc/self/status", "VmHWM")
}
