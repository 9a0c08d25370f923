//! A small HTTP/1.1 server for one person on one machine: GET and HEAD, no bodies, loopback only.
//!
//! Requests are parsed by `httparse` (hyper's parser); the rest is a thread a connection. That is less than a framework brings
//! with it (axum: 57 crates and an executor, for work that is decoding and blocks), and all of it is here to be read.
//!
//! A page of another origin, open in the same browser, must get nothing: the address has a random token, `Host` must be this
//! server's own (a name that was made to point at 127.0.0.1 is refused), and so must `Origin` and `Sec-Fetch-Site` where a
//! browser sends them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes of a request's line and headers.
const HEAD_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// Connections at a time; a browser opens six.
const CONNECTIONS_MAX: usize = 64;
/// How long a silent connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// What no answer is without. The hash is that of no bytes: an empty style element in the page keeps OpenSeadragon from adding
/// one of its own.
const SAFETY: &str = "Cache-Control: no-store\r\n\
    Content-Security-Policy: default-src 'none'; script-src 'self'; \
    style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; img-src 'self' data: blob:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    Cross-Origin-Opener-Policy: same-origin\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n\
    Referrer-Policy: no-referrer\r\n\
    X-Content-Type-Options: nosniff\r\n";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Media type.
    pub kind: &'static str,
    /// Content.
    pub body: Vec<u8>,
}

impl Answer {
    /// Content that is there.
    #[must_use]
    pub fn ok(kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Answer { status: 200, kind, body: body.into() }
    }

    /// JSON.
    #[must_use]
    pub fn json(value: &serde_json::Value) -> Self {
        Answer::ok("application/json", value.to_string())
    }

    /// A refusal or a failure, in words.
    #[must_use]
    pub fn error(status: u16, words: impl Into<String>) -> Self {
        Answer { status, kind: "text/plain; charset=utf-8", body: words.into().into_bytes() }
    }
}

/// A request that was let in: what follows the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path without the token and its slashes, such as `slide/3/12/0_0.jpg`; letters, digits and `._-/` only.
    pub path: String,
    /// `name=value` pairs after the question mark.
    pub query: Vec<(String, String)>,
}

impl Request {
    /// A number of the query.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<usize> {
        self.query.iter().find(|(key, _)| key == name)?.1.parse().ok()
    }
}

/// A server that listens and has a token, and does not serve yet.
pub struct Server {
    listener: TcpListener,
    gate: Gate,
}

/// Who is let in.
#[derive(Clone, Debug)]
struct Gate {
    port: u16,
    token: String,
}

impl Server {
    /// Listens on 127.0.0.1; port 0 takes a free one.
    ///
    /// # Errors
    /// The operating system's reason.
    pub fn bind(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let mut random = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let gate = Gate { port: listener.local_addr()?.port(), token };
        Ok(Server { listener, gate })
    }

    /// The address to open, with the token.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/{}/", self.gate.port, self.gate.token)
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// The operating system's, of listening.
    pub fn serve(self, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> io::Result<()> {
        let answer = Arc::new(answer);
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let (stream, _) = match self.listener.accept() {
                Ok(accepted) => accepted,
                // Too many open files, or a client that left: the next one may fare better.
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            };
            if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::SeqCst);
                let _ = respond(&stream, &Answer::error(503, "too many connections"), true, false);
                continue;
            }
            let (answer, gate) = (answer.clone(), self.gate.clone());
            let slot = Slot(open.clone());
            std::thread::spawn(move || {
                let _slot = slot;
                let _ = converse(&stream, &gate, answer.as_ref());
            });
        }
    }
}

/// Counts a connection for as long as it lives.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers one connection's requests.
fn converse(mut stream: &TcpStream, gate: &Gate, answer: &(impl Fn(&Request) -> Answer + ?Sized)) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        let length = loop {
            if let Some(at) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() >= HEAD_MAX {
                respond(stream, &Answer::error(431, "the request's headers are too long"), true, false)?;
                return part(stream);
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece)? {
                0 => return Ok(()),
                n => head.extend_from_slice(&piece[..n]),
            }
        };
        let (result, head_only, close) = match gate.admit(&head[..length]) {
            Ok(admitted) => (answer(&admitted.request), admitted.head_only, admitted.close),
            // What follows a request that was refused may be anything.
            Err(refusal) => (refusal, false, true),
        };
        respond(stream, &result, close, head_only)?;
        if close {
            return part(stream);
        }
        head.drain(..length);
    }
}

