//! Headers that somebody cut or changed: no panic, no hang, no more memory than the file is worth.

use std::path::{Path, PathBuf};

use super::*;
use crate::slide::Slide;
use crate::slide::region::{Region, read_region};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dicom")
}

/// Opens a file and reads a little of every level, if it opens.
fn try_to_read(path: &Path) -> Result<()> {
    let slide = DicomSlide::open(path)?;
    for (number, level) in slide.info.levels.iter().enumerate() {
        let (width, height) = (level.width.min(200), level.height.min(200));
        if u64::from(level.block_width) * u64::from(level.block_height) > 1 << 20 {
            continue;
        }
        let region = Region { level: number, scale: Scale::Full, x: 0, y: 0, width, height };
        read_region(&slide, &region, &mut Scratch::default())?;
    }
    Ok(())
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(directory)
        .into_iter()
        .filter_map(|e| e.ok().map(walkdir::DirEntry::into_path))
        .filter(|p| p.extension().is_some_and(|e| e == "dcm"))
        .collect();
    files.sort();
    files
}

#[test]
fn cut_and_changed_headers_are_errors_or_slides() {
    // More with PARAFFIN_FUZZ_ROUNDS=5000.
    let rounds = std::env::var("PARAFFIN_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40_u64);
    let mut sources = files(&fixtures());
    if let Ok(real) = std::env::var("PARAFFIN_FUZZ_DICOM") {
        sources.extend(files(Path::new(&real)));
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("x.dcm");
    let mut seed = 7_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below.max(1)
    };
    let (mut opened, mut refused, mut longest) = (0, 0, std::time::Duration::ZERO);
    for source in sources {
        let bytes = std::fs::read(&source).expect("readable");
        let parsed = parse::walk(&Source::open(&source).expect("opens"), |_, _, _| Ok(true)).expect("sound");
        let header = parsed.pixel_data.map_or(bytes.len(), |p| p.offset as usize + 16).min(bytes.len());
        for round in 0..rounds {
            let mut changed = bytes.clone();
            for _ in 0..1 + random(4) {
                let at = if round % 4 == 3 { random(changed.len()) } else { random(header) };
                changed[at] = match random(4) {
                    0 => 0xff,
                    1 => 0,
                    2 => changed[at] ^ (1 << random(8)),
                    _ => random(256) as u8,
                };
            }
            if round % 7 == 6 {
                changed.truncate(random(changed.len()));
            }
            std::fs::write(&path, changed).expect("writes");
            let started = std::time::Instant::now();
            match try_to_read(&path) {
                Ok(()) => opened += 1,
                Err(e) => {
                    refused += 1;
                    assert!(!e.to_string().is_empty());
                }
            }
            longest = longest.max(started.elapsed());
        }
    }
    println!("{opened} read, {refused} refused, the slowest took {longest:?}");
    assert!(opened > 0 && refused > 0);
    assert!(longest.as_secs() < 10, "{longest:?}");
}

/// A data set in explicit VR after a minimal file meta.
fn dicom(data: &[u8]) -> tempfile::NamedTempFile {
    let mut bytes = vec![0; 128];
    bytes.extend_from_slice(b"DICM\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0");
    bytes.extend_from_slice(data);
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), bytes).expect("writes");
    file
}

fn words(data: &[u8]) -> String {
    let file = dicom(data);
    let source = Source::open(file.path()).expect("opens");
    match header::read(&source) {
        Ok((header, _)) => format!("{:?} {:?}", header.brief.kind, header.frames),
        Err(e) => e.to_string(),
    }
}

