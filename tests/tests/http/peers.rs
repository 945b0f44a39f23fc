//! A client and a server of HTTP/1.1, each as plain as can be: what they say is what the test says.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use floodway_tests::{Backend, connect};

/// What came: the first line, the fields with their names in lower case, and the body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Message {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|(own, _)| own == name).count()
    }

    pub(crate) fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn fields(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(from)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads a head.
pub(crate) fn read_head(from: &mut impl BufRead) -> io::Result<Message> {
    Ok(Message { line: line(from)?, fields: fields(from)?, ..Message::default() })
}

/// Reads the body of `message`; `ends` says that without a length it goes on to the end.
pub(crate) fn read_body(message: &mut Message, from: &mut impl BufRead, ends: bool) -> io::Result<()> {
    if message.field("transfer-encoding").is_some() {
        loop {
            let size = line(from)?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                message.trailers = fields(from)?;
                return Ok(());
            }
            let at = message.body.len();
            message.body.resize(at + size, 0);
            from.read_exact(&mut message.body[at..])?;
            line(from)?;
        }
    }
    if let Some(length) = message.field("content-length").map(|l| l.parse::<usize>()) {
        message.body = vec![0; length.map_err(|_| io::ErrorKind::InvalidData)?];
        return from.read_exact(&mut message.body);
    }
    if ends { from.read_to_end(&mut message.body).map(drop) } else { Ok(()) }
}

/// A connection of a client.
pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Whoever refuses what is sent may have closed.
        let _ = self.0.get_mut().write_all(bytes.as_ref());
    }

    /// Reads a response to something else than HEAD.
    pub(crate) fn read(&mut self) -> io::Result<Message> {
        let mut message = read_head(&mut self.0)?;
        let has_body = !matches!(message.status(), 100..=199 | 204 | 304);
        if has_body {
            read_body(&mut message, &mut self.0, true)?;
        }
        Ok(message)
    }

    /// Sends `bytes` and reads a response.
    pub(crate) fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Message {
        self.send(bytes);
        self.read().unwrap()
    }

    pub(crate) fn get(&mut self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
    }

    /// Whether the connection ends, and nothing comes before.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0)) || self.0.get_ref().peek(&mut [0; 1]).is_err()
    }
}

/// One request on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Message {
    Client::new(address).get(path)
}

/// One request with these fields, on a connection of its own.
pub(crate) fn get_with(address: SocketAddr, path: &str, fields: &str) -> Message {
    Client::new(address).ask(format!("GET {path} HTTP/1.1\r\n{fields}\r\n"))
}

/// A server that keeps what it was asked.
pub(crate) struct Origin {
    pub(crate) backend: Backend,
    asked: Arc<Mutex<Vec<Message>>>,
}

impl Origin {
    /// Answers as paths say.
    pub(crate) fn start() -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        let backend = Backend::start(move |stream| {
            let _ = converse(stream, &kept);
        });
        Self { backend, asked }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.address()
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Message> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Message {
        self.asked().pop().unwrap()
    }
}

fn converse(stream: TcpStream, asked: &Mutex<Vec<Message>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut message = read_head(&mut stream)?;
        let target = message.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let path = target.split('?').next().unwrap_or_default();
        let (first, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let number = rest.parse::<usize>().unwrap_or(0);
        let mut say = |bytes: &[u8]| stream.get_mut().write_all(bytes);
        match first {
            "early" => {
                asked.lock().unwrap().push(message);
                say(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")?;
                let _ = io::copy(&mut stream, &mut io::sink());
                return Ok(());
            }
            "sink" => {
                let length = message.field("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
                let taken = io::copy(&mut (&mut stream).take(length), &mut io::sink())?;
                let body = format!("{taken}\n");
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.get_mut().write_all(answer.as_bytes())?;
                continue;
            }
            // Whoever waits to be told to go on waits.
            "mute" => {}
            "continue" => say(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            "interim" => say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?,
            _ if message.field("expect").is_some() => say(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            _ => {}
        }
        read_body(&mut message, &mut stream, false)?;
        let body = format!("{}\n{}\n", message.line, message.body.len());
        let is_head = message.line.starts_with("HEAD");
        asked.lock().unwrap().push(message);
        let body = if is_head { String::new() } else { body };
        if !answer(stream.get_mut(), (first, number), &body, is_head)? {
            return Ok(());
        }
    }
}

/// Answers as the path says, which begins with `first` and has `number` behind. False where the connection ends with that.
fn answer(stream: &mut TcpStream, (first, number): (&str, usize), body: &str, is_head: bool) -> io::Result<bool> {
    let mut say = |bytes: &[u8]| stream.write_all(bytes);
    match first {
        "chunked" => {
            say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5;a=b\r\nhello\r\n")?;
            say(b"7\r\n, world\r\n0\r\nx-sum: 12\r\nset-cookie: a=b\r\n\r\n")?;
        }
        "close" => {
            say(b"HTTP/1.1 200 OK\r\n\r\nto the end")?;
            return Ok(false);
        }
        "old" => {
            say(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold")?;
            return Ok(false);
        }
        "status" => say(format!("HTTP/1.1 {number} Said\r\nContent-Length: 0\r\n\r\n").as_bytes())?,
        "nothing" => say(format!("HTTP/1.1 {number} Said\r\nX-A: b\r\n\r\n").as_bytes())?,
        "silent" => std::thread::sleep(Duration::from_secs(number as u64)),
        "gone" => return Ok(false),
        "once" => {
            say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce")?;
            return Ok(false);
        }
        // After so many seconds.
        "cut" => {
            say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
            std::thread::sleep(Duration::from_secs(number as u64));
            return Ok(false);
        }
        "raw" => {
            say(raw(number))?;
            return Ok(false);
        }
        // In two pieces, of which the first has so many bytes.
        "pieces" => {
            let (first, rest) = PIECES.split_at(number);
            stream.set_nodelay(true)?;
            stream.write_all(first)?;
            // Whether they come apart is not said; mostly they do.
            std::thread::sleep(Duration::from_millis(1));
            stream.write_all(rest)?;
        }
        "fields" => say(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-one\r\nX-One: 1\r\nKeep-Alive: 5\r\nX-Two: 2\r\nServer: s\r\n\r\nok",
        )?,
        "stream" => {
            say(format!("HTTP/1.1 200 OK\r\nContent-Length: {number}\r\n\r\n").as_bytes())?;
            let piece = vec![b'x'; 65_536];
            for at in (0..number).step_by(piece.len()) {
                say(&piece[..piece.len().min(number - at)])?;
            }
        }
        // So many events, ten a second.
        "events" => {
            say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for i in 0..number {
                let event = format!("data: {i}\n\n");
                say(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
                std::thread::sleep(Duration::from_millis(100));
            }
            say(b"0\r\n\r\n")?;
        }
        "bytes" => {
            say(format!("HTTP/1.1 200 OK\r\nContent-Length: {number}\r\n\r\n").as_bytes())?;
            if !is_head {
                say(&vec![b'x'; number])?;
            }
        }
        _ => {
            // In one piece: a second would wait for the acknowledgement of the first.
            say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        }
    }
    Ok(true)
}

/// An interim response, and a response in chunks.
pub(crate) const PIECES: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\nX-Sum: 12\r\n\r\n";

/// Responses that are none, or that can be read in two ways.
pub(crate) const RAW: [&[u8]; 14] = [
    b"junk\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok",
];

fn raw(number: usize) -> &'static [u8] {
    RAW.get(number).copied().unwrap_or_default()
}
