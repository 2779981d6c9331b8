//! Owns a mock of the Messages API: enough of HTTP/1.1, Server-Sent Events and the `/v1/messages`
//! answers for the real client to run a scripted tool loop. Never keeps state about a
//! conversation: which round is next is read from the request itself, so that a client that was
//! restarted and resumed goes on where the transcript ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Largest request body that is read, bytes. The client's own limit on a request is 32 MB.
const BODY_LIMIT: u64 = 64 << 20;
/// Every tool call of a scenario has an id with this prefix, then the round, then a number that is
/// new for each request.
const ID_PREFIX: &str = "toolu_cs_r";

/// What the main conversation is answered with.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Tool calls before the final text.
    pub rounds: u32,
    /// The Bash command of a round; `{n}` becomes the round, counted from 1.
    pub command: String,
    /// The answer after the last round.
    pub final_text: String,
    /// A round whose result is an error (the command failed, or the client says that the call was
    /// interrupted) is called again until it has been called this many times.
    pub attempts: u32,
    /// Milliseconds before the first byte of an answer of the main conversation.
    pub think_ms: u64,
    /// Milliseconds between two events of a stream.
    pub chunk_delay_ms: u64,
    /// Text that is streamed ahead of the tool call and of the final text, in this many pieces.
    pub chunks: u32,
    /// The first so many requests of the main conversation are answered with 529 (overloaded).
    pub overloaded_first: u32,
    /// The connection is cut in mid-stream for the first so many answers of the main conversation.
    pub drop_first: u32,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            rounds: 3,
            command: "echo round-{n}".into(),
            final_text: "ALL DONE".into(),
            attempts: 10,
            think_ms: 0,
            chunk_delay_ms: 0,
            chunks: 2,
            overloaded_first: 0,
            drop_first: 0,
        }
    }
}

impl Scenario {
    /// The scenario as JSON, the form in which `mock-api --scenario` takes it.
    #[must_use]
    pub fn to_json(&self) -> String {
        json!({
            "rounds": self.rounds,
            "command": self.command,
            "final_text": self.final_text,
            "attempts": self.attempts,
            "think_ms": self.think_ms,
            "chunk_delay_ms": self.chunk_delay_ms,
            "chunks": self.chunks,
            "overloaded_first": self.overloaded_first,
            "drop_first": self.drop_first,
        })
        .to_string()
    }

    /// Reads what [`Scenario::to_json`] wrote. Missing fields have their default.
    ///
    /// # Errors
    /// Not JSON, an unknown field, or a value of the wrong type or range.
    pub fn from_json(text: &str) -> Result<Scenario, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let fields = value.as_object().ok_or("a scenario is an object")?;
        let mut scenario = Scenario::default();
        for (name, value) in fields {
            let wrong = || format!("scenario: bad value for {name}: {value}");
            let number = || value.as_u64().ok_or_else(wrong);
            let count = || number().and_then(|n| u32::try_from(n).map_err(|_| wrong()));
            let string = || value.as_str().map(str::to_owned).ok_or_else(wrong);
            match name.as_str() {
                "rounds" => scenario.rounds = count()?,
                "command" => scenario.command = string()?,
                "final_text" => scenario.final_text = string()?,
                "attempts" => scenario.attempts = count()?,
                "think_ms" => scenario.think_ms = number()?,
                "chunk_delay_ms" => scenario.chunk_delay_ms = number()?,
                "chunks" => scenario.chunks = count()?,
                "overloaded_first" => scenario.overloaded_first = count()?,
                "drop_first" => scenario.drop_first = count()?,
                _ => return Err(format!("scenario: unknown field {name}")),
            }
        }
        Ok(scenario)
    }
}

/// How the mock is served.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Gets one JSON line for each request.
    pub log: Option<PathBuf>,
    /// Serve HTTPS; `ca.pem` is written into this folder.
    pub tls_dir: Option<PathBuf>,
}

/// A running mock on a free port of 127.0.0.1. Drop stops it.
#[derive(Debug)]
pub struct Mock {
    address: SocketAddr,
    tls: bool,
    stop: Arc<AtomicBool>,
}

