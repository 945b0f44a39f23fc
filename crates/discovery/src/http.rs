//! A list by HTTP.

use std::time::Duration;

use floodway_judge::{Answer, Request};
use floodway_tls::NewFault;
use hyper::StatusCode;
use hyper::header::{ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};

use crate::fetch::{Fetcher, Got, apart};
use crate::{PATIENCE, list};

/// Asks for a list, and remembers by what to ask only for a new one.
#[derive(Debug)]
pub(crate) struct Http {
    fetcher: Fetcher,
    every: Duration,
    patience: Duration,
    /// What to send to learn whether the last list that had members is still the one (RFC 9110, section 13).
    condition: Option<(HeaderName, HeaderValue)>,
}

impl Http {
    pub(crate) fn new(request: &Request) -> Result<Self, NewFault> {
        Ok(Self { fetcher: Fetcher::new(request)?, every: request.every, patience: PATIENCE, condition: None })
    }

    pub(crate) async fn ask(&mut self) -> Answer {
        let condition = self.condition.clone().into_iter().collect();
        match self.fetcher.get(self.fetcher.path(), condition, self.patience).await {
            Ok(got) if got.status == StatusCode::OK => self.read(got).await,
            Ok(got) if got.status == StatusCode::NOT_MODIFIED && self.condition.is_some() => {
                Answer::Unchanged { valid: self.every }
            }
            Ok(got) => Answer::Failed { why: got.why() },
            Err(why) => Answer::Failed { why },
        }
    }

    async fn read(&mut self, got: Got) -> Answer {
        // Whatever becomes of this answer: the next question must not be answered by "as before" unless it was good.
        self.condition = None;
        let header = |name| got.header(name).cloned();
        let condition = header(&ETAG).map(|tag| (IF_NONE_MATCH, tag));
        let condition = condition.or_else(|| header(&LAST_MODIFIED).map(|date| (IF_MODIFIED_SINCE, date)));
        match apart(got.body, list::members).await {
            Ok(members) if members.is_empty() => Answer::Nothing { why: "the list is empty".into() },
            Ok(members) => {
                self.condition = condition;
                Answer::Members { members, valid: self.every }
            }
            Err(why) => Answer::Failed { why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::tests::{answer, request, served};
    use floodway_judge::Member;
    use floodway_tests::Backend;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const EVERY: Duration = Duration::from_secs(30);

    fn http(server: &Backend) -> Http {
        Http::new(&request(format!("http://{}/list", server.address()))).unwrap()
    }

    fn of(addresses: &[&str]) -> Answer {
        let members = addresses.iter().map(|a| Member::at(a.parse().unwrap())).collect();
        Answer::Members { members, valid: EVERY }
    }

    fn failed(why: &str) -> Answer {
        Answer::Failed { why: why.into() }
    }

    /// Answers one question after another by `answers`, and says whether it was asked with `condition`.
    fn in_turn(condition: &'static str, answers: Vec<(bool, String)>) -> Backend {
        let asked = AtomicUsize::new(0);
        served(move |head| {
            let (is_conditional, answer) = &answers[asked.fetch_add(1, Ordering::SeqCst)];
            if head.contains("\r\nif-") == *is_conditional && (!is_conditional || head.contains(condition)) {
                answer.clone()
            } else {
                super::tests::answer("418 I'm a teapot", "", head)
            }
        })
    }

    #[tokio::test]
    async fn what_has_not_changed_is_not_sent_again() {
        let good = |body: &str| answer("200 OK", "ETag: \"v1\"\r\nLast-Modified: x\r\n", body);
        let one = r#"["10.0.0.1:80"]"#;
        let same = answer("304 Not Modified", "", "").replace("Content-Length: 0\r\n", "");
        let server = in_turn(
            "\r\nif-none-match: \"v1\"\r\n",
            vec![
                (false, same.clone()),
                (false, good(one)),
                (true, same.clone()),
                (true, answer("503 Service Unavailable", "", "")),
                (true, same.clone()),
                (true, good("[\"db:80\"]")),
                (false, good("[]")),
                (false, good(one)),
                (true, answer("200 OK", "", one)),
                (false, good(one)),
            ],
        );
        let mut http = http(&server);
        assert_eq!(http.ask().await, failed("it answered 304 Not Modified"));
        assert_eq!(http.ask().await, of(&["10.0.0.1:80"]));
        assert_eq!(http.ask().await, Answer::Unchanged { valid: EVERY });
        assert_eq!(http.ask().await, failed("it answered 503 Service Unavailable"));
        assert_eq!(http.ask().await, Answer::Unchanged { valid: EVERY });
        assert_eq!(http.ask().await, failed("entry 1: `db:80` is no address: write an IP address and a port"));
        assert_eq!(http.ask().await, Answer::Nothing { why: "the list is empty".into() });
        for _ in 0..3 {
            assert_eq!(http.ask().await, of(&["10.0.0.1:80"]));
        }
    }

    #[tokio::test]
    async fn without_a_tag_the_date_counts() {
        let date = "Sat, 03 Jan 2026 10:00:00 GMT";
        let good = answer("200 OK", &format!("Last-Modified: {date}\r\n"), r#"["10.0.0.1:80"]"#);
        let server = in_turn(
            "\r\nif-modified-since: Sat, 03 Jan 2026 10:00:00 GMT\r\n",
            vec![(false, good), (true, answer("304 Not Modified", "", ""))],
        );
        let mut http = http(&server);
        assert_eq!(http.ask().await, of(&["10.0.0.1:80"]));
        assert_eq!(http.ask().await, Answer::Unchanged { valid: EVERY });
    }

    #[tokio::test]
    async fn lists_of_prometheus_are_read() {
        let body = r#"[{"targets": ["10.0.0.1:80", "10.0.0.2:80"], "labels": {"__meta_x": "1"}}]"#;
        let server = served(move |_| answer("200 OK", "Content-Type: application/json\r\n", body));
        assert_eq!(http(&server).ask().await, of(&["10.0.0.1:80", "10.0.0.2:80"]));
    }

    #[tokio::test]
    async fn another_status_is_a_failure() {
        for (status, why) in [
            ("404 Not Found", "it answered 404 Not Found"),
            ("204 No Content", "it answered 204 No Content"),
            ("302 Found", "it answered 302 Found: redirects are not followed"),
            ("599 Strange", "it answered 599"),
        ] {
            let server = served(move |_| answer(status, "Location: /elsewhere\r\n", ""));
            assert_eq!(http(&server).ask().await, failed(why));
        }
        let server = served(|_| answer("200 OK", "", "<html>"));
        assert!(matches!(http(&server).ask().await, Answer::Failed { .. }));
    }

    #[tokio::test]
    async fn a_long_list_is_read() {
        let line = |n: usize| format!("\"10.0.{}.{}:80\"", n >> 8, n & 255);
        let body = format!("[{}]", (0..10_000).map(line).collect::<Vec<_>>().join(","));
        let server = served(move |_| answer("200 OK", "", &body));
        let Answer::Members { members, .. } = http(&server).ask().await else { panic!("no members") };
        assert_eq!(members.len(), 10_000);
    }

    #[tokio::test]
    async fn who_never_answers_is_not_waited_for() {
        let server = Backend::start(|_| std::thread::sleep(Duration::from_secs(3)));
        let mut http = Http { patience: Duration::from_millis(200), ..http(&server) };
        assert_eq!(http.ask().await, failed("no answer within 0.2 s"));
    }
}
