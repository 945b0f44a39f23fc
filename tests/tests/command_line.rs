//! The words of the command line, and what the process ends with.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use floodway_tests::{Backend, Floodway, binary, connect, free_port, project_folder, run, wait_for};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn exit_codes_tell_what_happened() {
    let good = project_folder().join("configs/postgres.yaml");
    let code = |args: &[&str]| run(args).status.code();
    assert_eq!(code(&["check", "-c", good.to_str().unwrap()]), Some(0));
    assert_eq!(code(&["check", "-c", "/nowhere.yaml"]), Some(2));
    assert_eq!(code(&["run", "-c", "/nowhere.yaml"]), Some(2));
    assert_eq!(code(&["tcp", "nonsense", "127.0.0.1:1"]), Some(2));
    assert_eq!(code(&["frobnicate"]), Some(64));
    assert_eq!(code(&["check", "--frobnicate"]), Some(64));
    assert_eq!(code(&[]), Some(64));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["--version"]), Some(0));
    let later = run(&["top"]);
    assert_eq!(later.status.code(), Some(64));
    assert!(text(&later.stderr).contains("not in this version"));
}

#[test]
fn warnings_pass_unless_strict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, "listeners: { l: { bind: \":1\", forward: p, timeouts: { idle: off } } }\npools: { p: { endpoints: 10.0.0.1:1 }, q: { endpoints: 10.0.0.1:1 } }\nruntime: { max_sessions: 10000000 }\n").unwrap();
    let path = path.to_str().unwrap();
    let lax = run(&["check", "-c", path]);
    assert_eq!((lax.status.code(), text(&lax.stdout).as_str()), (Some(0), "ok\n"));
    for word in ["never ends a silent session", "used by nobody", "more than the limit of open files"] {
        assert!(text(&lax.stderr).contains(word), "{}", text(&lax.stderr));
    }
    assert_eq!(run(&["check", "--strict", "-c", path]).status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&run(&["check", "--json", "-c", path]).stdout).unwrap();
    assert_eq!(json["ok"], true);
    assert!(json["problems"].as_array().unwrap().iter().all(|p| p["severity"] == "warning"));
}

#[test]
fn the_file_comes_from_the_environment_too() {
    let good = project_folder().join("configs/postgres.yaml");
    let output = Command::new(binary()).arg("check").env("FLOODWAY_CONFIG", good).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_effective_configuration_is_valid_and_masks_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, "listeners: { l: { bind: \":1\", forward: p } }\npools: { p: { endpoints: 10.0.0.1:1 } }\nlog: { sessions: { fields: { token: \"${env:SECRET}\" } } }\n").unwrap();
    for args in [&["config"][..], &["config", "--json"]] {
        let output = Command::new(binary()).args(args).arg("-c").arg(&path).env("SECRET", "hunter2").output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let shown = text(&output.stdout);
        assert!(!shown.contains("hunter2") && shown.contains("${env:SECRET}") && shown.contains("default"), "{shown}");
    }
    let shown = Command::new(binary()).arg("config").arg("-c").arg(&path).env("SECRET", "x").output().unwrap().stdout;
    let again = folder.path().join("again.yaml");
    std::fs::write(&again, &shown).unwrap();
    let checked = Command::new(binary()).args(["check", "-c"]).arg(&again).env("SECRET", "x").output().unwrap();
    assert_eq!(checked.status.code(), Some(0), "{}\n{}", text(&shown), text(&checked.stderr));
}

#[test]
fn editors_shells_and_packagers_are_served() {
    let schema: serde_json::Value = serde_json::from_slice(&run(&["schema"]).stdout).unwrap();
    assert_eq!(schema["properties"]["listeners"]["additionalProperties"]["properties"]["forward"]["type"][0], "string");
    assert!(
        schema["properties"]["pools"]["additionalProperties"]["required"]
            .as_array()
            .unwrap()
            .contains(&"endpoints".into())
    );
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&run(&["completions", shell]).stdout).contains("floodway"), "{shell}");
    }
    assert!(text(&run(&["man"]).stdout).contains(".TH floodway 1"));
}

#[test]
fn a_second_run_on_the_same_address_is_refused_not_shared() {
    let backend = Backend::named("a");
    let port = free_port();
    let config = format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:{port}, forward: p }} }}\npools: {{ p: {{ endpoints: \"{}\" }} }}\n",
        backend.address()
    );
    let floodway = Floodway::start(&config);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, &config).unwrap();
    let second = run(&["run", "-c", path.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("in use"), "{said}");
    for _ in 0..20 {
        let mut hello = [0; 2];
        connect(floodway.address("l")).unwrap().read_exact(&mut hello).unwrap();
    }
    assert_eq!(floodway.stop(), Some(0));
}

#[test]
fn the_quick_front_door_needs_no_file() {
    let backend = Backend::echo();
    let port = free_port();
    let mut command = Command::new(binary());
    command.args(["tcp", &format!("127.0.0.1:{port}"), &backend.address().to_string()]);
    command.args(["--balance", "p2c", "--check", "tcp", "--metrics", "127.0.0.1:0", "--log", "json"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.by_ref().map_while(Result::ok).any(|l| l.contains("\"ready\""));
    assert!(ready);
    let mut client = connect(([127, 0, 0, 1], port).into()).unwrap();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    drop(client);
    let status = wait_for("the end", Duration::from_secs(20), || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_demo_tells_what_happened() {
    let output = run(&["demo", "--seconds", "4", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key} of {report}"));
    assert!(number("sessions") > 100);
    assert_eq!(number("sessions_turned_away"), 0, "{report}");
    // Whatever a client saw was a session that the stopped endpoint had.
    assert!(number("errors") <= number("sessions_cut"), "{report}");
    let served = report["served"].as_object().unwrap();
    assert!(served.len() == 3 && served.values().all(|n| n.as_u64().unwrap() > 20), "{report}");
    assert!(number("left_after_ms") < 5000 && number("returned_after_ms") < 5000);
}
