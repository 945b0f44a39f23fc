//! A request that somebody asks about.

use std::borrow::Cow;

use floodway_config::Http;
use floodway_policy::http::{Headers, HttpAsked, canonical, canonical_host, field_value};
use floodway_policy::{Asked, Mismatch};

/// A request that somebody asks about.
#[derive(Clone, Debug, Default)]
pub struct AskedRequest {
    method: String,
    /// With its port, if it has one.
    authority: String,
    /// From the path on.
    target: String,
    headers: Vec<(String, String)>,
    /// The common name of the client's certificate.
    certificate: Option<String>,
}

impl AskedRequest {
    /// As an operator puts it: `https://api.example.com/v1/x?y`, GET if no `method` is given, headers as `name: value`, and the common
    /// name of the client's `certificate` if it shows one.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(
        url: &str,
        method: Option<&str>,
        headers: &[impl AsRef<str>],
        certificate: Option<&str>,
    ) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let rest = rest.ok_or("write the whole URL, like https://api.example.com/v1")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let pair = |line: &str| {
            let (name, value) =
                line.split_once(':').ok_or_else(|| format!("`{line}` is no header: write it like `x-beta: 1`"))?;
            Ok::<_, String>((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        Ok(Self {
            method: method.unwrap_or("GET").to_owned(),
            authority: authority.to_owned(),
            target: if target.is_empty() { "/".to_owned() } else { target.to_owned() },
            headers: headers.iter().map(|line| pair(line.as_ref())).collect::<Result<_, _>>()?,
            certificate: certificate.map(ToOwned::to_owned),
        })
    }

    /// Which of the routes of `http` takes it, and why the others do not, the one that goes before the others first; the path and the
    /// query that it has.
    ///
    /// # Errors
    /// Why it is no request.
    pub(crate) fn route(&self, http: &Http, connection: Asked<'_>) -> Result<Routed, String> {
        let (mut room, mut name) = (Vec::new(), Vec::new());
        let host = canonical_host(self.authority.as_bytes(), &mut name);
        let host = host.ok_or_else(|| format!("`{}` is no host", self.authority))?;
        let target = canonical(self.target.as_bytes(), http.paths, &mut room).map_err(|fault| fault.to_string())?;
        let asked = HttpAsked {
            connection,
            host,
            path: target.path,
            query: target.query,
            method: &self.method,
            headers: self,
            certificate: self.certificate.as_deref(),
        };
        let target = target.query.map_or_else(|| target.path.to_owned(), |query| format!("{}?{query}", target.path));
        Ok(Routed { route: http.router.route(&asked), all: http.router.explain(&asked), host: host.to_owned(), target })
    }
}

/// What becomes of a request.
pub(crate) struct Routed {
    pub(crate) route: Option<usize>,
    /// Every route, and why it does not match.
    pub(crate) all: Vec<(usize, Option<Mismatch>)>,
    pub(crate) host: String,
    pub(crate) target: String,
}

impl Headers for AskedRequest {
    fn get(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        field_value(self.headers.iter().map(|(own, value)| (own.as_bytes(), value.as_bytes())), name)
    }
}
