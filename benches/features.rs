//! How fast rows of features become a file: one thread, rounding, compressing, syncing and publishing included.
//!
//! `cargo bench --bench features -- [--rows 20000] [--dim 1536] [--rounds 5] [--dir DIR]`; values are normal deviates, which
//! compress no better than real embeddings. One JSON line per precision, the best and the median of the rounds.

use std::path::PathBuf;
use std::time::Instant;

use paraffin::features::{CoordsAttributes, EncoderAttributes, FeatureFile, FeatureWriter, Precision, RootAttributes};
use paraffin::record::publish::TempFile;
use serde_json::json;

fn option<T: std::str::FromStr>(name: &str, default: T) -> T {
    let words: Vec<String> = std::env::args().collect();
    let value = words.iter().position(|w| w == name).and_then(|i| words.get(i + 1)).map(|w| w.parse());
    match value {
        None => default,
        Some(Ok(value)) => value,
        Some(Err(_)) => panic!("{name}: no number or path"),
    }
}

/// Normal deviates, by the sum of 12 uniform ones.
fn deviates(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

fn main() {
    let (rows, dim, rounds) =
        (option("--rows", 20_000_usize), option("--dim", 1536_usize), option("--rounds", 5_usize));
    let directory = option("--dir", PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    // A few hundred rows, again and again: all of them would not fit where a pipeline hands them over.
    let values = deviates(512 * dim);
    for precision in Precision::ALL {
        let mut rates = Vec::new();
        let mut bytes = 0;
        for _ in 0..rounds {
            let name = format!("bench-features-{}.h5", precision.name());
            let coords = CoordsAttributes {
                patch_size: 224,
                patch_size_level0: 448,
                level0_magnification: 40.0,
                target_magnification: 20.0,
                overlap: 0,
                level0_width: 100_000,
                level0_height: 100_000,
                name: "bench".into(),
            };
            let root = RootAttributes {
                contract_sha256: "0".repeat(64),
                encoder: Some(EncoderAttributes { id: "bench".into(), sha256: "0".repeat(64) }),
                mpp_level0: 0.25,
                mpp_target: 0.5,
            };
            let start = Instant::now();
            let temp = TempFile::new_in(&directory, &name).expect("a temporary file");
            let mut file = Box::new(FeatureFile::create(temp, dim, precision, coords, &root).expect("a file"));
            for row in 0..rows {
                let at = row % 512 * dim;
                file.push(&values[at..at + dim], &[[row as i64 % 200 * 448, row as i64 / 200 * 448]]).expect("a row");
            }
            let published = file.finish().expect("published");
            rates.push(rows as f64 / start.elapsed().as_secs_f64());
            bytes = published.bytes;
            std::fs::remove_file(directory.join(&name)).expect("removed");
        }
        rates.sort_by(f64::total_cmp);
        let result = json!({
            "precision": precision.name(), "rows": rows, "dim": dim, "rows_per_second": rates.last(),
            "median": rates[rates.len() / 2], "bytes_a_row": bytes as f64 / rows as f64,
        });
        println!("{result}");
    }
}
