//! What the encoder is fed with: pixels a second from a slide to RGB in memory, and what comes before the first pixel.
//!
//! `cargo bench --bench tiles -- SLIDE... [flags]`, one JSON line per slide and way, the best of the rounds; ways take turns.
//!
//! | way | what is timed |
//! |---|---|
//! | `open` | opening a slide, its resolution included |
//! | `tissue` | opening it, finding tissue and planning tiles |
//! | `floor`, `scaled-floor` | libjpeg-turbo alone: each needed block once, from memory to one buffer, whole or at the plan's scale |
//! | `mosaic` | tiles before resampling: all pixels of the level, put together |
//! | `exact` | tiles: all pixels, resampled |
//! | `scaled` | tiles: the decoder reduces |
//!
//! Flags: `--ways a,b`, `--threads 1`, `--rounds 3`, `--mpp 0.5`, `--px 256`, `--overlap 0`, `--tissue otsu`; `--origin X,Y`
//! moves all tiles by so many level-0 pixels; `--program PARAFFIN` runs OpenSlide's processes, `--openslide` reads by them alone;
//! `--dump FILE --every N` keeps the pixels of every Nth tile; `--wait` says `{"ready":true}` before each timing and begins
//! when a line comes in, so that the caller can empty the file cache.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use paraffin::codec::{Coding, Target, jpeg};
use paraffin::icc::IccMode;
use paraffin::pipeline::RUN;
use paraffin::pipeline::blocks::BlockStore;
use paraffin::pipeline::prepare::{PlannedSlide, PrepareOptions, SlideSpec, geometry, prepare};
use paraffin::pipeline::read::TileReader;
use paraffin::slide::mpp::MppOverride;
use paraffin::slide::openslide::{OpenSlideReader, set_worker_program};
use paraffin::slide::region::parts;
use paraffin::slide::source::Source;
use paraffin::slide::tiff::{Page, Tiff, tag};
use paraffin::slide::{BlockAt, Scale, Slide};
use paraffin::tiling::{DecodeMode, ReadPlan, TilingOptions};
use paraffin::tissue::{TissueMethod, TissueOptions};
use serde_json::{Value, json};

/// What the command line says.
struct Options {
    ways: Vec<String>,
    tiling: TilingOptions,
    tissue: TissueMethod,
    origin: [i64; 2],
    threads: usize,
    rounds: usize,
    through_openslide: bool,
    dump: Option<PathBuf>,
    every: usize,
    wait: bool,
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|w| w != "--bench").peekable();
    let mut slides = Vec::new();
    while let Some(slide) = words.next_if(|w| !w.starts_with("--")) {
        slides.push(PathBuf::from(slide));
    }
    if slides.is_empty() {
        eprintln!("usage: cargo bench --bench tiles -- SLIDE... [flags]; see the head of benches/tiles.rs");
        return;
    }
    let mut o = Options {
        ways: ["floor", "mosaic", "exact", "scaled-floor", "scaled"].map(String::from).to_vec(),
        tiling: TilingOptions::default(),
        tissue: TissueMethod::Otsu,
        origin: [0, 0],
        threads: 1,
        rounds: 3,
        through_openslide: false,
        dump: None,
        every: 1,
        wait: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("a value follows the flag");
        match word.as_str() {
            "--ways" => o.ways = value().split(',').map(String::from).collect(),
            "--tissue" => o.tissue = value().parse().expect("a tissue method"),
            "--mpp" => o.tiling.target_mpp = value().parse().expect("a number"),
            "--px" => o.tiling.tile_px = value().parse().expect("a number"),
            "--overlap" => o.tiling.overlap_px = value().parse().expect("a number"),
            "--threads" => o.threads = value().parse().expect("a number"),
            "--rounds" => o.rounds = value().parse().expect("a number"),
            "--every" => o.every = value().parse().expect("a number"),
            "--dump" => o.dump = Some(value().into()),
            "--wait" => o.wait = true,
            "--origin" => {
                let value = value();
                let (x, y) = value.split_once(',').expect("X,Y");
                o.origin = [x.parse().expect("a number"), y.parse().expect("a number")];
            }
            "--program" => set_worker_program(value()),
            "--openslide" => o.through_openslide = true,
            other => panic!("unknown flag {other}"),
        }
    }
    for slide in &slides {
        measure(slide, &o);
    }
}

/// Seconds of a timing: on the clock, and of processor time in all its threads (0 where the system does not tell).
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

