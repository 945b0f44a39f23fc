//! The instances of a service of Consul, by its HTTP API: `/v1/health/service` and blocking queries.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use floodway_judge::{Answer, Member, Request};
use floodway_tls::NewFault;
use hyper::StatusCode;
use hyper::header::HeaderName;
use serde::Deserialize;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::fetch::{Fetcher, Got, apart};
use crate::list::{MOST, shown};

/// How long Consul may wait for a change before it answers all the same.
const WAIT: Duration = Duration::from_secs(300);
/// Between two questions of a watch at least so long, however often the answer changes.
const PAUSE: Duration = Duration::from_secs(1);
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const HIGHEST: i64 = 1000;

/// Asks an agent, and remembers by what to wait for a change.
#[derive(Debug)]
pub(crate) struct Consul {
    fetcher: Fetcher,
    /// The path and the query, to which more can be added.
    path: String,
    passing: bool,
    /// Of the last good answer; 0 if there is none, and then there is nothing to wait by.
    index: u64,
    /// When the last question of a watch was asked, if that was the last of all.
    asked: Option<Instant>,
    patience: Duration,
    pause: Duration,
    had_news: bool,
}

impl Consul {
    pub(crate) fn new(agent: &Request, service: &str, tag: Option<&str>, passing: bool) -> Result<Self, NewFault> {
        let fetcher = Fetcher::new(agent)?;
        let (base, query) = fetcher.path().split_once('?').unwrap_or((fetcher.path(), ""));
        let mut path = format!("{}/v1/health/service/{}?", base.trim_end_matches('/'), encoded(service));
        let tag = tag.map(|tag| format!("tag={}", encoded(tag)));
        let parts = [query, if passing { "passing=1" } else { "" }, tag.as_deref().unwrap_or_default()];
        path += &parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        Ok(Self { fetcher, path, passing, index: 0, asked: None, patience: PATIENCE, pause: PAUSE, had_news: false })
    }

    /// Asks; with `watch`, until the answer is another than the last one.
    pub(crate) async fn ask(&mut self, watch: bool) -> Answer {
        loop {
            if let Some(asked) = self.asked.filter(|_| watch) {
                // Who had news may have more soon; an answer without says that waiting does not work.
                let pause = if self.had_news { self.pause / 10 } else { self.pause };
                tokio::time::sleep_until(asked + pause).await;
            }
            self.asked = watch.then(Instant::now);
            let waits = watch && self.index > 0;
            let (path, patience) = if waits { self.blocking() } else { (self.path.clone(), self.patience) };
            let got = match self.fetcher.get(&path, Vec::new(), patience).await {
                Ok(got) if got.status == StatusCode::OK => got,
                Ok(got) => return Answer::Failed { why: got.why() },
                Err(why) => return Answer::Failed { why },
            };
            let index = index(&got);
            self.had_news = waits && index > self.index;
            if waits && index == self.index {
                continue;
            }
            let went_back = waits && index < self.index;
            let passing = self.passing;
            let answer = match apart(got.body, move |body| members(body, passing)).await {
                Ok(members) if members.is_empty() => Answer::Nothing { why: "no instance".into() },
                Ok(members) => Answer::Members { members, valid: Duration::ZERO },
                Err(why) => return Answer::Failed { why },
            };
            // An index that goes back is from another history: the next question does not wait.
            self.index = if went_back { 0 } else { index };
            return answer;
        }
    }

    /// The path of a question that waits, and how long it may take: Consul adds up to a sixteenth to the time.
    fn blocking(&self) -> (String, Duration) {
        let and = if self.path.ends_with('?') { "" } else { "&" };
        let path = format!("{}{and}index={}&wait={}s", self.path, self.index, WAIT.as_secs());
        (path, WAIT + WAIT / 16 + self.patience)
    }
}

/// By what to wait for a change; 0 if by nothing.
fn index(got: &Got) -> u64 {
    got.header(&INDEX).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// For a part of a path or a query (RFC 3986, section 2.3).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |so_far, b| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            so_far + char::from(b).encode_utf8(&mut [0])
        }
        _ => so_far + &format!("%{b:02X}"),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

impl Instance {
    fn is_critical(&self) -> bool {
        self.checks.iter().flatten().any(|check| check.status == "critical")
    }

    fn weight(&self) -> i64 {
        self.service.weights.as_ref().map_or(1, |weights| weights.passing)
    }

    fn address(&self) -> Result<SocketAddr, String> {
        let id = shown(&self.service.id);
        let host = if self.service.address.is_empty() { &self.node.address } else { &self.service.address };
        let ip: IpAddr = host.parse().map_err(|_| format!("instance {id}: {} is no IP address", shown(host)))?;
        match u16::try_from(self.service.port) {
            Ok(port @ 1..) => Ok((ip.to_canonical(), port).into()),
            _ => Err(format!("instance {id}: {} is no port", self.service.port)),
        }
    }
}

