//! OpenSlide in its own process: pixels against openslide-python, and what hostile files and killed processes lead to.
//!
//! Slides come from `../shared/data`; without it, or without OpenSlide, a trial says so and passes.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use paraffin::Error;
use paraffin::codec::Scratch;
use paraffin::slide::mpp::MppSource;
use paraffin::slide::openslide::{self, OpenSlideReader, Options, WORKER_COMMAND};
use paraffin::slide::{BlockAt, BlockKind, Scale, SlideReader};
use sha2::{Digest, Sha256};

const PARAFFIN: &str = env!("CARGO_BIN_EXE_paraffin");
const SIDE: usize = 512;

/// `scripts/golden_openslide.py ../shared/data`, OpenSlide 4.0.1: file, vendor, level, its width and height, block column
/// and row, sha256 of the block's RGB within the level, mean R, G, B.
const GOLDEN: &str = "\
real/ndpi/test3-TRITC-2-560.ndpi\thamamatsu\t0\t3968\t4864\t3\t4\tc5ae705eeda6afc26d1fa5324762241b8fddee8f17b44a2caec1ad2ab61660f9\t21.55\t0.10\t0.29\n\
real/ndpi/test3-TRITC-2-560.ndpi\thamamatsu\t0\t3968\t4864\t7\t9\t9a2c4266ef1efe4a677472778d852d78bce066aa954cb7b46ba13c7ef9460699\t3.93\t0.01\t0.36\n\
real/ndpi/test3-TRITC-2-560.ndpi\thamamatsu\t1\t1984\t2432\t1\t2\t19b8911c656b6e945bbcc3829ca1742aa620a5aaeae5bf2d4883f614c9c77121\t19.08\t0.19\t0.50\n\
real/ndpi/test3-TRITC-2-560.ndpi\thamamatsu\t3\t496\t608\t0\t1\tc03b2fab07c4a2cfcde00b5be5249c79076bd37ac75ff4a95a6a30769a189f36\t14.87\t0.39\t1.31\n\
real/ndpi/test3-TRITC-2-560.ndpi\thamamatsu\t6\t62\t76\t0\t0\t881429320acbd658ca61d66b607b42c9dbb627481358de5df6efd3d1b35a759f\t18.91\t0.15\t1.21\n\
real/generic-tiff/boxes.tiff\tgeneric-tiff\t0\t300\t250\t0\t0\t992e67f877e0c98d62d74820b6d02dd5603b0a95a01dad9ce035a30512ad4f09\t159.09\t163.51\t191.50\n\
real/generic-tiff/boxes.tiff\tgeneric-tiff\t1\t150\t125\t0\t0\te92aa3c45bb26734d93effbd2088ebe25b39cd2e992baeec0bfa978f96e86195\t159.09\t163.51\t191.51\n\
real/generic-tiff/boxes.tiff\tgeneric-tiff\t2\t75\t62\t0\t0\t0d68bada8ee892b6178a31bbd2f5aa760aa03a447f34c6e3b60480e2d0f99b1d\t158.33\t162.79\t191.01\n\
real/generic-tiff/boxes.tiff\tgeneric-tiff\t3\t37\t31\t0\t0\t94847c5a7337ecc0977b703584ee27a9a466c76351601644be2c94dc752c4933\t157.04\t161.56\t190.18\n\
real/dicom/openslide-boxes/boxes_0.dcm\tdicom\t0\t16\t16\t0\t0\t53eb8c75a1f7d4cc6f6f9a0fb22ba62e8d5ba8bc4b50a3277c3c1cbfd79df0e6\t238.15\t233.95\t236.82\n\
real/dicom/camelyon-jpeg/multi_frame_jpeg_camelyon_challenge_image.dcm\tdicom\t0\t1152\t700\t0\t0\t0f23e4e92f3d8d7df3f30e1fb6215005ab13f157263c1f9a13974ed416f3e8c2\t198.78\t180.19\t209.37\n\
real/dicom/camelyon-jpeg/multi_frame_jpeg_camelyon_challenge_image.dcm\tdicom\t0\t1152\t700\t2\t1\t1581a9684bf5146aa546db1658e618460ac3774791f7b651ed6b0d0abb00ae9a\t226.83\t223.52\t228.98\n\
composed/philips.tiff\tphilips\t0\t8192\t6144\t5\t6\tdff064baebc8a3d45c32b05393cc414d41b131eb22022fa4dabf2b2de282fe70\t221.94\t192.09\t215.81\n\
composed/philips.tiff\tphilips\t1\t4096\t3072\t3\t3\t860e7edf6b6d23e11416c43a790c21e258101f1ee5ed2920f33f53f1ef17af12\t232.47\t215.92\t225.41\n\
composed/philips.tiff\tphilips\t2\t2048\t1536\t1\t1\ta34ac7eec8971ce194968566a439d7e4091bcad50a300f7c901e01921140283a\t219.55\t176.41\t200.68\n\
composed/philips.tiff\tphilips\t4\t512\t384\t0\t0\t9f95d05a10ca81e609f6cf6f6b00628ee8cfff44b216fd741b2bd02a74a5d6f9\t222.88\t196.28\t213.62\n\
composed/small_ycc420.svs\taperio\t0\t8063\t6011\t8\t5\t1a5f0892330d4f421e6505e2d9f3bc70bac99eb30f2d4767e0b5786f8b0b70e4\t200.40\t100.27\t149.53\n\
composed/small_ycc420.svs\taperio\t1\t2015\t1502\t0\t0\t4a74ec371d95afc204daf14bc312175ad381e3a53da602402d49ee78b98547be\t213.99\t197.15\t209.95\n\
composed/small_ycc420.svs\taperio\t1\t2015\t1502\t1\t1\ta92881bbb7eb97ec1f9e961fcfd1e53e64976a3bc20eed489a42225025484185\t219.61\t176.24\t200.56\n\
composed/small_ycc420.svs\taperio\t1\t2015\t1502\t3\t2\t8ca1ccbf2283cc0f48567e5403bb49e594daed212e3e4f0b30437d18dd8b2e83\t199.64\t175.78\t198.63\n\
composed/small_ycc420.svs\taperio\t2\t503\t375\t0\t0\t74a40d8ddaa51857e4a8b07d8c836547644f45eecb98944ca190c23a86c8b7c9\t221.41\t193.69\t211.72";