fn measure(path: &Path, o: &Options) {
    let mut lines: Vec<Option<(Took, Value)>> = vec![None; o.ways.len()];
    let mut plans: Vec<Option<PlannedSlide>> = o.ways.iter().map(|_| None).collect();
    let mut streams: Vec<Vec<Vec<u8>>> = vec![Vec::new(); o.ways.len()];
    for _ in 0..o.rounds {
        for (i, way) in o.ways.iter().enumerate() {
            let (took, facts) = match way.as_str() {
                "open" => match open(path) {
                    Ok(took) => took,
                    Err(e) => {
                        eprintln!("{e}");
                        return;
                    }
                },
                "tissue" => {
                    ready(o);
                    let start = Instant::now();
                    let slide = plan(path, o, way);
                    let took = Took { wall: start.elapsed().as_secs_f64(), cpu: 0.0 };
                    let level = &slide.slide.info().levels[0];
                    (took, json!({ "tiles": slide.tiles.len(), "width": level.width, "height": level.height }))
                }
                _ => {
                    // OpenSlide keeps decoded tiles from round to round; a slide opened anew does not have them.
                    plans[i].take_if(|slide| !slide.slide.info().reader.starts_with("native"));
                    let slide = plans[i].get_or_insert_with(|| plan(path, o, way));
                    if way.ends_with("floor") {
                        if streams[i].is_empty() {
                            match compressed(path, slide) {
                                Some(found) => streams[i] = found,
                                None => continue,
                            }
                        }
                        ready(o);
                        (floor(slide, &streams[i], o.threads), facts(slide))
                    } else {
                        slide.blocks = BlockStore::new(slide.level(), &slide.plan, &slide.tiles, None);
                        ready(o);
                        (read(slide, o.threads), facts(slide))
                    }
                }
            };
            if lines[i].as_ref().is_none_or(|(best, _)| took.wall < best.wall) {
                lines[i] = Some((took, facts));
            }
        }
    }
    for ((way, line), slide) in o.ways.iter().zip(lines).zip(plans) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((took, facts)) = line else {
            eprintln!("{way}: not for this slide");
            continue;
        };
        let mut line = json!({
            "tool": "paraffin", "slide": name, "way": way, "threads": o.threads, "seconds": took.wall, "cpu_seconds": took.cpu,
        });
        if let (Value::Object(line), Value::Object(facts)) = (&mut line, facts) {
            line.extend(facts);
        }
        println!("{line}");
        if let (Some(file), Some(slide)) = (&o.dump, slide.filter(|_| !way.ends_with("floor"))) {
            dump(&file.with_extension(way), slide, o.every);
        }
    }
}

/// Waits for the caller, where it wants that.
fn ready(o: &Options) {
    if o.wait {
        println!("{}", json!({ "ready": true }));
        std::io::stdout().flush().expect("the caller reads");
        std::io::stdin().lock().read_line(&mut String::new()).expect("the caller answers");
    }
}

fn open(path: &Path) -> paraffin::Result<(Took, Value)> {
    let start = Instant::now();
    let slide = Slide::open(path)?;
    let stated = slide.mpp(MppOverride::default()).is_ok();
    let took = Took { wall: start.elapsed().as_secs_f64(), cpu: 0.0 };
    let info = slide.info();
    Ok((took, json!({ "format": info.format, "reader": info.reader, "levels": info.levels.len(), "mpp": stated })))
}

/// The slide with its tiles, as this way reads them.
fn plan(path: &Path, o: &Options, way: &str) -> PlannedSlide {
    let decode = if way.starts_with("scaled") { DecodeMode::Scaled } else { DecodeMode::Exact };
    let tiling = TilingOptions { decode, ..o.tiling };
    let options = PrepareOptions {
        tiling,
        tissue: o.tissue.clone(),
        model: None,
        find: TissueOptions::default(),
        icc: IccMode::Off,
        allow_failed_tiles: 0,
    };
    let spec = SlideSpec { path: path.to_path_buf(), id: "bench".into(), mpp: MppOverride::default() };
    let mut slide = prepare(&spec, &options).expect("the slide is readable");
    if o.through_openslide {
        slide.slide.reader = Box::new(OpenSlideReader::open(path).expect("OpenSlide reads the slide"));
        slide.plan = ReadPlan::new(&geometry(&slide.slide), slide.mpp.mean(), &tiling).expect("it has the same levels");
    }
    if way == "mosaic" {
        // The same squares of the level, as tiles of its own resolution: nothing remains to be resampled.
        slide.plan.tile_px = slide.plan.source_px.round() as u32;
        slide.plan.source_px = f64::from(slide.plan.tile_px);
    }
    for tile in &mut slide.tiles {
        *tile = [tile[0] + o.origin[0], tile[1] + o.origin[1]];
    }
    slide.blocks = BlockStore::new(slide.level(), &slide.plan, &slide.tiles, None);
    slide
}

fn facts(slide: &PlannedSlide) -> Value {
    json!({
        "reader": slide.slide.info().reader,
        "tiles": slide.tiles.len(),
        "px": slide.plan.tile_px,
        "side_level0": slide.plan.tile_size_level0,
        "scale": slide.plan.scale.divisor(),
        "blocks_touched": slide.blocks.needed,
        "blocks_decoded": slide.blocks.decoded(),
    })
}

