//! NDPI files that are not committed: over 4 GB (sparse), and the fixtures with something broken in them.

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::*;
use crate::slide::Level;
use crate::slide::Slide;
use crate::slide::region::{Region, read_region};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/multi/ndpi_422.ndpi");

fn fixture() -> Vec<u8> {
    std::fs::read(FIXTURE).expect("fixture")
}

fn open_bytes(bytes: &[u8]) -> Result<Slide> {
    let temp = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(temp.path(), bytes).expect("writes");
    Slide::open(temp.path())
}

fn pixels(slide: &Slide, level: usize, scale: Scale) -> Result<Vec<u8>> {
    let Level { width, height, .. } = slide.info().levels[level];
    let (width, height) = (width.div_ceil(scale.divisor()), height.div_ceil(scale.divisor()));
    let region = Region { level, scale, x: 0, y: 0, width, height };
    read_region(slide.reader.as_ref(), &region, &mut Scratch::default())
}

fn number(bytes: &[u8], at: usize, size: usize) -> usize {
    bytes[at..at + size].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
}

/// An entry of a directory: its place, its tag, whether its values stand apart.
type Entry = (usize, u16, bool);

/// Where the directories stand, and the entries of each.
fn directories(bytes: &[u8]) -> Vec<(usize, Vec<Entry>)> {
    let (mut out, mut at) = (Vec::new(), number(bytes, 4, 8));
    while at != 0 {
        let count = number(bytes, at, 2);
        let entry = |i: usize| {
            let at = at + 2 + 12 * i;
            let size = [1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8][number(bytes, at + 2, 2)];
            (at, number(bytes, at, 2) as u16, size * number(bytes, at + 4, 4) > 4)
        };
        out.push((at, (0..count).map(entry).collect()));
        at = number(bytes, at + 2 + 12 * count, 8);
    }
    out
}

/// The place of a tag's values in the first directory.
fn values(bytes: &[u8], wanted: u16) -> usize {
    let (_, entries) = &directories(bytes)[0];
    let (at, _, apart) = *entries.iter().find(|(_, tag, _)| *tag == wanted).expect("the tag is there");
    if apart { number(bytes, at + 8, 4) } else { at + 8 }
}

#[test]
fn the_fixture_has_the_levels_of_focal_plane_0() {
    let slide = Slide::open(FIXTURE.as_ref()).expect("opens");
    let info = slide.info();
    let levels: Vec<_> = info.levels.iter().map(|l| (l.block_width, l.block_height, l.downsample)).collect();
    assert_eq!(levels, [(128, 512, 1.0), (128, 512, 2.0), (64, 264, 4.0)]);
    assert_eq!((info.objective_power, &info.associated_images[..]), (Some(20.0), &["macro".into(), "map".into()][..]));
    assert_eq!(
        info.identifying_fields,
        [
            "tiff.DateTime",
            "hamamatsu.Reference",
            "hamamatsu.ScannerSerialNumber",
            "hamamatsu.Created",
            "hamamatsu.NDP.S/N"
        ]
    );
    assert!(info.notes.iter().any(|n| n.contains("1 pages of other focal planes")), "{:?}", info.notes);
}

#[test]
fn files_over_4_gb_are_read_by_the_high_halves() {
    let mut bytes = fixture();
    for (at, entries) in directories(&bytes) {
        let next = at + 2 + 12 * entries.len();
        if number(&bytes, next, 8) != 0 {
            bytes[next + 4] = 1;
        }
        for (i, (_, tag, apart)) in entries.iter().enumerate() {
            if *apart || *tag == tag::STRIP_OFFSETS {
                bytes[next + 8 + 4 * i] = 1;
            }
        }
    }
    bytes[8] = 1;
    let mut temp = tempfile::NamedTempFile::new().expect("temporary file");
    temp.write_all(&bytes[..12]).expect("writes");
    temp.seek(SeekFrom::Start((1 << 32) + 12)).expect("seeks");
    temp.write_all(&bytes[12..]).expect("writes");
    let (large, small) = (Slide::open(temp.path()).expect("opens"), Slide::open(FIXTURE.as_ref()).expect("opens"));
    assert_eq!((&large.info().levels, &large.info().stated_mpp), (&small.info().levels, &small.info().stated_mpp));
    for level in 0..3 {
        let of = |slide: &Slide| pixels(slide, level, Scale::Full).expect("reads");
        assert_eq!(of(&large), of(&small), "level {level}");
    }
    // Where a high half is lost, the strip lies in the hole.
    let (at, entries) = directories(&fixture())[0].clone();
    let strip = entries.iter().position(|(_, tag, _)| *tag == tag::STRIP_OFFSETS).expect("there");
    let place = (1u64 << 32) + (at + 2 + 12 * entries.len() + 8 + 4 * strip) as u64;
    temp.as_file().write_all_at(&[0; 4], place).expect("writes");
    assert!(matches!(Slide::open(temp.path()), Err(Error::Damaged(_))));
}