/// Says goodbye and hears what is still on its way: a connection that is closed over unread bytes takes the answer with it.
fn part(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut rest = [0; 4096];
    for _ in 0..64 {
        if stream.read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

fn respond(mut stream: &TcpStream, answer: &Answer, close: bool, head_only: bool) -> io::Result<()> {
    let reason = match answer.status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let allow = if answer.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let connection = if close { "close" } else { "keep-alive" };
    let (status, kind, length) = (answer.status, answer.kind, answer.body.len());
    let mut message = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\
         {allow}{SAFETY}\r\n"
    )
    .into_bytes();
    if !head_only {
        message.extend_from_slice(&answer.body);
    }
    stream.write_all(&message)
}

#[derive(Debug, PartialEq, Eq)]
struct Admitted {
    request: Request,
    head_only: bool,
    close: bool,
}

impl Gate {
    /// Lets a request in, or says why not.
    fn admit(&self, head: &[u8]) -> Result<Admitted, Answer> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Answer::error(431, "too many headers")),
            _ => return Err(Answer::error(400, "no HTTP request")),
        }
        let (Some(method), Some(target), Some(1)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(Answer::error(400, "HTTP/1.1 only"));
        };
        let values = |name: &str| -> Vec<&[u8]> {
            parsed.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value).collect()
        };
        let own = [format!("127.0.0.1:{}", self.port), format!("localhost:{}", self.port)];
        if !matches!(values("host")[..], [host] if own.iter().any(|own| own.as_bytes() == host)) {
            return Err(Answer::error(421, "this server answers to 127.0.0.1 only"));
        }
        let foreign_origin =
            values("origin").iter().any(|origin| !own.iter().any(|own| format!("http://{own}").as_bytes() == *origin));
        let foreign_site = values("sec-fetch-site").iter().any(|site| !matches!(*site, b"same-origin" | b"none"));
        if foreign_origin || foreign_site {
            return Err(Answer::error(403, "requests of other pages are refused"));
        }
        if !matches!(method, "GET" | "HEAD") {
            return Err(Answer::error(405, "GET and HEAD only"));
        }
        let has_body = values("content-length").iter().any(|n| *n != b"0") || !values("transfer-encoding").is_empty();
        if has_body {
            return Err(Answer::error(400, "no bodies"));
        }
        let close = values("connection").iter().any(|value| value.eq_ignore_ascii_case(b"close"));
        Ok(Admitted { request: self.route(target)?, head_only: method == "HEAD", close })
    }

    /// Checks the token and the characters of a target.
    fn route(&self, target: &str) -> Result<Request, Answer> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let refused = || Answer::error(404, "not found: is the address complete, with its token?");
        let rest = path.strip_prefix('/').ok_or_else(refused)?;
        let (token, rest) = rest.split_once('/').ok_or_else(refused)?;
        if !equal(token.as_bytes(), self.token.as_bytes()) {
            return Err(refused());
        }
        let plain = |text: &str, more: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
        if !plain(rest, "._-/") || rest.split('/').any(|part| part == "..") || !plain(query, "=&_-.") {
            return Err(Answer::error(400, "no such address"));
        }
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Ok(Request { path: rest.to_owned(), query })
    }
}

