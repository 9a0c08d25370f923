//! placeholder
use std::path::PathBuf;
pub fn library_candidates(_stem: &str) -> Vec<PathBuf> { vec![] }
