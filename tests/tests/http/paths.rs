//! A path that a route denies is denied in whatever form it is asked for, since the form that is matched is the one that is forwarded.

use floodway_tests::{SECRET, WebKind, WebServer};

use crate::front;
use crate::peers::Client;

/// Only `encoded_slashes: keep` gives up what is tested here: it is for endpoints that take them for no slash.
const KEEPS: &str = "    http: { paths: { semicolons: keep } }\n    routes: [{ match: { path: /admin/** }, respond: { status: 403, body: denied } }, { forward: api }]";
const STRICT: &str = "    http: {}\n    routes: [{ match: { path: /admin/** }, respond: { status: 403, body: denied } }, { forward: api }]";

/// What may stand before the name.
const BEFORE: [&str; 30] = [
    "/",
    "//",
    "///",
    "/./",
    "/x/../",
    "/x/y/../../",
    "/%2e/",
    "/x/%2e%2e/",
    "/x/%2E%2e/",
    "/x/.%2e/",
    "/x/..%2f",
    "/x%2f..%2f",
    "/x/..;/",
    "/.;/",
    "/x/..;a=b/",
    "/%252e%252e/",
    "/x/%252e%252e/",
    "/\\",
    "/x\\..\\",
    "/%5c",
    "/x/..%5c",
    "/x%5c..%5c",
    "/x/%c0%ae%c0%ae/",
    "/%2f",
    "/%2F%2f",
    "/x/..%00/",
    "/x/../../",
    "/..//",
    "/x/..%3b/",
    "/x//../",
];

/// What may stand for the name.
const NAME: [&str; 13] = [
    "admin",
    "%61dmin",
    "adm%69n",
    "%61%64%6d%69%6e",
    "%2561dmin",
    "admin;x",
    "admin;",
    "admin/.",
    "./admin",
    "admin//",
    "admin%3b",
    "admi%6E",
    "admin%2f.",
];

/// What may stand behind it.
const BEHIND: [&str; 19] = [
    "/secret",
    "//secret",
    "/./secret",
    "/secret?x",
    "/x/../secret",
    "%2fsecret",
    "%2Fsecret",
    ";/secret",
    "/secret;x",
    "/%73ecret",
    "\\secret",
    "%5csecret",
    "/secret#x",
    "%2f%2e%2fsecret",
    "/secret/.",
    "/secret%00",
    "/secret%3bx",
    "/secret/",
    "/..%2fadmin/secret",
];

/// Ways to write `/admin/secret`, or what somebody may take for it.
fn forms() -> Vec<String> {
    let mut forms = Vec::new();
    for before in BEFORE {
        for name in NAME {
            forms.extend(BEHIND.iter().map(|behind| format!("{before}{name}{behind}")));
        }
    }
    let absolute: Vec<_> = forms.iter().step_by(7).map(|form| format!("http://a.test{form}")).collect();
    forms.extend(absolute);
    forms
}

/// Whether the connection serves on, and what came.
fn ask(client: &mut Client, form: &str) -> (bool, u16, String) {
    client.send(format!("GET {form} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    match client.read() {
        Ok(answer) => (answer.field("connection") != Some("close"), answer.status(), answer.text()),
        Err(_) => (false, 0, String::new()),
    }
}

#[test]
fn no_form_of_a_denied_path_reaches_it() {
    let forms = forms();
    assert!(forms.len() >= 500, "{}", forms.len());
    for kind in WebKind::ALL {
        let server = WebServer::start(kind);
        let mut direct = Client::new(server.address);
        assert_eq!(ask(&mut direct, "/admin/secret").2, SECRET, "{kind:?} serves it to whoever reaches it");
        for keys in [STRICT, KEEPS] {
            let floodway = front(keys, server.address, 1);
            let mut client = Client::new(floodway.address("web"));
            let (mut denied, mut refused, mut passed) = (0, 0, 0);
            for form in &forms {
                let (stays, status, body) = ask(&mut client, form);
                assert!(!body.contains(SECRET), "{form} reached it on {kind:?}");
                match status {
                    403 => denied += 1,
                    400 => refused += 1,
                    0 => panic!("{form}: no answer"),
                    _ => passed += 1,
                }
                if !stays {
                    client = Client::new(floodway.address("web"));
                }
            }
            assert!(
                denied > 100 && refused > 100 && passed > 100,
                "{denied} denied, {refused} refused, {passed} passed"
            );
        }
    }
}
