//! Imports between rooms go downward only (ARCHITECTURE.md, "Rooms").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rooms from the bottom up. A room may import from itself and from lower floors.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["digest"],
    &["icc", "resample", "runtime"],
    &["codec", "record", "tissue"],
    &["slide"],
    &["tiling", "encoder"],
    &["features"],
    &["pipeline"],
    &["export", "report"],
    &["job"],
    &["audit", "view"],
    &["cli"],
];

fn sources(directory: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn imports_go_downward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floor: BTreeMap<&str, usize> =
        FLOORS.iter().enumerate().flat_map(|(i, rooms)| rooms.iter().map(move |r| (*r, i))).collect();
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in files {
        let inside = file.strip_prefix(&root).expect("below src");
        let first = inside.iter().next().expect("has a name").to_string_lossy();
        let room = first.trim_end_matches(".rs").to_string();
        if room == "main" || room == "lib" {
            continue;
        }
        let own = *floor.get(room.as_str()).unwrap_or_else(|| panic!("{room} has no floor in this test"));
        let text = std::fs::read_to_string(&file).expect("readable");
        for (number, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let other: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(&theirs) = floor.get(other.as_str()) else { continue };
                checked += 1;
                if other != room && theirs >= own {
                    wrong.push(format!("{}:{}: {room} imports {other}", inside.display(), number + 1));
                }
            }
        }
    }
    assert!(checked > 50, "the test found only {checked} imports: it looks at the wrong place");
    assert!(wrong.is_empty(), "imports that go upward:\n{}", wrong.join("\n"));
}

#[test]
fn slides_and_encoders_meet_only_in_the_pipeline() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (room, stranger) in [("slide", "crate::encoder"), ("encoder", "crate::slide"), ("tissue", "crate::encoder")] {
        let mut files = Vec::new();
        sources(&root.join(room), &mut files);
        assert!(!files.is_empty());
        for file in files {
            let text = std::fs::read_to_string(&file).expect("readable");
            assert!(!text.contains(stranger), "{} uses {stranger}", file.display());
        }
    }
}
