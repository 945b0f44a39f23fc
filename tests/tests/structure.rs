//! The layout holds: who may use whom, and what the pure crates may never see.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use floodway_tests::project_folder;

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(project_folder().join("Cargo.toml")).exec().expect("cargo metadata")
}

/// For each crate of ours, the crates of ours that it may use.
fn arrows() -> BTreeMap<&'static str, &'static [&'static str]> {
    const CONFIG: &[&str] = &["balance", "flow", "judge", "policy"];
    const RUNTIME: &[&str] = &["balance", "flow", "judge", "policy", "config", "tls", "health", "discovery", "net"];
    const ADMIN: &[&str] = &["balance", "flow", "judge", "policy", "config", "net", "runtime"];
    const HTTP: &[&str] = ADMIN;
    const BINARY: &[&str] = &[
        "balance",
        "flow",
        "judge",
        "policy",
        "config",
        "tls",
        "health",
        "discovery",
        "net",
        "runtime",
        "admin",
        "http",
    ];
    BTreeMap::from([
        ("floodway-balance", &[] as &[&str]),
        ("floodway-flow", &[]),
        ("floodway-judge", &[]),
        ("floodway-policy", &[]),
        ("floodway-config", CONFIG),
        ("floodway-health", &["judge", "net", "tls"]),
        ("floodway-discovery", &["judge", "tls"]),
        ("floodway-tls", &[]),
        ("floodway-mmsg", &[]),
        ("floodway-net", &["mmsg"]),
        ("floodway-runtime", RUNTIME),
        ("floodway-admin", ADMIN),
        ("floodway-http", HTTP),
        ("floodway", BINARY),
        ("floodway-tests", &[]),
        ("floodway-bench", &["balance", "mmsg", "sim"]),
        ("floodway-sim", &["balance", "judge"]),
        ("floodway-counts", &["balance", "flow", "runtime"]),
    ])
}

#[test]
fn arrows_point_one_way() {
    let metadata = metadata();
    let arrows = arrows();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("{name} has no place in the layout"));
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            if let Some(short) = dependency.name.strip_prefix("floodway-") {
                assert!(allowed.contains(&short), "{name} may not use {}", dependency.name);
            }
        }
    }
}

/// A build without HTTP has nothing of it.
#[test]
fn a_build_for_bytes_alone_has_no_http() {
    let cargo = |words: &[&str]| {
        let mut command = std::process::Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
        let output = command.args(words).current_dir(project_folder()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let words = ["tree", "--locked", "--package", "floodway", "--edges", "normal", "--prefix", "none"];
    let with = cargo(&words);
    let without = cargo(&[&words[..], &["--no-default-features"]].concat());
    assert!(
        with.contains("floodway-http ") && without.contains("floodway-runtime ") && !without.contains("floodway-http ")
    );
    cargo(&["check", "--locked", "--quiet", "--package", "floodway", "--no-default-features"]);
}

#[test]
fn pure_crates_see_no_socket_clock_or_chance() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("resolved dependencies");
    let uses: BTreeMap<&PackageId, Vec<&PackageId>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node.deps.iter().filter(|d| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal));
            (&node.id, normal.map(|d| &d.pkg).collect())
        })
        .collect();
    for pure in ["floodway-balance", "floodway-flow", "floodway-judge", "floodway-policy", "floodway-config"] {
        let root = metadata.packages.iter().find(|p| p.name.as_str() == pure).expect("a crate of ours");
        let mut seen = BTreeSet::new();
        let mut todo = vec![&root.id];
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                todo.extend(&uses[id]);
            }
        }
        let names: BTreeSet<_> =
            metadata.packages.iter().filter(|p| seen.contains(&p.id)).map(|p| p.name.to_string()).collect();
        for banned in ["tokio", "socket2", "nix", "rustix", "mio", "rand", "getrandom"] {
            assert!(!names.contains(banned), "{pure} depends on {banned}");
        }
        let rules =
            std::fs::read_to_string(project_folder().join(format!("crates/{}/clippy.toml", &pure[9..]))).unwrap();
        for banned in
            ["Instant::now", "SystemTime::now", "std::net::TcpStream", "std::fs::read", "std::env::var", "RandomState"]
        {
            assert!(rules.contains(banned), "clippy.toml of {pure} does not ban {banned}");
        }
    }
}

/// Every package takes the workspace's lints, and they forbid it; but for one leaf, which is small and says why for each.
#[test]
fn unsafe_code_is_forbidden_everywhere_but_in_one_leaf() {
    for package in metadata().workspace_packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        if package.name.as_str() == "floodway-mmsg" {
            assert!(manifest.contains("undocumented_unsafe_blocks = \"deny\""));
            continue;
        }
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} leaves the workspace's lints", package.name);
    }
    let root = std::fs::read_to_string(project_folder().join("Cargo.toml")).unwrap();
    assert!(root.contains("unsafe_code = \"forbid\""));
    let code = |file: &str| {
        let text = std::fs::read_to_string(project_folder().join("crates/mmsg/src").join(file)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap().lines().map(str::trim).collect::<Vec<_>>();
        code.into_iter().filter(|line| !line.is_empty() && !line.starts_with("//")).count()
    };
    let lines = code("lib.rs") + code("wire.rs");
    assert!(lines < 300, "{lines} lines of code");
}
