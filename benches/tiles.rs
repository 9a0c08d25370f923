//! Tiles a second from a slide to RGB in memory, on one or more threads: what the encoder is fed with.
//!
//! `cargo bench --bench tiles -- SLIDE [--tissue none|otsu] [--mpp 0.5] [--px 256] [--overlap N] [--threads 1] [--rounds 5]`
//! prints one JSON line per way of reading: `floor` (libjpeg-turbo decoding each needed block once, nothing else), `exact`
//! (all pixels, resampled), `scaled` (the JPEG decoder reduces). The best of the rounds counts; ways take turns.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use paraffin::codec::Scratch;
use paraffin::pipeline::prepare::{PlannedSlide, PrepareOptions, SlideSpec, prepare};
use paraffin::pipeline::read::TileReader;
use paraffin::slide::mpp::MppOverride;
use paraffin::slide::region::parts;
use paraffin::tiling::{DecodeMode, TilingOptions};
use paraffin::tissue::{OtsuOptions, TissueMethod};

fn main() {
    let mut words = std::env::args().skip(1).filter(|w| w != "--bench");
    let Some(slide) = words.next() else {
        eprintln!(
            "usage: cargo bench --bench tiles -- SLIDE [--tissue ..] [--mpp ..] [--px ..] [--overlap ..] [--threads ..] [--rounds ..]"
        );
        return;
    };
    let (mut tiling, mut tissue, mut threads, mut rounds) = (TilingOptions::default(), TissueMethod::Otsu, 1, 5);
    while let Some(word) = words.next() {
        let value = words.next().expect("a value follows each flag");
        match word.as_str() {
            "--tissue" => tissue = value.parse().expect("a tissue method"),
            "--mpp" => tiling.target_mpp = value.parse().expect("a number"),
            "--px" => tiling.tile_px = value.parse().expect("a number"),
            "--overlap" => tiling.overlap_px = value.parse().expect("a number"),
            "--threads" => threads = value.parse().expect("a number"),
            "--rounds" => rounds = value.parse().expect("a number"),
            other => panic!("unknown flag {other}"),
        }
    }
    let spec = SlideSpec { path: PathBuf::from(slide), id: "bench".into(), mpp: MppOverride::default() };
    let plan = |decode| {
        let tiling = TilingOptions { decode, ..tiling };
        let options =
            PrepareOptions { tiling, tissue: tissue.clone(), otsu: OtsuOptions::default(), allow_failed_tiles: 0 };
        prepare(&spec, &options).expect("the slide is readable")
    };
    let mut best = [("floor", f64::MAX), ("exact", f64::MAX), ("scaled-floor", f64::MAX), ("scaled", f64::MAX)];
    let (mut tiles, mut needed, mut decoded) = (0, 0, 0);
    for _ in 0..rounds {
        for (way, seconds) in &mut best {
            let mode = if way.starts_with("scaled") { DecodeMode::Scaled } else { DecodeMode::Exact };
            let slide = plan(mode);
            let took = if way.ends_with("floor") { floor(&slide, threads) } else { read(&slide, threads) };
            tiles = slide.tiles.len();
            if *way == "exact" {
                (needed, decoded) = (slide.blocks.needed, slide.blocks.decoded());
            }
            *seconds = seconds.min(took);
        }
    }
    for (way, seconds) in best {
        println!(
            "{{\"tool\":\"paraffin\",\"way\":\"{way}\",\"threads\":{threads},\"tiles\":{tiles},\"tiles_per_s\":{:.1},\"blocks_needed\":{needed},\"blocks_decoded\":{decoded}}}",
            tiles as f64 / seconds
        );
    }
}

/// Seconds for all tiles.
fn read(slide: &PlannedSlide, threads: usize) -> f64 {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut reader = TileReader::default();
                let mut out = vec![0; (slide.plan.tile_px * slide.plan.tile_px * 3) as usize];
                loop {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    let Some(tile) = slide.tiles.get(row) else { return };
                    reader.read(slide, *tile, Default::default(), &mut out).expect("the slide is whole");
                }
            });
        }
    });
    start.elapsed().as_secs_f64()
}

/// Seconds for decoding each needed block once to the same buffer.
fn floor(slide: &PlannedSlide, threads: usize) -> f64 {
    let level = slide.level();
    let mut blocks: Vec<_> =
        slide.tiles.iter().flat_map(|t| parts(level, &slide.plan.footprint(t[0], t[1]).0)).map(|p| p.block).collect();
    blocks.sort();
    blocks.dedup();
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut scratch = Scratch::default();
                let divisor = slide.plan.scale.divisor();
                let pitch = (level.block_width / divisor) as usize * 3;
                let mut out = vec![0; pitch * (level.block_height / divisor) as usize];
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(block) = blocks.get(i) else { return };
                    let reader = &slide.slide.reader;
                    reader
                        .decode_block(*block, slide.plan.scale, &mut scratch, &mut out, pitch)
                        .expect("the slide is whole");
                }
            });
        }
    });
    start.elapsed().as_secs_f64()
}