/// Compares in a time that does not tell how much is equal.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (x, y)| differences | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn ask(head: &str) -> Result<Admitted, u16> {
        let gate = Gate { port: 8000, token: TOKEN.into() };
        gate.admit(head.replace('\n', "\r\n").as_bytes()).map_err(|answer| answer.status)
    }

    fn get(target: &str) -> Result<Admitted, u16> {
        ask(&format!("GET {target} HTTP/1.1\nHost: 127.0.0.1:8000\n\n"))
    }

    #[test]
    fn the_right_address_is_let_in() {
        let admitted = get(&format!("/{TOKEN}/slide/3/12/0_0.jpg?n=4&tile=17")).expect("admitted");
        assert_eq!(admitted.request.path, "slide/3/12/0_0.jpg");
        assert_eq!((admitted.request.number("n"), admitted.request.number("tile")), (Some(4), Some(17)));
        assert_eq!((admitted.request.number("x"), admitted.head_only, admitted.close), (None, false, false));
        let admitted =
            ask(&format!("HEAD /{TOKEN}/ HTTP/1.1\nHost: localhost:8000\nConnection: Close\n\n")).expect("admitted");
        assert!(admitted.head_only && admitted.close && admitted.request.path.is_empty());
    }

    #[test]
    fn tokens_and_paths_are_checked() {
        for target in
            ["/", "/slide/1", &format!("/{TOKEN}"), &format!("/{}/", &TOKEN[1..]), &format!("/{}0/", &TOKEN[..31])]
        {
            assert_eq!(get(target).expect_err("refused"), 404, "{target}");
        }
        for rest in ["../etc/passwd", "slide/%2e%2e/x", "a\\b", "slide/..", "a?x=%00", "a?<b>", "ü"] {
            assert_eq!(get(&format!("/{TOKEN}/{rest}")).expect_err("refused"), 400, "{rest}");
        }
    }

    #[test]
    fn other_hosts_and_pages_are_refused() {
        let with = |headers: &str| ask(&format!("GET /{TOKEN}/ HTTP/1.1\n{headers}\n\n")).map(|_| ());
        let own = "Host: 127.0.0.1:8000";
        assert_eq!(with(own), Ok(()));
        for host in [
            "Host: evil.example:8000",
            "Host: 127.0.0.1",
            "Host: 127.0.0.1:8001",
            "Host: 127.0.0.1:8000.evil.example",
            "Accept: */*",
        ] {
            assert_eq!(with(host), Err(421), "{host}");
        }
        assert_eq!(with(&format!("{own}\nHost: evil.example")), Err(421), "two hosts");
        assert_eq!(with(&format!("{own}\nOrigin: http://127.0.0.1:8000")), Ok(()));
        assert_eq!(with(&format!("{own}\nSec-Fetch-Site: same-origin")), Ok(()));
        for foreign in
            ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"]
        {
            assert_eq!(with(&format!("{own}\n{foreign}")), Err(403), "{foreign}");
        }
    }

    #[test]
    fn methods_bodies_and_noise_are_refused() {
        let own = "Host: 127.0.0.1:8000";
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"] {
            assert_eq!(ask(&format!("{method} /{TOKEN}/ HTTP/1.1\n{own}\n\n")).expect_err("refused"), 405, "{method}");
        }
        for more in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
            assert_eq!(ask(&format!("GET /{TOKEN}/ HTTP/1.1\n{own}\n{more}\n\n")).expect_err("refused"), 400);
        }
        for noise in ["\n\n", "GET\n\n", "\u{16}\u{3}\u{1}\n\n", &format!("GET /{TOKEN}/ HTTP/1.0\n{own}\n\n")] {
            assert_eq!(ask(noise).expect_err("refused"), 400, "{noise:?}");
        }
        let many = (0..100).map(|i| format!("X{i}: y\n")).collect::<String>();
        assert_eq!(ask(&format!("GET /{TOKEN}/ HTTP/1.1\n{own}\n{many}\n")).expect_err("refused"), 431);
    }

    #[test]
    fn a_connection_serves_several_requests_and_survives_bad_ones() {
        let server = Server::bind(0).expect("binds");
        let address = server.address();
        let host = address.trim_start_matches("http://").split('/').next().expect("a host").to_owned();
        let token = server.gate.token.clone();
        std::thread::spawn(move || server.serve(|request| Answer::ok("text/plain", request.path.clone())));
        let talk = |text: String| {
            let mut stream = TcpStream::connect(&host).expect("connects");
            stream.write_all(text.replace('\n', "\r\n").as_bytes()).expect("sends");
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("answers");
            said
        };
        let two = format!(
            "GET /{token}/a HTTP/1.1\nHost: {host}\n\nGET /{token}/b HTTP/1.1\nHost: {host}\nConnection: close\n\n"
        );
        let said = talk(two);
        assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 2, "{said}");
        assert!(said.contains("\r\n\r\naHTTP") && said.ends_with("\r\n\r\nb") && said.contains("nosniff"));
        assert!(talk("nonsense\n\n".into()).starts_with("HTTP/1.1 400"));
        assert!(talk(format!("GET / HTTP/1.1\nX: {}\n\n", "y".repeat(20_000))).starts_with("HTTP/1.1 431"));
        assert!(talk(format!("GET /{token}/c HTTP/1.1\nHost: {host}\nConnection: close\n\n")).ends_with("\r\n\r\nc"));
    }
}
