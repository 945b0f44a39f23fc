//! What is written down runs: every example configuration, every block of YAML in the documentation, the table of keys.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::path::{Path, PathBuf};
use std::process::Command;

use floodway_tests::{Authority, Kind, binary, project_folder, run};

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(project_folder().join(folder)).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

fn check(path: &Path, what: &str) {
    let output = Command::new(binary()).args(["check", "--strict", "-c"]).arg(path).env("DC", "eu1").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{what}:\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_example_passes_strictly() {
    let folder = tempfile::tempdir().unwrap();
    // The files that their TLS is made of.
    let issued = Authority::new(folder.path()).issue("www", &["www.example.com"], Kind::Ecdsa);
    std::fs::rename(issued.cert, folder.path().join("www.pem")).unwrap();
    let examples = files("configs", "yaml");
    assert!(examples.len() >= 4);
    for path in examples {
        let copy = folder.path().join(path.file_name().unwrap());
        std::fs::copy(&path, &copy).unwrap();
        check(&copy, &path.display().to_string());
    }
}

/// A block of YAML is a whole configuration; set-up and fragments are written as text. Beside it are the files that TLS is
/// made of: `ca.pem`, and certificates with keys by the names `main` and `client`.
#[test]
fn every_block_of_yaml_in_the_documentation_passes() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    for name in ["main", "client"] {
        let issued = authority.issue(name, &["example.com"], Kind::Ecdsa);
        std::fs::rename(issued.cert, folder.path().join(format!("{name}.pem"))).unwrap();
    }
    let mut checked = 0;
    for path in files("docs", "md").into_iter().chain([project_folder().join("README.md")]) {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, block) in text.split("```yaml\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap();
            let file = folder.path().join("block.yaml");
            std::fs::write(&file, block).unwrap();
            check(&file, &format!("block {} of {}:\n{block}", number + 1, path.display()));
            checked += 1;
        }
    }
    assert!(checked >= 5, "only {checked} blocks");
}

#[test]
fn the_table_of_keys_in_the_documentation_is_the_one_in_the_program() {
    let table = String::from_utf8(run(&["schema", "--markdown"]).stdout).unwrap();
    let page = std::fs::read_to_string(project_folder().join("docs/configuration.md")).unwrap();
    assert!(
        page.contains(&table),
        "docs/configuration.md is behind: put the output of `floodway schema --markdown` into it"
    );
}

/// Blocks of shell in README and documentation run as they stand, from the project's folder; set-up is written as text.
#[test]
fn every_block_of_shell_runs() {
    let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut ran = 0;
    for page in files("docs", "md").into_iter().chain([project_folder().join("README.md")]) {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("```sh\n").skip(1) {
            let script = block.split("```").next().unwrap();
            let mut shell = Command::new("bash");
            shell.args(["-euo", "pipefail", "-c", script]).current_dir(project_folder()).env("PATH", &path);
            let output = shell.output().unwrap();
            assert!(
                output.status.success(),
                "{}:\n{script}\n{}",
                page.display(),
                String::from_utf8_lossy(&output.stderr)
            );
            ran += 1;
        }
    }
    assert!(ran >= 2, "only {ran} blocks");
}
