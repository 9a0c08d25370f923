//! The encoders of a run: how many compute side by side, on which devices.

use std::sync::Arc;
use std::time::Instant;

use super::Encoder;
use super::device::{Device, Devices};
use super::halving::{Halving, Limit};
use super::onnx::{OnnxModel, SessionOptions};
use super::registry::Available;
use crate::error::{Error, Result};
use crate::runtime;

/// Batches that a card has in flight: the next one is copied while one is computed.
const IN_FLIGHT: usize = 2;

/// Models up to this size compute side by side on a processor, a thread each, which was never slower (benches/RESULTS.md).
/// Of larger ones every thread reads all weights from memory for every tile; whether the memory keeps up is measured.
const MEASURED_FROM_BYTES: u64 = 512 << 20;

/// How much faster one computation with all threads must be to be preferred.
const CLEARLY: f64 = 1.1;

/// A probe that took longer than this is not repeated warm.
const SHORT_SECONDS: f64 = 0.25;

/// Hears what the user should know.
pub type Tell<'a> = dyn Fn(&str) + 'a;

/// Most encoders that [`open`] gives.
#[must_use]
pub fn most(devices: &Devices, threads: usize) -> usize {
    if devices.is_cpu() { threads.max(1) } else { IN_FLIGHT * devices.as_slice().len() }
}

/// Loads the model once a device and gives the encoders of all threads that embed. They take batches from one queue, so
/// that a faster card takes more of them. `halved` hears from a card that had not enough memory for a batch, with the number
/// of tiles that it computes at a time from then on.
///
/// Embeddings do not depend on what is chosen here.
///
/// # Errors
/// As [`OnnxModel::open`].
pub fn open(
    encoder: &Available,
    devices: &Devices,
    threads: usize,
    batch: usize,
    tell: &Tell,
    halved: &Arc<dyn Fn(Device, usize) + Send + Sync>,
) -> Result<Vec<Box<dyn Encoder>>> {
    if devices.is_cpu() {
        return on_processor(encoder, threads, batch, tell);
    }
    let mut crew: Vec<Box<dyn Encoder>> = Vec::new();
    for device in devices.as_slice() {
        let model = OnnxModel::open(encoder, SessionOptions { device: *device, threads: 1, batch })?;
        let (halved, device) = (halved.clone(), *device);
        let limit = Limit::new(batch, Box::new(move |tiles| halved(device, tiles)));
        crew.extend((0..IN_FLIGHT).map(|_| Box::new(Halving::new(model.encoder(), limit.clone())) as Box<dyn Encoder>));
    }
    Ok(crew)
}

fn on_processor(encoder: &Available, threads: usize, batch: usize, tell: &Tell) -> Result<Vec<Box<dyn Encoder>>> {
    let open = |threads| OnnxModel::open(encoder, SessionOptions { device: Device::Cpu, threads, batch });
    let model = open(1)?;
    let side_by_side = |model: &Arc<OnnxModel>| {
        (0..threads).map(|_| Box::new(model.encoder()) as Box<dyn Encoder>).collect::<Vec<_>>()
    };
    if threads <= 1 || encoder.bytes < MEASURED_FROM_BYTES || !fits_twice(encoder.bytes) {
        return Ok(side_by_side(&model));
    }
    let px = encoder.card.input.px as usize;
    let tiles: Vec<u8> = (0..batch * px * px * 3).map(|i| (i % 251) as u8).collect();
    let mut many = side_by_side(&model);
    let each = rate(&mut many, &tiles, batch)?;
    let mut one: Vec<Box<dyn Encoder>> = vec![Box::new(open(threads)?.encoder())];
    let together = rate(&mut one, &tiles, batch)?;
    let joined = together > CLEARLY * each;
    tell(&format!(
        "measured: {each:.2} tiles/s by {threads} threads with a tile each, {together:.2} by all of them on one; {} taken",
        if joined { "the latter" } else { "the former" }
    ));
    Ok(if joined { one } else { many })
}

/// Tiles a second of encoders that compute side by side: a batch each, measured once, and again where that was short.
///
/// # Errors
/// As [`Encoder::embed`].
pub fn rate(crew: &mut [Box<dyn Encoder>], tiles: &[u8], batch: usize) -> Result<f64> {
    let mut once = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                crew.iter_mut().map(|e| scope.spawn(move || e.embed(tiles, batch, &mut Vec::new()))).collect();
            runs.into_iter().try_for_each(|run| run.join().map_err(|_| Error::Encoder("a probe died".into()))?)
        })?;
        Ok::<_, Error>(start.elapsed().as_secs_f64())
    };
    let mut seconds = once()?;
    if seconds < SHORT_SECONDS {
        seconds = once()?;
    }
    Ok((crew.len() * batch) as f64 / seconds)
}

/// Whether the machine's free memory holds the model twice, with half of it to spare.
fn fits_twice(bytes: u64) -> bool {
    runtime::proc_bytes("/proc/meminfo", "MemAvailable").is_some_and(|free| free / 4 > bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::registry::{DEFAULT_ID, find};

    #[test]
    fn any_arrangement_gives_the_same_embeddings() {
        let mut encoder = find(DEFAULT_ID, None, None).expect("compiled in");
        let tiles: Vec<u8> = (0..224 * 224 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let halved: Arc<dyn Fn(Device, usize) + Send + Sync> = Arc::new(|_, _| {});
        let mut results = Vec::new();
        let mut told = 0;
        for (threads, bytes) in [(1, 0), (3, 0), (2, MEASURED_FROM_BYTES)] {
            encoder.bytes = bytes;
            let said = std::cell::Cell::new(0);
            let tell = |text: &str| {
                assert!(text.contains("taken"), "{text}");
                said.set(said.get() + 1);
            };
            let mut crew = open(&encoder, &Devices::default(), threads, 1, &tell, &halved).expect("opens");
            assert!(!crew.is_empty() && crew.len() <= most(&Devices::default(), threads));
            let mut out = Vec::new();
            crew[0].embed(&tiles, 1, &mut out).expect("runs");
            results.push(out);
            told += said.get();
        }
        assert!(results[0] == results[1] && results[0] == results[2]);
        assert_eq!(told, 1, "only the large model is measured");
    }
}