#[test]
fn frames_without_sizes_and_tables_without_truth_give_the_same_pixels() {
    let original = Slide::open(FIXTURE.as_ref()).expect("opens");
    let wanted = pixels(&original, 0, Scale::Full).expect("reads");
    let mut bytes = fixture();
    let strip = number(&bytes, values(&bytes, tag::STRIP_OFFSETS), 4);
    let frame = strip + bytes[strip..].windows(2).position(|w| w == [0xff, 0xc0]).expect("a frame");
    bytes[frame + 5..frame + 9].fill(0);
    let slide = open_bytes(&bytes).expect("opens");
    assert!(pixels(&slide, 0, Scale::Full).expect("reads") == wanted, "without sizes");
    let table = values(&bytes, tag::NDPI_MCU_STARTS);
    bytes[table + 40] ^= 1;
    bytes[table + 4 * 259] ^= 3;
    let slide = open_bytes(&bytes).expect("opens");
    assert!(pixels(&slide, 0, Scale::Full).expect("reads") == wanted, "searched");
}

#[test]
fn blocks_are_reduced_by_the_decoder() {
    let slide = Slide::open(FIXTURE.as_ref()).expect("opens");
    let mean = |pixels: Vec<u8>| pixels.iter().map(|v| f64::from(*v)).sum::<f64>() / pixels.len() as f64;
    for level in 0..3 {
        let full = mean(pixels(&slide, level, Scale::Full).expect("reads"));
        for scale in [Scale::Half, Scale::Quarter, Scale::Eighth] {
            let reduced = mean(pixels(&slide, level, scale).expect("reads"));
            assert!((full - reduced).abs() < 3.0, "level {level} at {scale:?}: {reduced}, {full} at full size");
        }
    }
}

#[test]
fn damage_is_told_in_words() {
    // A restart marker lost in the middle of the strip: its block fails, the others are read.
    let mut bytes = fixture();
    let strip = number(&bytes, values(&bytes, tag::STRIP_OFFSETS), 4);
    let table = values(&bytes, tag::NDPI_MCU_STARTS);
    // Intervals 0, 2, 4... make the left blocks; entry 7 ends interval 6.
    let start = number(&bytes, table + 4 * 7, 4);
    bytes[strip + start - 1] = 0;
    let slide = open_bytes(&bytes).expect("opens");
    let failed = |col, row| {
        let (mut out, at) = (vec![0; 128 * 512 * 3], BlockAt { level: 0, row, col });
        slide.reader.decode_block(at, Scale::Full, &mut Scratch::default(), &mut out, 128 * 3).err()
    };
    assert!(matches!(failed(0, 0), Some(Error::Block { col: 0, row: 0, .. })));
    assert!(failed(1, 0).is_none() && failed(0, 1).is_none() && failed(0, 2).is_none());

    let words = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fixture();
        change(&mut bytes);
        open_bytes(&bytes).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let place = values(&fixture(), tag::STRIP_BYTE_COUNTS);
    assert!(words(&|b| b[place + 3] = 0x7f).contains("cut short"));
    let place = values(&fixture(), tag::STRIP_OFFSETS);
    assert!(words(&|b| b[place] ^= 1).contains("not a JPEG stream"));
    // 4096 times as wide: more intervals than the strip has bytes.
    let place = values(&fixture(), tag::IMAGE_WIDTH);
    assert!(words(&|b| b[place + 2] = 0x10).contains("restart intervals in"));
    let end = fixture().len() / 2;
    assert!(words(&|b| b.truncate(end)).contains("past the file's end"));
}
