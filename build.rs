//! Makes the list of all cards in `models/`, so that a new card is a new file and nothing else.

use std::fmt::Write;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=models");
    let folder = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("models");
    let entries = std::fs::read_dir(&folder).expect("models/ is there").map(|e| e.expect("readable").path());
    let mut cards: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    cards.sort_by_key(|path| path.file_stem().map(std::ffi::OsStr::to_owned));
    let mut list = String::from("&[\n");
    for path in cards {
        let id = path.file_stem().expect("a file").to_str().expect("plain names");
        writeln!(list, "    ({id:?}, include_str!({path:?})),").expect("a string takes all");
    }
    list.push(']');
    let out = Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets it")).join("cards.rs");
    std::fs::write(out, list).expect("OUT_DIR is writable");
}
