//! Any bytes, read as the target of a request, as a host, and as a path and a template of a configuration. Never a panic; a target in its
//! one form stays as it is, and holds nothing that can be read in two ways; a host stays as well.
#![no_main]

use floodway_policy::NamePattern;
use floodway_policy::http::{PathPattern, TargetRules, Template, canonical, canonical_host};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for rules in [
        TargetRules::default(),
        TargetRules { keeps_encoded_slashes: true, keeps_semicolons: true },
    ] {
        let (mut room, mut again) = (Vec::new(), Vec::new());
        let Ok(target) = canonical(bytes, rules, &mut room) else { continue };
        let path = target.path;
        assert!(path.starts_with('/') && path.is_ascii() && !path.contains("//") && !path.contains(['\\', '#', '?', ' ']));
        assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
        assert!(!path.contains("%00") && !path.contains("%5C") && (rules.keeps_encoded_slashes || !path.contains("%2F")));
        assert_eq!(canonical(path.as_bytes(), rules, &mut again).map(|t| t.path), Ok(path));
    }
    let (mut room, mut again) = (Vec::new(), Vec::new());
    if let Some(host) = canonical_host(bytes, &mut room) {
        assert_eq!(canonical_host(host.as_bytes(), &mut again), Some(host));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (NamePattern::parse_host(text), Template::parse(text));
    if let Ok(pattern) = PathPattern::parse(text) {
        let _ = (pattern.matches("/a/b"), pattern.capture("rest", "/a/b"), pattern.capture("1", "/a"));
    }
});