impl Mock {
    /// Starts to serve in threads of this process.
    ///
    /// # Errors
    /// The port, the log file or the certificate could not be made.
    pub fn start(scenario: Scenario, options: Options) -> io::Result<Mock> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let tls = match &options.tls_dir {
            Some(dir) => Some(tls::server_config(dir)?),
            None => None,
        };
        let log = match &options.log {
            Some(path) => Some(Mutex::new(
                File::options().create(true).append(true).open(path)?,
            )),
            None => None,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mock = Mock {
            address,
            tls: tls.is_some(),
            stop: Arc::clone(&stop),
        };
        let server = Arc::new(Server {
            scenario,
            log,
            started: Instant::now(),
            requests: AtomicU64::new(0),
            main_requests: AtomicU32::new(0),
            main_answers: AtomicU32::new(0),
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (server, tls) = (Arc::clone(&server), tls.clone());
                // A client that goes away in mid-answer is part of the tests, not an error.
                thread::spawn(move || {
                    let _ = serve(&server, stream, tls);
                });
            }
        });
        Ok(mock)
    }

    /// For `ANTHROPIC_BASE_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes accept(); if that fails the thread ends with the process.
        let _ = TcpStream::connect(self.address);
    }
}

struct Server {
    scenario: Scenario,
    log: Option<Mutex<File>>,
    started: Instant,
    requests: AtomicU64,
    main_requests: AtomicU32,
    main_answers: AtomicU32,
}

fn serve(
    server: &Server,
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => {
            let mut reader = BufReader::new(stream.try_clone()?);
            let result = serve_requests(server, &mut reader, &mut &stream);
            let _ = stream.shutdown(Shutdown::Both);
            result
        }
        Some(config) => {
            let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
            let mut both = tls::Duplex::new(rustls::StreamOwned::new(connection, stream));
            let mut reader = BufReader::new(both.clone());
            let result = serve_requests(server, &mut reader, &mut both);
            // A cut answer is cut without the closing alert.
            if result.is_ok() {
                both.close_notify();
            }
            result
        }
    }
}

fn serve_requests(
    server: &Server,
    reader: &mut impl BufRead,
    writer: &mut impl Write,
) -> io::Result<()> {
    while let Some(request) = read_request(reader, writer)? {
        let keep_alive = request.keep_alive;
        answer(server, &request, writer)?;
        if !keep_alive {
            break;
        }
    }
    Ok(())
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
    keep_alive: bool,
}

/// Reads one request; `None` when the connection ended between two requests.
fn read_request(reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<Option<Request>> {
    let bad = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut line = String::new();
    if limited_line(reader, &mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let method = words.next().ok_or(bad("no method"))?.to_owned();
    let target = words.next().ok_or(bad("no target"))?;
    let path = target.split('?').next().unwrap_or(target).to_owned();
    let mut keep_alive = words.next() != Some("HTTP/1.0");
    let (mut length, mut chunked, mut wait) = (0u64, false, false);
    loop {
        line.clear();
        if limited_line(reader, &mut line)? == 0 {
            return Err(bad("headers cut off"));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().map_err(|_| bad("content-length"))?,
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" if value.eq_ignore_ascii_case("close") => keep_alive = false,
            "expect" => wait = true,
            _ => {}
        }
    }
    if wait {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        writer.flush()?;
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            line.clear();
            limited_line(reader, &mut line)?;
            let size = line.split(';').next().unwrap_or("").trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| bad("chunk size"))?;
            if body.len() as u64 + size > BODY_LIMIT {
                return Err(bad("body too long"));
            }
            reader.take(size).read_to_end(&mut body)?;
            line.clear();
            limited_line(reader, &mut line)?;
            if size == 0 {
                break;
            }
        }
    } else {
        if length > BODY_LIMIT {
            return Err(bad("body too long"));
        }
        if reader.take(length).read_to_end(&mut body)? as u64 != length {
            return Err(bad("body cut off"));
        }
    }
    Ok(Some(Request {
        method,
        path,
        body,
        keep_alive,
    }))
}

