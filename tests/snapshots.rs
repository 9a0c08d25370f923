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
    let picture = directory.path().join("thumbnail.jpg");
    says(&["info", common::text(&common::real_slide()), "--thumbnail", common::text(&picture)]);
    let image = image::open(&picture).expect("a picture");
    assert!(image.width().max(image.height()) >= 700, "{} x {}", image.width(), image.height());
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
    for command in ["embed", "tiles", "info", "verify", "encoders"] {
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