fn data() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !data.is_dir() {
        eprintln!("skipped: there is no ../shared/data with test slides");
        return None;
    }
    openslide::set_worker_program(PARAFFIN);
    match openslide::version() {
        Ok(_) => Some(data),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// The hostile files, unpacked.
fn hostile(data: &Path) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().expect("holds in this test");
    let tar = Command::new("tar").arg("xf").arg(data.join("hostile.tar.xz")).arg("-C").arg(dir.path()).status();
    if !tar.is_ok_and(|status| status.success()) {
        eprintln!("skipped: hostile.tar.xz cannot be unpacked (tar, xz)");
        return None;
    }
    Some(dir)
}

fn options() -> Options {
    Options { program: PARAFFIN.into(), ..Options::default() }
}

fn open(path: &Path) -> paraffin::Result<OpenSlideReader> {
    OpenSlideReader::open_with(path, options())
}

fn block(slide: &dyn SlideReader, level: usize, col: u32, row: u32) -> paraffin::Result<(BlockKind, Vec<u8>)> {
    let mut out = vec![7; SIDE * SIDE * 3];
    let at = BlockAt { level, row, col };
    let kind = slide.decode_block(at, Scale::Full, &mut Scratch::default(), &mut out, SIDE * 3)?;
    Ok((kind, out))
}

fn signal(name: &str, process: u32) {
    let status =
        Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status().expect("holds in this test");
    assert!(status.success());
}