fn limited_line(reader: &mut impl BufRead, line: &mut String) -> io::Result<usize> {
    reader.take(64 << 10).read_line(line)
}

/// What the mock does with one request to `/v1/messages`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    /// Call the tool for this round; the attempt tells repeated calls of one round apart.
    Tool { round: u32, attempt: u32 },
    /// All rounds have their result.
    Final,
    /// Not the main conversation: title, topic or quota check.
    Side,
}

fn answer(server: &Server, request: &Request, writer: &mut impl Write) -> io::Result<()> {
    let number = server.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let path = request.path.trim_end_matches('/');
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    match (request.method.as_str(), path) {
        ("POST", "/v1/messages") => messages(server, number, request, &body, writer),
        ("POST", "/v1/messages/count_tokens") => {
            server.record(number, request, &body, "count_tokens", None);
            // Four bytes a token is near enough for a client that only budgets with it.
            let tokens = request.body.len() / 4 + 1;
            send_json(writer, "200 OK", &json!({ "input_tokens": tokens }))
        }
        ("HEAD" | "GET", "") => {
            server.record(number, request, &body, "root", None);
            let mut headers = Vec::from(
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n",
            );
            if request.method == "GET" {
                headers.extend_from_slice(b"{}");
            }
            writer.write_all(&headers)?;
            writer.flush()
        }
        _ => {
            server.record(number, request, &body, "not_found", None);
            let error = json!({"type": "error", "error": {"type": "not_found_error", "message": "not in this mock"}});
            send_json(writer, "404 Not Found", &error)
        }
    }
}

fn messages(
    server: &Server,
    number: u64,
    request: &Request,
    body: &Value,
    writer: &mut impl Write,
) -> io::Result<()> {
    let scenario = &server.scenario;
    let reply = reply_for(body, scenario.rounds, scenario.attempts);
    let stream = body["stream"].as_bool().unwrap_or(false);
    let mut cut = false;
    if reply != Reply::Side {
        let nth = server.main_requests.fetch_add(1, Ordering::Relaxed);
        if nth < scenario.overloaded_first {
            server.record(number, request, body, "overloaded", Some(&reply));
            let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
            return send_json(writer, "529 Overloaded", &error);
        }
        cut = server.main_answers.fetch_add(1, Ordering::Relaxed) < scenario.drop_first;
        server.record(
            number,
            request,
            body,
            if cut { "dropped" } else { "answered" },
            Some(&reply),
        );
        thread::sleep(Duration::from_millis(scenario.think_ms));
    } else {
        server.record(number, request, body, "answered", Some(&reply));
    }
    let model = body["model"].as_str().unwrap_or("mock");
    let id = format!("msg_cs_{}_{number:08}", std::process::id());
    let head = json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null,
        "usage": { "input_tokens": request.body.len() / 4 + 1, "output_tokens": 1,
                   "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0 },
    });
    let (blocks, stop_reason) = content(&reply, scenario, number);
    if !stream {
        let mut message = head;
        message["content"] = Value::Array(blocks);
        message["stop_reason"] = json!(stop_reason);
        return send_json(writer, "200 OK", &message);
    }
    writer.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    let mut events = EventStream {
        writer,
        delay: Duration::from_millis(if reply == Reply::Side {
            0
        } else {
            scenario.chunk_delay_ms
        }),
    };
    events.send(
        "message_start",
        &json!({"type": "message_start", "message": head}),
    )?;
    events.send("ping", &json!({"type": "ping"}))?;
    for (index, block) in blocks.iter().enumerate() {
        let mut empty = block.clone();
        let deltas: Vec<Value> = if let Some(text) = block["text"].as_str() {
            empty["text"] = json!("");
            pieces(text, scenario.chunks)
                .map(|t| json!({"type": "text_delta", "text": t}))
                .collect()
        } else {
            empty["input"] = json!({});
            let input = block["input"].to_string();
            pieces(&input, scenario.chunks)
                .map(|t| json!({"type": "input_json_delta", "partial_json": t}))
                .collect()
        };
        events.send(
            "content_block_start",
            &json!({"type": "content_block_start", "index": index, "content_block": empty}),
        )?;
        for delta in deltas {
            events.send(
                "content_block_delta",
                &json!({"type": "content_block_delta", "index": index, "delta": delta}),
            )?;
            if cut {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "cut by the scenario",
                ));
            }
        }
        events.send(
            "content_block_stop",
            &json!({"type": "content_block_stop", "index": index}),
        )?;
    }
    events.send(
        "message_delta",
        &json!({"type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": null}, "usage": {"output_tokens": 20}}),
    )?;
    events.send("message_stop", &json!({"type": "message_stop"}))?;
    writer.write_all(b"0\r\n\r\n")?;
    writer.flush()
}