/// Runs `work` on threads of their own.
fn timed(threads: usize, work: impl Fn() + Sync) -> Took {
    let cpu = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let before = on_processor();
                work();
                cpu.fetch_add(on_processor() - before, Ordering::Relaxed);
            });
        }
    });
    Took { wall: start.elapsed().as_secs_f64(), cpu: cpu.into_inner() as f64 / 1e9 }
}

/// Nanoseconds that this thread has been on a processor, as Linux tells.
fn on_processor() -> u64 {
    let words = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    words.split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(0)
}

/// Reads all tiles.
fn read(slide: &PlannedSlide, threads: usize) -> Took {
    let next = AtomicUsize::new(0);
    timed(threads, || {
        let mut reader = TileReader::default();
        let mut out = vec![0; (slide.plan.tile_px * slide.plan.tile_px * 3) as usize];
        // In runs, as the pipeline hands them out.
        let mut runs = std::iter::repeat_with(|| next.fetch_add(RUN, Ordering::Relaxed));
        while let Some(tiles) = runs.next().and_then(|at| slide.tiles.get(at..)).filter(|tiles| !tiles.is_empty()) {
            for tile in tiles.iter().take(RUN) {
                reader.read(slide, *tile, Default::default(), &mut out).expect("the slide is whole");
            }
        }
    })
}

/// Whole JPEG streams of the blocks that the tiles need, each once; `None` where the slide has none.
fn compressed(path: &Path, slide: &PlannedSlide) -> Option<Vec<Vec<u8>>> {
    let level = slide.level();
    let mut blocks: Vec<BlockAt> =
        slide.tiles.iter().flat_map(|t| parts(level, &slide.plan.footprint(t[0], t[1]).0)).map(|p| p.block).collect();
    blocks.sort();
    blocks.dedup();
    if level.coding != Coding::Jpeg {
        return None;
    }
    let tiff = Tiff::open(Source::open(path).ok()?).ok()?;
    let number = |page: &Page, tag| tiff.number_or(page, tag, 0).ok();
    let is_level = |page: &&Page| {
        number(page, tag::IMAGE_WIDTH) == Some(level.width.into())
            && number(page, tag::TILE_WIDTH) == Some(level.block_width.into())
    };
    let page = tiff.pages.iter().find(is_level)?;
    let (columns, rows) = level.block_grid();
    let count = u64::from(columns) * u64::from(rows);
    let (offsets, counts) =
        (tiff.table(page, tag::TILE_OFFSETS, count).ok()?, tiff.table(page, tag::TILE_BYTE_COUNTS, count).ok()?);
    let tables = tiff.blob(page, tag::JPEG_TABLES).ok()?.filter(|t| t.len() > 4);
    let colour = match number(page, tag::PHOTOMETRIC)? {
        2 => jpeg::Colour::Rgb,
        6 => jpeg::Colour::YCbCr,
        _ => return None,
    };
    let mut streams = Vec::new();
    let mut block = Vec::new();
    for at in blocks {
        let i = (at.row * columns + at.col) as usize;
        if counts[i] > 0 {
            tiff.source.read(offsets[i], counts[i] as usize, &mut block).expect("the slide is whole");
            let mut stream = Vec::new();
            let size = (level.block_width, level.block_height);
            jpeg::assemble(tables.as_deref(), &block, colour, size, &mut stream).expect("the slide is whole");
            streams.push(stream);
        }
    }
    Some(streams)
}

/// Decodes each stream once, to the same buffer.
fn floor(slide: &PlannedSlide, streams: &[Vec<u8>], threads: usize) -> Took {
    let level = slide.level();
    let (size, scale): (_, Scale) = ((level.block_width, level.block_height), slide.plan.scale);
    let (width, height) = (size.0.div_ceil(scale.divisor()) as usize, size.1.div_ceil(scale.divisor()) as usize);
    let next = AtomicUsize::new(0);
    timed(threads, || {
        let mut decoder = None;
        let mut out = vec![0; width * height * 3];
        while let Some(stream) = streams.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut target = Target { pixels: &mut out, pitch: width * 3, width, height };
            jpeg::decode(&mut decoder, stream, size, scale, &mut target).expect("the slide is whole");
        }
    })
}

/// Writes the pixels of every `every`th tile, one after another.
fn dump(file: &Path, mut slide: PlannedSlide, every: usize) {
    slide.tiles = slide.tiles.into_iter().step_by(every).collect();
    slide.blocks = BlockStore::new(&slide.slide.info().levels[slide.plan.level], &slide.plan, &slide.tiles, None);
    let mut reader = TileReader::default();
    let mut pixels = vec![0; (slide.plan.tile_px * slide.plan.tile_px * 3) as usize];
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).expect("a file that can be written"));
    for tile in &slide.tiles {
        reader.read(&slide, *tile, Default::default(), &mut pixels).expect("the slide is whole");
        out.write_all(&pixels).expect("room on the disk");
    }
    out.flush().expect("room on the disk");
}