/// Reads the answer of `/v1/health/service`. Without `passing`, Consul tells of critical instances as well.
fn members(body: &[u8], passing: bool) -> Result<Vec<Member>, String> {
    let mut instances: Vec<Instance> = serde_json::from_slice(body).map_err(|e| format!("its answer: {e}"))?;
    if !passing {
        instances.retain(|instance| !instance.is_critical());
    }
    if instances.len() > MOST {
        return Err(format!("it has more than {MOST} instances"));
    }
    // An ID is one of an agent's: two agents may have the same.
    let mut times: HashMap<&str, usize> = HashMap::new();
    for instance in &instances {
        *times.entry(&instance.service.id).or_default() += 1;
    }
    // 1 is what Consul says when nobody said anything.
    let has_weights = instances.iter().any(|instance| instance.weight() != 1);
    let member = |instance: &Instance| {
        let id = &instance.service.id;
        let weight = u32::try_from(instance.weight().clamp(1, HIGHEST)).ok().filter(|_| has_weights);
        let name = Some(id).filter(|id| !id.is_empty() && times.get(id.as_str()) == Some(&1)).cloned();
        Ok(Member { name, weight, ..Member::at(instance.address()?) })
    };
    instances.iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::tests::{answer, request, served};
    use floodway_tests::Backend;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};

    /// An agent: shows what it is asked, and answers when the test says what.
    struct Agent {
        server: Backend,
        asked: Receiver<String>,
        answers: Sender<String>,
    }

    impl Agent {
        fn new() -> Self {
            let (asking, asked) = channel();
            let (answers, answering) = channel::<String>();
            let (asking, answering) = (Mutex::new(asking), Arc::new(Mutex::new(answering)));
            let server = served(move |head| {
                let _ = asking.lock().unwrap().send(head.to_owned());
                answering.lock().unwrap().recv().unwrap_or_default()
            });
            Self { server, asked, answers }
        }

        fn consul(&self) -> Consul {
            let mut agent = request(format!("http://{}", self.server.address()));
            agent.headers = vec![("X-Consul-Token".into(), "secret".into())];
            Consul { pause: Duration::ZERO, ..Consul::new(&agent, "web", None, true).unwrap() }
        }

        fn says(&self, index: u64, body: &str) {
            self.answers.send(answer("200 OK", &format!("X-Consul-Index: {index}\r\n"), body)).unwrap();
        }

        /// The path of the next question.
        fn path(&self) -> String {
            let head = self.asked.recv_timeout(Duration::from_secs(10)).unwrap();
            assert!(head.contains("\r\nx-consul-token: secret\r\n"), "{head}");
            head.split(' ').nth(1).unwrap().to_owned()
        }
    }

    fn instance(id: &str, address: &str, more: &str) -> String {
        format!(
            r#"{{"Node": {{"Node": "n", "Address": "10.9.9.9"}},
                "Service": {{"ID": "{id}", "Address": "{address}", "Port": 80{more}}},
                "Checks": [{{"Status": "passing"}}]}}"#
        )
    }

    fn list(instances: &[String]) -> String {
        format!("[{}]", instances.join(","))
    }

    fn one(address: &str) -> String {
        list(&[instance("a", address, "")])
    }

    fn of(address: &str) -> Answer {
        let members = vec![Member { name: Some("a".into()), ..Member::at(address.parse().unwrap()) }];
        Answer::Members { members, valid: Duration::ZERO }
    }

    const PATH: &str = "/v1/health/service/web?passing=1";

    #[tokio::test]
    async fn a_watch_waits_until_the_index_is_another() {
        let agent = Agent::new();
        let mut consul = agent.consul();
        agent.says(7, &one("10.0.0.1"));
        assert_eq!(consul.ask(false).await, of("10.0.0.1:80"));
        assert_eq!(agent.path(), PATH);
        // Consul's own time limit is over, and nothing has changed.
        agent.says(7, &one("10.0.0.1"));
        agent.says(7, &one("10.0.0.1"));
        let waiting = tokio::spawn(async move { (consul.ask(true).await, consul) });
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(agent.path(), format!("{PATH}&index=7&wait=300s"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished());
        agent.says(8, &one("10.0.0.2"));
        let (answer, mut consul) = waiting.await.unwrap();
        assert_eq!(answer, of("10.0.0.2:80"));
        agent.says(9, "[]");
        assert_eq!(consul.ask(true).await, Answer::Nothing { why: "no instance".into() });
        assert_eq!(agent.path(), format!("{PATH}&index=8&wait=300s"));
    }

    #[tokio::test]
    async fn an_index_that_goes_back_is_forgotten() {
        let agent = Agent::new();
        let mut consul = agent.consul();
        for (index, path) in [
            (7, PATH.to_owned()),
            (3, format!("{PATH}&index=7&wait=300s")),
            (4, PATH.to_owned()),
            (0, format!("{PATH}&index=4&wait=300s")),
            (0, PATH.to_owned()),
            (5, PATH.to_owned()),
            (6, format!("{PATH}&index=5&wait=300s")),
        ] {
            agent.says(index, &one("10.0.0.1"));
            assert_eq!(consul.ask(true).await, of("10.0.0.1:80"));
            assert_eq!(agent.path(), path);
        }
        // Who does not watch does not wait.
        agent.says(6, &one("10.0.0.1"));
        assert_eq!(consul.ask(false).await, of("10.0.0.1:80"));
        assert_eq!(agent.path(), PATH);
    }

    #[tokio::test]
    async fn a_watch_asks_no_faster_than_it_may() {
        let agent = Agent::new();
        let mut consul = Consul { pause: Duration::from_millis(300), ..agent.consul() };
        let begin = Instant::now();
        for index in [1, 2, 2, 3] {
            agent.says(index, &one("10.0.0.1"));
        }
        for _ in 0..3 {
            consul.ask(true).await;
        }
        // Twice after an answer without news, once after one with.
        assert!(begin.elapsed() >= Duration::from_millis(630));
    }

    #[tokio::test]
    async fn a_failure_is_one_and_shows_no_token() {
        let agent = Agent::new();
        let mut consul = agent.consul();
        agent.answers.send(answer("403 Forbidden", "", "secret")).unwrap();
        assert_eq!(consul.ask(true).await, Answer::Failed { why: "it answered 403 Forbidden".into() });
        agent.says(1, "{}");
        let Answer::Failed { why } = consul.ask(true).await else { panic!("an answer") };
        assert_eq!(why, "its answer: invalid type: map, expected a sequence at line 1 column 0");
        assert!(!format!("{consul:?}").contains("secret"));
    }

    #[test]
    fn what_is_asked_is_what_is_configured() {
        let path = |url: &str, service: &str, tag, passing| {
            Consul::new(&request(url.into()), service, tag, passing).unwrap().path
        };
        assert_eq!(path("http://c:8500", "web", None, false), "/v1/health/service/web?");
        assert_eq!(
            path("http://c:8500/", "a/b c", Some("v=1&é"), true),
            "/v1/health/service/a%2Fb%20c?passing=1&tag=v%3D1%26%C3%A9"
        );
        assert_eq!(path("http://c/base/?dc=x", "web", Some("t"), false), "/base/v1/health/service/web?dc=x&tag=t");
        let consul = Consul { index: 9, ..Consul::new(&request("http://c".into()), "web", None, false).unwrap() };
        assert_eq!(consul.blocking().0, "/v1/health/service/web?index=9&wait=300s");
        assert_eq!(consul.blocking().1, Duration::from_millis(328_750));
    }

    #[test]
    fn instances_are_members() {
        let at = |address: &str| Member::at(address.parse().unwrap());
        let body = list(&[
            instance("a", "10.0.0.1", r#", "Weights": {"Passing": 5000, "Warning": 1}"#),
            instance("b", "", r#", "Weights": {"Passing": 0}"#),
            instance("b", "::ffff:10.0.0.3", ""),
        ]);
        let wanted = vec![
            Member { name: Some("a".into()), weight: Some(1000), ..at("10.0.0.1:80") },
            Member { weight: Some(1), ..at("10.9.9.9:80") },
            Member { weight: Some(1), ..at("10.0.0.3:80") },
        ];
        assert_eq!(members(body.as_bytes(), true), Ok(wanted));
        let body = list(&[instance("a", "10.0.0.1", r#", "Weights": {"Passing": 1}"#)]);
        assert_eq!(members(body.as_bytes(), true), Ok(vec![Member { name: Some("a".into()), ..at("10.0.0.1:80") }]));
        let why = |instance: String| members(list(&[instance]).as_bytes(), true).unwrap_err();
        assert_eq!(why(instance("a", "db.internal", "")), "instance `a`: `db.internal` is no IP address");
        assert_eq!(why(instance("a", "10.0.0.1", "").replace("80", "0")), "instance `a`: 0 is no port");
    }

    #[test]
    fn critical_instances_are_left_out() {
        let with = |id: &str, status: &str| instance(id, "10.0.0.1", "").replace("passing", status);
        let body = list(&[with("a", "passing"), with("b", "warning"), with("c", "critical")]);
        let names: Vec<_> = members(body.as_bytes(), false).unwrap().into_iter().filter_map(|m| m.name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