/// Reads from the conversation what comes next. A pure function of the request.
fn reply_for(body: &Value, rounds: u32, attempts: u32) -> Reply {
    let has_bash = body["tools"]
        .as_array()
        .is_some_and(|tools| tools.iter().any(|t| t["name"] == "Bash"));
    if !has_bash {
        return Reply::Side;
    }
    let blocks = body["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|m| m["content"].as_array())
        .flatten();
    let mut finished = vec![false; rounds as usize];
    let mut calls = vec![0u32; rounds as usize];
    for block in blocks {
        let (id, result) = match block["type"].as_str() {
            Some("tool_use") => (block["id"].as_str(), false),
            Some("tool_result") => (block["tool_use_id"].as_str(), true),
            _ => continue,
        };
        let Some(index) = id
            .and_then(round_of)
            .and_then(|round| (round as usize).checked_sub(1))
        else {
            continue;
        };
        if index >= finished.len() {
            continue;
        }
        if !result {
            calls[index] += 1;
        } else if block["is_error"] != json!(true) {
            finished[index] = true;
        }
    }
    // 2.1.110 leaves a call without a result out of the next request: it is then not counted here.
    match (0..finished.len()).find(|&i| !finished[i] && calls[i] < attempts) {
        None => Reply::Final,
        Some(index) => Reply::Tool {
            round: index as u32 + 1,
            attempt: calls[index] + 1,
        },
    }
}

fn round_of(id: &str) -> Option<u32> {
    id.strip_prefix(ID_PREFIX)?.split('_').next()?.parse().ok()
}

fn content(reply: &Reply, scenario: &Scenario, number: u64) -> (Vec<Value>, &'static str) {
    match reply {
        Reply::Tool { round, .. } => {
            let command = scenario.command.replace("{n}", &round.to_string());
            let text = format!("Round {round} of {}.", scenario.rounds);
            let tool = json!({
                "type": "tool_use",
                "id": format!("{ID_PREFIX}{round:04}_{number:08}"),
                "name": "Bash",
                "input": { "command": command, "description": format!("Round {round}") },
            });
            (
                vec![json!({"type": "text", "text": text}), tool],
                "tool_use",
            )
        }
        Reply::Final => (
            vec![json!({"type": "text", "text": scenario.final_text})],
            "end_turn",
        ),
        Reply::Side => (
            vec![json!({"type": "text", "text": "{\"title\": \"Mock session\"}"})],
            "end_turn",
        ),
    }
}

/// Cuts a text into at most `count` pieces at character borders.
fn pieces(text: &str, count: u32) -> impl Iterator<Item = String> {
    let characters: Vec<char> = text.chars().collect();
    let size = characters.len().div_ceil(count.max(1) as usize).max(1);
    characters
        .chunks(size)
        .map(|c| c.iter().collect())
        .collect::<Vec<String>>()
        .into_iter()
}

struct EventStream<'a, W: Write> {
    writer: &'a mut W,
    delay: Duration,
}

impl<W: Write> EventStream<'_, W> {
    fn send(&mut self, event: &str, data: &Value) -> io::Result<()> {
        let text = format!("event: {event}\ndata: {data}\n\n");
        write!(self.writer, "{:x}\r\n{text}\r\n", text.len())?;
        self.writer.flush()?;
        thread::sleep(self.delay);
        Ok(())
    }
}