/// An executable script, written by another process: a file that this process has open for writing, or a child that it
/// forks meanwhile, could not be executed.
fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    let write = "printf '#!/bin/sh\n%s\n' \"$2\" > \"$1\" && chmod +x \"$1\"";
    assert!(
        Command::new("sh")
            .args(["-c", write, "sh"])
            .arg(&path)
            .arg(body)
            .status()
            .expect("holds in this test")
            .success()
    );
    path
}

#[test]
fn pixels_are_openslides() {
    let Some(data) = data() else { return };
    let mut slide: Option<(&str, OpenSlideReader)> = None;
    for line in GOLDEN.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| fields[at].parse::<u32>().expect("holds in this test");
        let (level, width, height, col, row) = (number(2) as usize, number(3), number(4), number(5), number(6));
        if slide.as_ref().is_none_or(|(name, _)| *name != fields[0]) {
            slide = Some((fields[0], open(&data.join(fields[0])).expect("holds in this test")));
        }
        let (_, slide) = slide.as_ref().expect("holds in this test");
        assert_eq!(slide.info().format, fields[1]);
        assert!(slide.info().reader.starts_with("openslide "), "{}", slide.info().reader);
        let about = &slide.info().levels[level];
        assert_eq!((about.width, about.height), (width, height), "{line}");

        let (kind, rgb) = block(slide, level, col, row).expect("holds in this test");
        assert_eq!(kind, BlockKind::Decoded);
        let cols = SIDE.min(width as usize - col as usize * SIDE);
        let rows = SIDE.min(height as usize - row as usize * SIDE);
        let inside: Vec<u8> = rgb.chunks(SIDE * 3).take(rows).flat_map(|line| line[..cols * 3].to_vec()).collect();
        let digest: String = Sha256::digest(&inside).iter().map(|byte| format!("{byte:02x}")).collect();
        let pixels = inside.as_chunks::<3>().0;
        let mean = [0, 1, 2].map(|c| pixels.iter().map(|p| f64::from(p[c])).sum::<f64>() / pixels.len() as f64);
        assert_eq!(digest, fields[7], "{line}: mean here {mean:.2?}");
        let outside = rgb
            .chunks(SIDE * 3)
            .enumerate()
            .all(|(y, line)| line[if y < rows { cols * 3 } else { 0 }..].iter().all(|value| *value == 255));
        assert!(outside, "past the level's edge it is white: {line}");
    }
}

