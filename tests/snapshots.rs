//! What people read: `info`, `encoders`, and the help texts. Changes are looked at with `cargo insta review`.

mod common;

fn says(words: &[&str]) -> String {
    let output = common::run(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn info_tells_what_a_slide_is() {
    let slide = common::real_slide();
    insta::assert_snapshot!("info", says(&["info", common::text(&slide)]));
    insta::assert_snapshot!("info_json", says(&["info", "--json", common::text(&slide)]));
}

#[test]
fn info_writes_a_thumbnail_without_metadata() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let slide = common::real_slide();
    for (name, words, longest) in [("a.jpg", &[][..], 1024), ("b.JPEG", &["--thumbnail-px", "200"], 200)] {
        let picture = directory.path().join(name);
        let thumbnail = [&["info", common::text(&slide), "--thumbnail", common::text(&picture)], words].concat();
        says(&thumbnail);
        let image = image::open(&picture).expect("a picture");
        let got = image.width().max(image.height());
        assert!(got <= longest && got * 10 >= longest * 7, "{} x {}", image.width(), image.height());
        let bytes = std::fs::read(&picture).expect("readable");
        for marker in [&b"Exif"[..], b"http", b"Aperio", b"ICC_PROFILE"] {
            assert!(!bytes.windows(marker.len()).any(|w| w == marker), "metadata in the thumbnail");
        }
        assert_eq!(common::run(&thumbnail).status.code(), Some(2), "written once only");
    }
}

#[test]
fn a_thumbnail_never_takes_another_files_place() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let slide = directory.path().join("slide.jpg");
    std::fs::copy(common::real_slide(), &slide).expect("copies");
    let before = std::fs::read(&slide).expect("readable");
    let png = directory.path().join("picture.png");
    for path in [&slide, &png] {
        let output = common::run(&["info", common::text(&slide), "--thumbnail", common::text(path)]);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty(), "refused before anything is read");
    }
    assert_eq!(std::fs::read(&slide).expect("readable"), before);
    assert!(!png.exists());
}

#[test]
fn encoders_are_listed_with_what_everyone_must_know() {
    insta::assert_snapshot!("encoders", says(&["encoders", "list"]));
    let card: serde_json::Value =
        serde_json::from_str(&says(&["encoders", "show", "efficientnet-lite0", "--json"])).expect("JSON");
    assert_eq!(card["output"]["dim"], 1280);
}

#[test]
fn help_texts() {
    for command in [
        "embed", "tiles", "plan", "status", "merge", "info", "verify", "audit", "ids", "export", "heatmap", "report",
        "view", "manifest", "compat", "encoders",
    ] {
        insta::assert_snapshot!(format!("help_{command}"), says(&[command, "--help"]));
    }
    insta::assert_snapshot!("help", says(&["--help"]));
}

#[test]
fn completions_and_manual_pages_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(says(&["completions", shell]).contains("paraffin"), "{shell}");
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    says(&["manpages", common::text(directory.path())]);
    let page = std::fs::read_to_string(directory.path().join("paraffin-embed.1")).expect("a page");
    assert!(page.contains(".TH") && page.contains("target\\-mpp"));
}

#[test]
fn doctor_finds_the_libraries_that_setup_installed() {
    let said = says(&["doctor"]);
    assert!(said.contains("ONNX Runtime  1.31.1") && said.contains("cpu         works"), "{said}");
    assert!(said.contains("OpenSlide     4.0.1"), "{said}");
}