fn send_json(writer: &mut impl Write, status: &str, value: &Value) -> io::Result<()> {
    let text = value.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    writer.write_all(head.as_bytes())?;
    writer.write_all(text.as_bytes())?;
    writer.flush()
}

impl Server {
    fn record(
        &self,
        number: u64,
        request: &Request,
        body: &Value,
        action: &str,
        reply: Option<&Reply>,
    ) {
        let Some(log) = &self.log else { return };
        let last = body["messages"].as_array().and_then(|m| m.last());
        let last_text: String = last
            .map(|m| match &m["content"] {
                Value::String(text) => text.clone(),
                Value::Array(blocks) => blocks
                    .iter()
                    .map(|b| match (b["text"].as_str(), &b["content"]) {
                        (Some(text), _) => text.to_owned(),
                        (None, Value::String(text)) => format!("[result] {text}"),
                        (None, other) => format!("[{}] {other}", b["type"].as_str().unwrap_or("?")),
                    })
                    .collect::<Vec<_>>()
                    .join(" | "),
                _ => String::new(),
            })
            .unwrap_or_default();
        let mut line = json!({
            "t_ms": self.started.elapsed().as_millis() as u64,
            "n": number,
            "method": request.method,
            "path": request.path,
            "action": action,
            "model": body["model"],
            "stream": body["stream"],
            "messages": body["messages"].as_array().map_or(0, Vec::len),
            "tools": body["tools"].as_array().map_or(0, Vec::len),
            "last_role": last.map_or(Value::Null, |m| m["role"].clone()),
            // The end, not the start: the client puts its reminders first.
            "last_text": tail(&last_text, 400),
        });
        match reply {
            Some(Reply::Tool { round, attempt }) => {
                line["round"] = json!(round);
                line["attempt"] = json!(attempt);
            }
            Some(Reply::Final) => line["final"] = json!(true),
            Some(Reply::Side) => line["side"] = json!(true),
            None => {}
        }
        let mut file = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A full disk loses log lines; the test that reads them then fails with its own reason.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

fn tail(text: &str, count: usize) -> String {
    let skip = text.chars().count().saturating_sub(count);
    text.chars().skip(skip).collect()
}

mod tls {
    //! The certificate of the mock and a TLS stream with a reading and a writing end.

    use std::cell::RefCell;
    use std::fs;
    use std::io::{self, Read, Write};
    use std::net::TcpStream;
    use std::path::Path;
    use std::rc::Rc;
    use std::sync::Arc;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    /// Makes a CA and a certificate for localhost and 127.0.0.1, and writes `dir/ca.pem`.
    pub(super) fn server_config(dir: &Path) -> io::Result<Arc<ServerConfig>> {
        let ca_key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
        let mut ca = rcgen::CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::DigitalSignature,
        ];
        ca.distinguished_name
            .push(rcgen::DnType::CommonName, "claude-safe test CA");
        let ca_certificate = ca.self_signed(&ca_key).map_err(io::Error::other)?;
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
        let mut leaf = rcgen::CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])
            .map_err(io::Error::other)?;
        leaf.distinguished_name
            .push(rcgen::DnType::CommonName, "localhost");
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = leaf.signed_by(&key, &issuer).map_err(io::Error::other)?;
        fs::write(dir.join("ca.pem"), ca_certificate.pem())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .map_err(io::Error::other)?;
        Ok(Arc::new(config))
    }

    /// Two handles on one TLS stream, used by one thread in turn: a request is read to its end
    /// before its answer is written.
    #[derive(Clone)]
    pub(super) struct Duplex(Rc<RefCell<StreamOwned<ServerConnection, TcpStream>>>);

    impl Duplex {
        pub(super) fn new(stream: StreamOwned<ServerConnection, TcpStream>) -> Duplex {
            Duplex(Rc::new(RefCell::new(stream)))
        }

        /// Tells the other side that the end of the data is the real end.
        pub(super) fn close_notify(&mut self) {
            let mut stream = self.0.borrow_mut();
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }

    impl Read for Duplex {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.borrow_mut().read(buffer)
        }
    }

    impl Write for Duplex {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(buffer)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.borrow_mut().flush()
        }
    }
}