#[test]
fn broken_rules_are_named() {
    let nested = |depth: usize| b"\x40\0\x60\x05SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff".repeat(depth);
    assert!(words(&nested(1000)).contains("deep"));
    assert!(words(&nested(3)).contains("past its end"));
    assert!(words(b"\x08\0\x08\0CS\xff\xff").contains("past its end"));
    assert!(words(b"\x08\0\x08\0OB\0\0\xff\xff\xff\xff").contains("undefined length"));
    assert!(words(b"\x08\0\x08\0\0\0\0\0").contains("value representation"));
    assert!(words(b"\xfe\xff\0\xe0\0\0\0\0").contains("item"));
    assert!(words(b"\x08\0").contains("too early"));
    // An item longer than its sequence.
    assert!(words(b"\x40\0\x60\x05SQ\0\0\x08\0\0\0\xfe\xff\0\xe0\x09\0\0\0abcdefghi").contains("past its end"));
    // A sequence of nothing, one item of nothing, and delimiters, are all fine.
    let empty =
        b"\x40\0\x60\x05SQ\0\0\0\0\0\0\x40\0\x60\x05SQ\0\0\x08\0\0\0\xfe\xff\0\xe0\0\0\0\0\x28\0\x08\0IS\x02\x0012";
    assert_eq!(words(empty), "Other 12");
    assert_eq!(words(&[&nested(1)[..], b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"].concat()), "Other 1");
    assert_eq!(words(b"\x08\0\x08\0CS\x14\0ORIGINAL\\PRIMARY\\LAB"), "Other 1");
    assert_eq!(words(b"\x08\0\x08\0CS\x18\0ORIGINAL\\PRIMARY\\VOLUME "), "Volume 1");
}

#[test]
fn resolution_is_stated_in_rows_and_columns() {
    let mut notes = Vec::new();
    let header = Header { spacing: Some((0.0005, 0.00025)), ..Header::default() };
    let stated = stated_mpp(&header, (1000, 1000), &mut notes).expect("stated");
    assert_eq!((stated.x, stated.y, notes.len()), (0.25, 0.5, 0));
    let volume = Header { volume: (Some(0.25), Some(0.25)), ..Header::default() };
    assert_eq!(stated_mpp(&volume, (1000, 500), &mut notes).map(|s| (s.x, s.y)), Some((0.25, 0.5)));
    let both = Header { volume: (Some(0.3), Some(0.5)), ..header };
    assert_eq!(stated_mpp(&both, (1000, 1000), &mut notes).map(|s| s.x), Some(0.25));
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert_eq!(stated_mpp(&Header::default(), (1, 1), &mut notes), None);
}

#[test]
fn only_reductions_are_levels() {
    assert!(is_reduction((1000, 600), (250, 150), false) && is_reduction((1000, 600), (100, 62), false));
    assert!(!is_reduction((1000, 600), (250, 250), false) && !is_reduction((1000, 600), (2000, 1200), false));
    assert!(is_reduction((99_999, 70_001), (1024, 717), true));
    assert!(!is_reduction((1000, 600), (100, 62), true) && !is_reduction((1000, 600), (1000, 600), true));
}

#[test]
fn directories_and_single_files_open_the_same_series() {
    let by_directory = Slide::open(&fixtures().join("three_levels")).expect("opens");
    for file in files(&fixtures().join("three_levels")) {
        let by_file = Slide::open(&file).expect("opens");
        assert_eq!(by_file.info().levels, by_directory.info().levels);
        assert_eq!(by_file.info().associated_images, by_directory.info().associated_images);
    }
    assert_eq!(by_directory.info().associated_images, ["thumbnail", "label", "macro"]);
    assert_eq!(by_directory.info().objective_power, Some(20.0));
    let fields = &by_directory.info().identifying_fields;
    for name in ["dicom.PatientName", "dicom.ContainerIdentifier", "dicom.SpecimenIdentifier", "dicom.StudyDate"] {
        assert!(fields.iter().any(|f| f == name), "{name}: {fields:?}");
    }
    assert!(!fields.iter().any(|f| f == "dicom.PatientID"), "it is empty");
    let none = Slide::open(&fixtures()).err().expect("refused").to_string();
    assert!(none.contains("without DICOM slides"), "{none}");
}

#[test]
fn slides_open_at_once() {
    let path = fixtures().join("three_levels/a_half.dcm");
    let best = (0..20).map(|_| {
        let started = std::time::Instant::now();
        DicomSlide::open(&path).expect("opens");
        started.elapsed()
    });
    let best = best.min().expect("twenty");
    println!("six files in {best:?}");
    assert!(best.as_millis() < 5, "{best:?}");
}

#[test]
fn an_incomplete_image_is_damaged() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let part = files(&fixtures().join("concatenation")).pop().expect("the second part");
    let copy = directory.path().join("part.dcm");
    std::fs::copy(part, &copy).expect("copies");
    let error = Slide::open(&copy).err().expect("refused");
    assert!(matches!(&error, Error::Damaged(why) if why.contains("concatenation")), "{error}");
    let whole = files(&fixtures().join("three_levels"));
    let bytes = std::fs::read(&whole[0]).expect("readable");
    std::fs::write(&copy, &bytes[..bytes.len() - 4000]).expect("writes");
    let read = try_to_read(&copy);
    assert!(read.is_err(), "cut short");
}

/// JPEG-LS and RLE frames that say something else than the header, or end too early.
#[test]
fn a_frame_that_contradicts_the_header_is_an_error() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("x.dcm");
    let read = |folder: &str, what: &[u8], at: usize, with: &[u8]| {
        let mut bytes = std::fs::read(&files(&fixtures().join(folder))[0]).expect("readable");
        let place = bytes.windows(what.len()).rposition(|w| w == what).expect("there") + at;
        bytes[place..place + with.len()].copy_from_slice(with);
        std::fs::write(&path, bytes).expect("writes");
        try_to_read(&path).map_err(|e| e.to_string())
    };
    let frame: &[u8] = &[0xff, 0xf7, 0, 17, 8, 0, 32, 0, 32, 3];
    let grey: &[u8] = &[0xff, 0xf7, 0, 11, 8, 0, 32, 0, 32, 1];
    for (folder, what, at, with, why) in [
        ("jpegls_pixels", frame, 5, &[0xff; 4][..], "65535 x 65535 px"),
        ("jpegls_planes", frame, 9, &[1], "1 components, 3 expected"),
        ("jpegls_grey", grey, 9, &[3], "3 components, 1 expected"),
        ("jpegls_near", &[0xff, 0xda, 0, 12, 3], 20, &[0xff, 0xd9], "JPEG-LS"),
        ("rle", &[3, 0, 0, 0, 64, 0, 0, 0], 0, &[2], "2 segments, 3 expected"),
        ("rle_grey", &[1, 0, 0, 0, 64, 0, 0, 0], 0, &[3], "3 segments, 1 expected"),
        ("rle_ybr", &[3, 0, 0, 0, 64, 0, 0, 0], 8, &[0xff; 4], "outside the frame"),
    ] {
        assert_eq!(read(folder, what, 0, &[]), Ok(()), "{folder} as it is");
        let error = read(folder, what, at, with).expect_err(folder);
        assert!(error.contains(why), "{folder}: {error}");
    }
}
