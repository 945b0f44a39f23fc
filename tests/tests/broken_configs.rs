//! Broken configurations, each with what is said about it: tests/configs/broken/NAME.yaml and NAME.txt. With
//! `FLOODWAY_WRITE_EXPECTED=1` the texts are written anew, to be read before they are committed.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::path::{Path, PathBuf};
use std::process::Command;

use floodway_tests::{binary, project_folder};

fn cases() -> Vec<PathBuf> {
    let folder = project_folder().join("tests/configs/broken");
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut cases: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    cases.sort();
    cases
}

fn check(case: &Path, more: &[&str]) -> std::process::Output {
    let mut command = Command::new(binary());
    command
        .current_dir(case.parent().unwrap())
        .env("LC_ALL", "C")
        .arg("check")
        .args(more)
        .arg("-c")
        .arg(case.file_name().unwrap());
    command.output().unwrap()
}

#[test]
fn each_is_refused_in_its_own_words() {
    let cases = cases();
    assert!(cases.len() >= 80, "{} cases", cases.len());
    let write = std::env::var_os("FLOODWAY_WRITE_EXPECTED").is_some();
    let mut wrong = Vec::new();
    for case in &cases {
        let output = check(case, &[]);
        assert_eq!(output.status.code(), Some(2), "{} is refused with exit code 2", case.display());
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = case.with_extension("txt");
        if write {
            std::fs::write(&expected, &said).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} say something else:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn many_problems_of_different_phases_are_told_at_once() {
    let mut several = 0;
    for case in cases() {
        let output = check(&case, &["--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["ok"], false);
        let problems = answer["problems"].as_array().unwrap();
        let errors: Vec<_> = problems.iter().filter(|p| p["severity"] == "error").collect();
        assert!(!errors.is_empty(), "{}", case.display());
        for problem in problems {
            assert!(problem["message"].as_str().is_some_and(|m| !m.is_empty()), "{problem}");
            assert!(
                problem["line"].as_u64().is_some_and(|n| n >= 1) && problem["column"].as_u64().is_some_and(|n| n >= 1),
                "{problem}"
            );
            assert!(
                problem["file"].as_str().is_some_and(|f| f.ends_with(".yaml") || f.ends_with(".ranges")),
                "{problem}"
            );
        }
        // Phases: what the table of keys does not know, values that are none, and names or numbers that make no sense together.
        let phase = |p: &&serde_json::Value| {
            let message = p["message"].as_str().unwrap_or_default();
            match message {
                m if m.contains("unknown key")
                    || m.contains("not in this version")
                    || m.contains("has no ")
                    || m.contains("twice") =>
                {
                    0
                }
                m if m.contains("given for") => 1,
                _ => 2,
            }
        };
        let phases: std::collections::BTreeSet<_> = errors.iter().map(phase).collect();
        several += usize::from(errors.len() >= 3 && phases.len() >= 2);
    }
    assert!(several >= 20, "only {several} cases have three or more errors of different phases");
}

#[test]
fn check_opens_no_socket() {
    let config = project_folder().join("configs/postgres.yaml");
    let output = Command::new("strace")
        .args(["-f", "-e", "trace=socket,socketpair,bind,connect,listen"])
        .arg(binary())
        .args(["check", "-c"])
        .arg(config)
        .output()
        .expect("strace: ./scripts/test installs it");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let traced = String::from_utf8_lossy(&output.stderr);
    let calls: Vec<_> = traced.lines().filter(|l| l.contains('(')).collect();
    assert!(calls.is_empty(), "{calls:?}");
}
