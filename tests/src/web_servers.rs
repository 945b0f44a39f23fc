//! Web servers: nginx and Apache from Debian, and small ones in Node and Python. Each serves a folder in which `admin/secret` is what
//! nobody is to get, tells the target that it was asked for in X-Target, and writes each request's first line to a file.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{connect, free_port, wait_for};

/// What `admin/secret` says.
pub const SECRET: &str = "nobody is to get this";

/// A kind of web server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebKind {
    /// Of Debian.
    Nginx,
    /// Of Debian.
    Apache,
    /// Its own parser, and a handler in JavaScript.
    Node,
    /// `http.server`.
    Python,
}

impl WebKind {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Nginx, Self::Apache, Self::Node, Self::Python];
}

/// A running web server; it ends with the test.
pub struct WebServer {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    folder: TempDir,
}

impl WebServer {
    /// Starts one.
    ///
    /// # Panics
    /// If it does not listen.
    #[must_use]
    pub fn start(kind: WebKind) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Servers that give up their rights read it too.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("our own folder");
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("admin")).expect("our own folder");
        std::fs::create_dir_all(root.join("x/y")).expect("our own folder");
        std::fs::write(root.join("admin/secret"), SECRET).expect("our own folder");
        std::fs::write(root.join("hello"), "hello\n").expect("our own folder");
        std::fs::write(root.join("index.html"), "index\n").expect("our own folder");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = match kind {
            WebKind::Nginx => nginx(folder.path(), address),
            WebKind::Apache => apache(folder.path(), address),
            WebKind::Node => script(folder.path(), "node", "server.js", NODE, address),
            WebKind::Python => script(folder.path(), "python3", "server.py", PYTHON, address),
        };
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("web servers: ./scripts/test installs them");
        wait_for("a web server", Duration::from_secs(20), || connect(address).ok());
        Self { child, address, folder }
    }

    /// The first lines of the requests that it has seen.
    ///
    /// # Panics
    /// If its log cannot be read.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        let text = std::fs::read(self.folder.path().join("seen")).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// Where it keeps what it serves.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx(folder: &Path, address: SocketAddr) -> Command {
    let config = format!(
        "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr crit;\nuser root;\nevents {{ worker_connections 4096; }}
http {{ log_format l '$request'; access_log {seen} l; client_max_body_size 0; keepalive_requests 1000000;
server {{ listen {address}; root {root}; add_header X-Target $request_uri always;
location / {{ try_files $uri $uri/ =404; error_page 405 =200 @any; }} location @any {{ return 200 \"any\\n\"; }} }} }}\n",
        seen = folder.join("seen").display(),
        root = folder.join("root").display()
    );
    std::fs::write(folder.join("config"), config).expect("our own folder");
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p", "./", "-c"]).arg(folder.join("config"));
    command
}

fn apache(folder: &Path, address: SocketAddr) -> Command {
    let modules: String =
        [("mpm_event", "mpm_event"), ("authz_core", "authz_core"), ("dir", "dir"), ("headers", "headers")]
            .iter()
            .map(|(name, file)| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{file}.so\n"))
            .collect();
    let config = format!(
        "ServerRoot {folder}\nPidFile {folder}/pid\nServerName localhost\nListen {address}\n{modules}ErrorLog /dev/null\nLogFormat \"%r\" l\nCustomLog {folder}/seen l
DocumentRoot {folder}/root\nKeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\nServerLimit 1\nStartServers 1\nThreadsPerChild 64\nMaxRequestWorkers 64
Header always set X-Target \"expr=%{{REQUEST_URI}}\"\n<Directory {folder}/root>\nRequire all granted\n</Directory>\n",
        folder = folder.display()
    );
    std::fs::write(folder.join("config"), config).expect("our own folder");
    let mut command = Command::new("apache2");
    command.args(["-X", "-f"]).arg(folder.join("config"));
    command
}

fn script(folder: &Path, program: &str, name: &str, text: &str, address: SocketAddr) -> Command {
    std::fs::write(folder.join(name), text).expect("our own folder");
    let mut command = Command::new(program);
    command.arg(name).arg(address.port().to_string());
    command
}

const NODE: &str = r#"
const http = require('http'), fs = require('fs'), path = require('path');
const seen = fs.openSync('seen', 'a'), root = path.join(process.cwd(), 'root');
const server = http.createServer((request, response) => {
  fs.writeSync(seen, `${request.method} ${request.url} HTTP/${request.httpVersion}\n`);
  response.setHeader('X-Target', request.url);
  let length = 0;
  request.on('data', (chunk) => { length += chunk.length; });
  request.on('error', () => {});
  request.on('end', () => {
    let file;
    try {
      // As handlers that people write do: decoded, and then joined.
      const asked = decodeURIComponent(request.url.split('?')[0].split('#')[0]);
      file = path.join(root, path.normalize('/' + asked.replace(/\\/g, '/')));
      const body = fs.statSync(file).isFile() ? fs.readFileSync(file) : Buffer.from('folder\n');
      response.setHeader('X-Length', length);
      response.end(request.method === 'HEAD' ? undefined : body);
    } catch (error) {
      response.statusCode = 404;
      response.setHeader('X-Length', length);
      response.end('none\n');
    }
  });
});
server.keepAliveTimeout = 60000;
server.listen(parseInt(process.argv[2]), '127.0.0.1');
"#;

const PYTHON: &str = r#"
import http.server, os, sys, threading
seen = os.open('seen', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = 65536
    def __init__(self, *args):
        super().__init__(*args, directory='root')
    def log_message(self, *args):
        pass
    def end_headers(self):
        self.send_header('X-Target', self.path.encode('ascii', 'replace').decode())
        super().end_headers()
    def body(self):
        length = 0
        if self.headers.get('Transfer-Encoding'):
            while True:
                size = int(self.rfile.readline().split(b';')[0], 16)
                length += len(self.rfile.read(size))
                if size == 0:
                    break
                self.rfile.readline()
            while self.rfile.readline() not in (b'\r\n', b'\n', b''):
                pass
        else:
            length = len(self.rfile.read(int(self.headers.get('Content-Length') or 0)))
        return length
    def parse_request(self):
        sound = super().parse_request()
        if sound:
            os.write(seen, (self.requestline + '\n').encode('utf-8', 'replace'))
        return sound
    def do_GET(self):
        self.body()
        super().do_GET()
    def do_HEAD(self):
        self.body()
        super().do_HEAD()
    def any(self):
        answer = b'%d\n' % self.body()
        self.send_response(200)
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_TRACE = any
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    def handle_error(self, *args):
        pass
Server(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"#;
