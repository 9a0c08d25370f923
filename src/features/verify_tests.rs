//! Every planted damage is found, and nothing else.

use std::fs;

use super::*;
use crate::features::{
    CoordsAttributes, EncoderAttributes, FeatureFile, FeatureWriter, QcTable, RootAttributes, write_patches,
};
use crate::record::contract::{claim_contract, tests as contracts};
use crate::record::publish::TempFile;
use crate::record::{FileEntry, examples, record_path};

const GRID: &str = "20x_256px_0px_overlap";
const ROWS: usize = 300;

fn coords_attributes(id: &str) -> CoordsAttributes {
    CoordsAttributes {
        patch_size: 256,
        patch_size_level0: 512,
        level0_magnification: 40.0,
        target_magnification: 20.0,
        overlap: 0,
        level0_width: 100_000,
        level0_height: 100_000,
        name: id.into(),
    }
}

/// Writes features whose first coordinate is `x`, with a record, under whatever contract.
fn features(grid: &Path, id: &str, contract_sha256: &str, dim: usize, x: i64) {
    let path = format!("features_test/{id}.h5");
    let temp = TempFile::new_in(&grid.join("features_test"), &format!("{id}.h5")).unwrap();
    let encoder = EncoderAttributes { id: "test".into(), sha256: "cd".repeat(32) };
    let root = RootAttributes {
        contract_sha256: contract_sha256.into(),
        encoder: Some(encoder),
        mpp_level0: 0.25,
        mpp_target: 0.5,
    };
    let mut file = FeatureFile::create(temp, dim, Precision::F32M10, coords_attributes(id), &root).unwrap();
    file.push(&vec![0.5; ROWS * dim], &coords(x)).unwrap();
    file.finish().unwrap();
    let entry = FileEntry::of(grid, &path).unwrap();
    examples::record(id, "features_test", contract_sha256, vec![entry], ROWS as u64).write(grid).unwrap();
}

fn coords(x: i64) -> Vec<[i64; 2]> {
    (0..ROWS as i64).map(|i| [x + 512 * i, 512]).collect()
}

/// OUT with the slides a to f, and the sha256 of the features' contract.
fn site() -> (tempfile::TempDir, String) {
    let out = tempfile::tempdir().unwrap();
    let grid = out.path().join(GRID);
    let patches_sha = claim_contract(&grid, "patches", &contracts::patches()).unwrap();
    let sha = claim_contract(&grid, "features_test", &contracts::features(8)).unwrap();
    fs::create_dir(grid.join("patches")).unwrap();
    fs::create_dir(grid.join("features_test")).unwrap();
    let root =
        RootAttributes { contract_sha256: patches_sha.clone(), encoder: None, mpp_level0: 0.25, mpp_target: 0.5 };
    for id in ["a", "b", "c", "d", "e", "f"] {
        let name = format!("{id}_patches.h5");
        let temp = TempFile::new_in(&grid.join("patches"), &name).unwrap();
        let qc = QcTable { columns: &["tissue"], rows: &[0.5; ROWS], mpp: [8.0, 4.0] };
        write_patches(temp, &coords(0), &qc, coords_attributes(id), &root).unwrap();
        let entry = FileEntry::of(&grid, &format!("patches/{name}")).unwrap();
        examples::record(id, "patches", &patches_sha, vec![entry], ROWS as u64).write(&grid).unwrap();
        features(&grid, id, &sha, 8, 0);
    }
    (out, sha)
}

fn problems(out: &Path) -> Vec<(String, String)> {
    let place = format!("{GRID}/");
    let strip = |p: Problem| (p.what.strip_prefix(&place).unwrap().to_owned(), p.problem);
    verify(out).unwrap().problems.into_iter().map(strip).collect()
}

#[test]
fn a_sound_site_has_no_problems() {
    let (out, _) = site();
    let report = verify(out.path()).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.records, report.files, report.rows), (12, 12, 6 * ROWS as u64));
    assert_eq!(verify(&out.path().join(GRID)).unwrap(), report);
    assert!(verify(&out.path().join(GRID).join("patches")).is_err());
}

#[test]
fn each_damage_is_found() {
    let (out, sha) = site();
    let grid = out.path().join(GRID);
    let at = |name: &str| grid.join(name);
    // A flipped byte, with the time of modification put back: only reading finds it.
    let mut bytes = fs::read(at("features_test/a.h5")).unwrap();
    let time = fs::metadata(at("features_test/a.h5")).unwrap().modified().unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(at("features_test/a.h5"), &bytes).unwrap();
    let file = fs::File::options().write(true).open(at("features_test/a.h5")).unwrap();
    file.set_modified(time).unwrap();
    // Cut off.
    let bytes = fs::read(at("patches/b_patches.h5")).unwrap();
    fs::write(at("patches/b_patches.h5"), &bytes[..100]).unwrap();
    // Whole, but of other tiles, of another width, and under another contract.
    features(&grid, "c", &sha, 8, 7);
    features(&grid, "d", &sha, 9, 0);
    features(&grid, "e", &"0".repeat(64), 8, 0);
    // Gone, without a record, and left over.
    fs::remove_file(at("features_test/f.h5")).unwrap();
    fs::remove_file(record_path(&grid, "patches", "f")).unwrap();
    let temp = TempFile::new_in(&at("features_test"), "g.h5").unwrap();
    fs::write(at("records/patches/z.json"), "{}").unwrap();
    let part = format!("features_test/{}", temp.path().file_name().unwrap().to_str().unwrap());

    let found = problems(out.path());
    let expect = [
        (part.as_str(), "unfinished"),
        ("features_test/a.h5", "content"),
        ("features_test/b.h5", "patches file cannot be read"),
        ("features_test/c.h5", "coordinates are not those"),
        ("features_test/d.h5", "dimension is 9, not 8"),
        ("features_test/f.h5", "missing"),
        ("patches/b_patches.h5", "100 bytes"),
        ("patches/f_patches.h5", "no record names it"),
        ("records/features_test/e.json", "another contract"),
        ("records/patches/z.json", "damaged"),
    ];
    assert_eq!(found.len(), expect.len(), "{found:#?}");
    for ((what, problem), (file, words)) in found.iter().zip(expect) {
        assert!(what == file && problem.contains(words), "{what}: {problem}; expected {file}: {words}");
    }
}

#[test]
fn contracts_are_checked() {
    let (out, _) = site();
    let grid = out.path().join(GRID);
    let path = grid.join("contracts/features_test.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"tile_px\": 256", "\"tile_px\": 224")).unwrap();
    let found = problems(out.path());
    assert!(found.iter().any(|(what, p)| what.starts_with("contracts/") && p.contains("its grid is not")));
    assert_eq!(found.iter().filter(|(_, p)| p.contains("another contract")).count(), 6);
    fs::remove_file(&path).unwrap();
    assert_eq!(problems(out.path()), [("contracts/features_test.json".to_owned(), "missing".to_owned())]);
}
