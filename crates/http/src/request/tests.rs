use super::*;

fn http() -> Http {
    let text = "listeners: { a: { bind: \":1\", http: {}, forward: p } }\npools: { p: { endpoints: [10.0.0.1:1] } }\n";
    let files = floodway_config::OneText(text.to_owned());
    let checked =
        floodway_config::read(std::path::Path::new("f"), &files, &floodway_config::Limits::default()).unwrap();
    Http::clone(checked.config.listeners[0].http.as_ref().unwrap())
}

fn read(text: &str) -> Result<Request, Refused> {
    Request::read(text.as_bytes().to_vec(), &http())
}

#[test]
fn a_request_has_one_form() {
    let ask = |line: &str, host: &str| {
        let request = read(&format!("GET {line} HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
        Ok::<_, Refused>((
            request.host().to_owned(),
            request.port().to_owned(),
            request.path().to_owned(),
            request.query().map(str::to_owned),
        ))
    };
    let form = |host: &str, port: &str, path: &str, query: Option<&str>| {
        Ok((host.to_owned(), port.to_owned(), path.to_owned(), query.map(str::to_owned)))
    };
    assert_eq!(ask("/a?b=c", "A.example:80"), form("a.example", ":80", "/a", Some("b=c")));
    assert_eq!(ask("/%61//b/../c", "a."), form("a", "", "/a/c", None));
    assert_eq!(ask("http://A.example/x?y", "a.example"), form("a.example", "", "/x", Some("y")));
    assert_eq!(ask("HTTP://a:81", "a:81"), form("a", ":81", "/", None));
    assert_eq!(ask("/a", "[2001:DB8::1]:80"), form("[2001:db8::1]", ":80", "/a", None));
    for (line, host, refused) in [
        ("http://b/", "a", Refused::Authority),
        ("http://a:80/", "a", Refused::Authority),
        ("http://user@a/", "a", Refused::Authority),
        ("http:///x", "a", Refused::Authority),
        ("http://a?x", "a", Refused::Target(TargetFault::NoPath)),
        ("ftp://a/x", "a", Refused::Target(TargetFault::NoPath)),
        ("a", "a", Refused::Target(TargetFault::NoPath)),
        ("*", "a", Refused::Target(TargetFault::NoPath)),
        ("/a#b", "a", Refused::Target(TargetFault::Fragment)),
        ("/", "a b", Refused::Head(Fault::Host)),
        ("/", "a,b", Refused::Head(Fault::Host)),
        ("/", "", Refused::Head(Fault::Host)),
    ] {
        assert_eq!(ask(line, host), Err(refused), "{line} {host}");
    }
    let request = read("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(request.path(), "*");
    assert_eq!(read("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap_err(), Refused::Method);
    assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n").unwrap_err(), Refused::Expectation);
}

#[test]
fn the_client_is_the_last_that_no_trusted_proxy_is() {
    let told = |lines: &str| {
        let request = read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).unwrap();
        request.told_client(|ip| ip.to_string().starts_with("10.")).map(|ip| ip.to_string())
    };
    assert_eq!(told(""), None);
    assert_eq!(told("X-Forwarded-For: 1.1.1.1\r\n").as_deref(), Some("1.1.1.1"));
    assert_eq!(told("X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.0.0.7\r\n").as_deref(), Some("1.1.1.1"));
    assert_eq!(told("X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 1.1.1.1\r\n").as_deref(), Some("1.1.1.1"));
    assert_eq!(told("X-Forwarded-For: 6.6.6.6, junk, 10.0.0.7\r\n").as_deref(), Some("10.0.0.7"));
    assert_eq!(told("X-Forwarded-For: [2001:db8::1]:443\r\n").as_deref(), Some("2001:db8::1"));
}

#[test]
fn headers_of_one_name_are_one_value() {
    let request = read("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\n\r\n").unwrap();
    assert_eq!(Headers::get(&request, "x").as_deref(), Some(&b"1, 2"[..]));
    assert_eq!(Headers::get(&request, "y"), None);
}
