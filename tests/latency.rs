//! Slides on storage where every read takes 5 ms: the same bytes, of few and long reads (`tests/shim/faults.c`).
//! What that costs in time is measured by `benches/latency.sh`.

mod common;
#[path = "common/shim.rs"]
mod shim;

use std::fs;
use std::path::Path;

use common::{contents_and_ids, files, real_slide, root, text};

#[test]
fn slow_storage_is_read_in_few_long_pieces() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let model = directory.path().join("tiny.onnx");
    common::script("make_test_encoder.py", &[text(&model)], b"");
    let testdata = root().join("testdata");
    // The slide's files, and which part of the reads is left at most. Small ones are open after a few reads.
    for (name, from, most) in [
        ("aperio", vec![real_slide()], 0.2),
        (
            "dicom",
            files(&testdata.join("dicom/three_levels"))
                .iter()
                .map(|f| testdata.join("dicom/three_levels").join(f))
                .collect(),
            0.9,
        ),
        ("ndpi", vec![testdata.join("multi/ndpi_422.ndpi")], 0.6),
    ] {
        let (slides, counts) = (directory.path().join(name), directory.path().join("counts"));
        fs::create_dir(&slides).expect("creates");
        for file in &from {
            fs::copy(file, slides.join(file.file_name().expect("a name"))).expect("copies");
        }
        let rule = format!("read,{},1,1,0", text(&slides));
        let reads = |settings: &[(&str, &str)], out: &Path| {
            let settings = [settings, &[("FAULTS", rule.as_str()), ("FAULTS_COUNT", text(&counts))]].concat();
            let words = ["embed", text(&slides), "-o", text(out), "--encoder", text(&model)];
            let words = [&words[..], &["--tissue", "none", "--mpp", "0.5"]].concat();
            let (code, said) = shim::run_faulty(&words, &settings)?;
            assert_eq!(code, Some(0), "{said}");
            let count = fs::read_to_string(&counts).expect("counted");
            Some(count.trim().parse::<u32>().expect("a number"))
        };
        let (plain, slow) = (directory.path().join("plain"), directory.path().join("slow"));
        let Some(usual) = reads(&[], &plain) else { return };
        let few =
            reads(&[("SLOW", text(&slides)), ("SLOW_US", "5000"), ("SLOW_MBPS", "100")], &slow).expect("as before");
        println!("{name}: {usual} reads, {few} where they are slow");
        assert!(f64::from(few) <= most * f64::from(usual), "{name}: {few} of {usual} reads");
        assert!(contents_and_ids(&plain) == contents_and_ids(&slow), "{name}");
        [plain, slow].iter().for_each(|out| fs::remove_dir_all(out).expect("removes"));
    }
}