#[test]
fn what_a_slide_states() {
    let Some(data) = data() else { return };
    let ndpi = open(&data.join("real/ndpi/test3-TRITC-2-560.ndpi")).expect("holds in this test");
    let info = ndpi.info();
    assert_eq!(
        info.levels.iter().map(|level| level.downsample).collect::<Vec<_>>(),
        [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    );
    assert_eq!((info.objective_power, info.icc_profile), (Some(40.0), false));
    assert_eq!(info.associated_images, ["macro"]);
    assert_eq!(info.stated_mpp[0].x, 0.228_175_055_902_888_7);
    assert_eq!(info.stated_mpp[0].source, MppSource::Vendor);
    for field in ["hamamatsu.Created", "hamamatsu.NDP.S/N", "tiff.DateTime"] {
        assert!(info.identifying_fields.iter().any(|name| name == field), "{field}: {:?}", info.identifying_fields);
    }
    let boxes = open(&data.join("real/generic-tiff/boxes.tiff")).expect("holds in this test");
    let info = boxes.info();
    assert_eq!(info.levels.iter().map(|level| level.downsample).collect::<Vec<_>>(), [1.0, 2.0, 4.0, 8.0]);
    assert!(info.icc_profile && info.identifying_fields.is_empty(), "{:?}", info.identifying_fields);
    assert_eq!(info.stated_mpp.len(), 1);
    assert_eq!(info.stated_mpp[0].source, MppSource::TiffResolution);
    assert_eq!(boxes.property("tiff.ResolutionUnit"), Some("centimeter"));

    let dicom = open(&data.join("real/dicom/openslide-boxes/boxes_0.dcm")).expect("holds in this test");
    assert_eq!(dicom.info().stated_mpp[0].source, MppSource::OmeDicom);
    assert!(dicom.info().identifying_fields.iter().any(|name| name == "dicom.StudyInstanceUID"));
    assert!(!dicom.info().identifying_fields.iter().any(|name| name == "dicom.PatientName"), "it is empty");

    let svs = open(&data.join("composed/small_ycc420.svs")).expect("holds in this test");
    for field in
        ["aperio.Filename", "aperio.Date", "aperio.Time", "aperio.User", "aperio.ScanScope ID", "openslide.comment"]
    {
        assert!(svs.info().identifying_fields.iter().any(|name| name == field), "{field}");
    }
}

#[test]
fn the_colour_profile_is_handed_out() {
    for name in ["icc/matrix.svs", "icc/table.tif", "generated/aperio_comma.svs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        let native = paraffin::slide::Slide::open_native(&path).expect("opens");
        let profile = open(&path).expect("opens").icc_profile().expect("answers");
        assert_eq!(profile, native.reader.icc_profile().expect("reads"));
        assert_eq!(profile.is_some(), name.starts_with("icc/"));
    }
}

#[test]
fn vendors_are_detected() {
    let Some(data) = data() else { return };
    let vendor = |name: &str| openslide::detect(&data.join(name)).expect("holds in this test");
    assert_eq!(vendor("composed/philips.tiff").as_deref(), Some("philips"));
    assert_eq!(vendor("README.md"), None);
    assert_eq!(vendor("real/ndpi/test3-TRITC-2-560.ndpi").as_deref(), Some("hamamatsu"));
    assert!(matches!(openslide::detect(&data.join("absent.svs")), Err(Error::Read(_))));
    assert!(matches!(open(&data.join("absent.svs")), Err(Error::Read(_))));
    assert!(matches!(open(&data.join("README.md")), Err(Error::NotASlide(_))));
}

#[test]
fn files_that_abort_openslide_are_errors() {
    let Some(data) = data() else { return };
    let Some(dir) = hostile(&data) else { return };
    let root = dir.path().join("hostile");
    for (name, words) in [
        ("bomb_offset_2e63.svs", "OpenSlide aborted (signal 6): failed to allocate 4611686018427387904 bytes"),
        ("geom_tilewidth_2e31.svs", "OpenSlide aborted (signal 6): failed to allocate 2199023254528 bytes"),
        (
            "mirax_hier_count_huge/Mirax2-Fluorescence-2.mrxs",
            "OpenSlide aborted (signal 6): failed to allocate 16000000008 bytes",
        ),
    ] {
        let slide = open(&root.join(name)).err().map(|e| e.to_string());
        let why = slide.unwrap_or_else(|| {
            let slide = open(&root.join(name)).expect("holds in this test");
            block(&slide, 0, 0, 0).unwrap_err().to_string()
        });
        assert!(why.ends_with(words), "{name}: {why}");
    }
}

/// Every hostile file: opened, its first and last blocks read. Slides that OpenSlide reads are read, the others are errors
/// that name no file; nothing takes over 10 s.
#[test]
fn no_hostile_file_harms() {
    let Some(data) = data() else { return };
    let Some(dir) = hostile(&data) else { return };
    let root = dir.path().join("hostile");
    let (mut files, mut opened) = (0, 0);
    for line in fs::read_to_string(data.join("hostile_openslide.tsv")).expect("holds in this test").lines() {
        let (name, expected) = line.split_once('\t').expect("holds in this test");
        let path = root.join(name);
        if !path.is_file() {
            eprintln!("{name}: not in the archive");
            continue;
        }
        files += 1;
        let start = Instant::now();
        let verdict = open(&path).and_then(|slide| {
            opened += 1;
            let last = slide.info().levels.len() - 1;
            let (cols, rows) = slide.info().levels[0].block_grid();
            for (level, col, row) in [(0, 0, 0), (0, cols - 1, rows - 1), (last, 0, 0)] {
                block(&slide, level, col, row)?;
            }
            Ok(slide.info().notes.clone())
        });
        let took = start.elapsed();
        eprintln!(
            "{name}: {took:.2?} {}",
            verdict.as_ref().map_or_else(Error::to_string, |notes| format!("read {notes:?}"))
        );
        assert!(took < Duration::from_secs(10), "{name} took {took:?}");
        if expected.contains("CRASH") || expected.contains("open!") {
            assert!(verdict.is_err(), "{name} was read");
        }
        if let Err(e) = verdict {
            let e = e.to_string();
            let stem = path.file_stem().expect("holds in this test").to_str().expect("holds in this test");
            assert!(
                !e.contains(stem) && !e.contains(dir.path().to_str().expect("holds in this test")),
                "{name} is named: {e}"
            );
        }
    }
    assert!(files > 50 && opened > 20, "{files} files, {opened} opened");
}

#[test]
fn a_killed_process_is_an_error_and_the_next_read_works() {
    let Some(data) = data() else { return };
    let slide = OpenSlideReader::open_with(&data.join("composed/philips.tiff"), Options { workers: 1, ..options() })
        .expect("holds in this test");
    let [process] = slide.idle_processes()[..] else { panic!("one process after opening") };
    signal("STOP", process);
    let result = thread::scope(|scope| {
        let reading = scope.spawn(|| block(&slide, 0, 3, 3));
        thread::sleep(Duration::from_millis(300));
        assert!(!reading.is_finished());
        signal("KILL", process);
        reading.join().expect("holds in this test")
    });
    let why = result.unwrap_err();
    assert!(
        matches!(&why, Error::Block { level: 0, col: 3, row: 3, why } if why.contains("was killed (signal 9")),
        "{why}"
    );
    assert_eq!(block(&slide, 0, 3, 3).expect("holds in this test").0, BlockKind::Decoded);
    assert_ne!(slide.idle_processes(), [process]);
}

#[test]
fn a_process_that_does_not_answer_is_given_up() {
    let Some(data) = data() else { return };
    let options = Options { workers: 1, read_timeout: Duration::from_millis(400), ..options() };
    let slide = OpenSlideReader::open_with(&data.join("composed/philips.tiff"), options).expect("holds in this test");
    let [process] = slide.idle_processes()[..] else { panic!("one process after opening") };
    signal("STOP", process);
    let why = block(&slide, 1, 0, 0).unwrap_err().to_string();
    assert_eq!(why, "block at level 1, column 0, row 0: OpenSlide did not answer in 0.4 s");
    assert!(!Path::new(&format!("/proc/{process}")).exists(), "it was killed");
    assert!(block(&slide, 1, 0, 0).is_ok());

    let dir = tempfile::tempdir().expect("holds in this test");
    let program = script(dir.path(), "sleeper", "exec sleep 30");
    let options = Options { program, open_timeout: Duration::from_millis(300), ..Options::default() };
    let start = Instant::now();
    let why =
        OpenSlideReader::open_with(&data.join("composed/philips.tiff"), options).err().expect("holds in this test");
    assert_eq!(why.to_string(), "damaged slide: OpenSlide did not answer in 0.3 s");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn threads_share_few_processes_and_get_the_same_pixels() {
    let Some(data) = data() else { return };
    let path = data.join("composed/philips.tiff");
    let slide = OpenSlideReader::open_with(&path, Options { workers: 3, ..options() }).expect("holds in this test");
    let (cols, rows) = slide.info().levels[2].block_grid();
    let read = |(col, row)| block(&slide, 2, col, row).expect("holds in this test");
    let all: Vec<(u32, u32)> = (0..rows).flat_map(|row| (0..cols).map(move |col| (col, row))).collect();
    let alone: Vec<_> = all.iter().copied().map(read).collect();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(all.iter().copied().map(read).eq(alone.iter().cloned())));
        }
    });
    let processes = slide.idle_processes();
    assert!((1..=3).contains(&processes.len()), "{processes:?}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", processes[0])).expect("holds in this test");
    let address_space = limits.lines().find(|line| line.starts_with("Max address space")).expect("holds in this test");
    assert!(address_space.contains("2147483648"), "{address_space}");
    drop(slide);
    assert!(processes.iter().all(|process| !Path::new(&format!("/proc/{process}")).exists()), "none is left behind");
}

#[test]
fn sparse_blocks_are_background() {
    let Some(data) = data() else { return };
    let Some(dir) = hostile(&data) else { return };
    let slide = open(&dir.path().join("hostile/bomb_sparse_valid_500k.svs")).expect("holds in this test");
    let (kind, rgb) = block(&slide, 0, 100, 100).expect("holds in this test");
    assert_eq!(kind, BlockKind::Background);
    assert!(rgb.iter().all(|value| *value == 255));
}

#[test]
fn wrong_requests_are_refused() {
    let Some(data) = data() else { return };
    let slide = open(&data.join("real/generic-tiff/boxes.tiff")).expect("holds in this test");
    assert!(matches!(block(&slide, 4, 0, 0), Err(Error::Block { .. })));
    assert!(matches!(block(&slide, 0, 1, 0), Err(Error::Block { .. })));
    let at = BlockAt { level: 0, row: 0, col: 0 };
    let half = slide.decode_block(at, Scale::Half, &mut Scratch::default(), &mut vec![0; SIDE * SIDE * 3], SIDE * 3);
    assert!(matches!(half, Err(Error::Internal(_))));
    let short = slide.decode_block(at, Scale::Full, &mut Scratch::default(), &mut [0; 100], SIDE * 3);
    assert!(matches!(short, Err(Error::Internal(_))));
}

#[test]
fn a_missing_library_says_what_to_do() {
    let dir = tempfile::tempdir().expect("holds in this test");
    let slide = dir.path().join("slide.svs");
    fs::write(&slide, "II*\0").expect("holds in this test");
    let library_error = |name: &str, variables: &str| {
        let program = script(dir.path(), name, &format!("{variables} exec '{PARAFFIN}' \"$@\""));
        match OpenSlideReader::open_with(&slide, Options { program, ..Options::default() }) {
            Err(Error::Library(why)) => Some(why),
            _ => None,
        }
    };
    let why =
        library_error("named", "OPENSLIDE_DYLIB_PATH=/nonexistent/libopenslide.so.1").expect("holds in this test");
    assert!(
        why.starts_with("OpenSlide cannot be loaded from where OPENSLIDE_DYLIB_PATH points: /nonexistent/"),
        "{why}"
    );
    let bare = "OPENSLIDE_DYLIB_PATH= PARAFFIN_LIB_DIR= XDG_DATA_HOME=/nonexistent";
    match library_error("bare", bare) {
        Some(why) => {
            assert!(why.starts_with("OpenSlide is not installed: run scripts/setup, or set PARAFFIN_LIB_DIR"), "{why}");
            assert!(why.contains("looked in ") && why.contains("/nonexistent/paraffin/lib"), "{why}");
        }
        None => eprintln!("skipped: OpenSlide is installed beside the executable or in the system"),
    }

    // Another program altogether is told apart from a damaged slide's victim.
    let options = Options { program: "/nonexistent/paraffin".into(), ..Options::default() };
    assert!(matches!(OpenSlideReader::open_with(&slide, options), Err(Error::Internal(_))));
}

#[test]
fn a_process_ends_with_its_parent() {
    let (ours, theirs) = UnixStream::pair().expect("holds in this test");
    let mut child = Command::new(PARAFFIN)
        .arg(WORKER_COMMAND)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("holds in this test");
    let mut greeting = [0; 5];
    (&ours).read_exact(&mut greeting).expect("holds in this test");
    // Neither Ctrl-C nor a scheduler's signal ends it; the parent does.
    signal("INT", child.id());
    signal("TERM", child.id());
    thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().expect("holds in this test").is_none());
    drop(ours);
    let start = Instant::now();
    while child.try_wait().expect("holds in this test").is_none() {
        assert!(start.elapsed() < Duration::from_secs(5), "it outlives its parent");
        thread::sleep(Duration::from_millis(10));
    }
}
