//! A malicious user against the server: each attempt is refused, nothing is lost, and the others are not affected.
//!
//! Requests go over real HTTP to a real `kegd`, made by hand: no client of ours would make them.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use kegfs::api::{
    ApiError, AppendEntry, BlobIds, Challenge, ChallengeRequest, DbList, Detail, ErrorCode, LoginRequest,
    LoginStatement, Register, Token, routes,
};
use kegfs::crypto::{labels, verified};
use kegfs::format::{BlobId, BlobRef, DbId, DeviceId, Envelope, Role, decode, encode};
use kegfs::keyring::{Draft, Identity};
use kegfs::remote::{HttpOptions, RemoteError};
use kegfs::server::{Config, Limits, Server, ServerError, Tls};
use kegfs::sync::{NewAccount, connect};
use reqwest::Method;

use crate::cheat::{Shadow, account_log, direct, name, wait};
use crate::common;
use crate::content::noise;
use crate::sync_support::*;

/// An answer, whole.
struct Answer {
    status: u16,
    body: Vec<u8>,
    retry_after: Option<u64>,
}

impl Answer {
    fn code(&self) -> Option<ErrorCode> {
        decode::<ApiError>(&self.body).ok().map(|error| error.code)
    }
}

/// A logged-in device that does what it likes.
struct Wild {
    url: String,
    token: String,
    client: reqwest::Client,
}

fn client(from: Option<IpAddr>) -> reqwest::Client {
    reqwest::Client::builder().no_proxy().http1_only().local_address(from).build().unwrap()
}

impl Wild {
    fn login(kegd: &Kegd, identity: &Identity) -> Self {
        let (account, device) = (identity.account, identity.device_id());
        let mut wild = Self { url: kegd.url(), token: String::new(), client: client(None) };
        let asked = wild.call(Method::POST, routes::LOGIN_CHALLENGE, encode(&ChallengeRequest { account, device }));
        let Challenge { challenge, server_name } = decode(&asked.body).unwrap();
        let statement = LoginStatement { server_name, challenge, account, device }.to_bytes();
        let signature = identity.device.signing_key().sign(labels::SIGN_LOGIN, &statement).0;
        let request = encode(&LoginRequest { account, device, challenge, signature });
        let token: Token = decode(&wild.call(Method::POST, routes::LOGIN, request).body).unwrap();
        wild.token = token.token;
        wild
    }

    /// Somebody without a token.
    fn nobody(kegd: &Kegd) -> Self {
        Self { url: kegd.url(), token: String::new(), client: client(None) }
    }

    fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Answer {
        wait(async {
            let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body);
            if !self.token.is_empty() {
                request = request.bearer_auth(&self.token);
            }
            let answer = request.send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let retry_after = headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            Answer { status, body: answer.bytes().await.unwrap().to_vec(), retry_after }
        })
    }

    fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, vec![])
    }
}

fn refused(answer: &Answer, code: ErrorCode) {
    assert_eq!((answer.status, answer.code()), (code.status(), Some(code)));
}

/// Alice and Bob share a folder, as ever; Eve has an account and nothing else.
struct Scene {
    pair: Pair,
    eve: Person,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let kegd = Kegd::start_with(limits);
        let pair = Pair::on(kegd);
        write(&pair.ours, "plan.txt", b"meet at noon");
        pair.settle();
        let eve = Person::join(&pair.kegd, "eve");
        Self { pair, eve }
    }

    fn db(&self) -> DbId {
        self.pair.ours.id()
    }

    /// Nothing is lost and nobody is affected: both go on working, and the tree is whole.
    fn all_is_well(&self) {
        let name = format!("still-works-{}", names(&self.pair.ours).len());
        write(&self.pair.ours, &name, b"by alice");
        self.pair.settle();
        let tree = tree(&self.pair.theirs);
        assert_eq!(tree["plan.txt"], b"meet at noon");
        assert_eq!(tree[&name], b"by alice");
        assert_eq!(self.pair.ours.frozen(), None);
        let health = Wild::nobody(&self.pair.kegd).get("/healthz");
        assert_eq!(health.status, 200);
    }

    fn bob(&self) -> Shadow {
        Shadow::of(&self.pair.kegd, &self.pair.bob, &self.pair.theirs)
    }

    fn blob(&self) -> BlobId {
        let view = self.pair.ours.replica.view();
        let node = view.lookup(kegfs::keg::ROOT_INO, b"plan.txt").unwrap().unwrap();
        view.extents(node.ino, 0, node.size).unwrap()[0].blob
    }
}

#[test]
fn abuse_reading_a_folder_one_is_not_in() {
    let scene = Scene::new(Limits::default());
    let wild = Wild::login(&scene.pair.kegd, &scene.eve.identity());
    let (db, blob) = (scene.db(), scene.blob());
    let list: DbList = decode(&wild.get(routes::DBS).body).unwrap();
    assert!(list.dbs.is_empty());
    // A folder that is there and one that is not look the same, byte for byte.
    let attempts = |db: DbId| {
        let entry = scene.bob().batch(vec![name("by eve")]);
        vec![
            wild.get(&routes::entries_after(&db, 0, 1 << 20)),
            wild.get(&routes::member_box(&db, 2)),
            wild.get(&routes::blob(&db, &blob)),
            wild.get(&routes::blob_range(&db, &blob, 0, 10)),
            wild.call(Method::POST, &routes::blobs_missing(&db), encode(&BlobIds { ids: vec![blob] })),
            wild.call(Method::PUT, &routes::blob(&db, &blob), vec![1, 2, 3]),
            wild.call(Method::POST, &routes::entries(&db), encode(&AppendEntry { entry, boxes: vec![] })),
        ]
    };
    let (there, nowhere) = (attempts(db), attempts(DbId([9; 32])));
    for (number, (there, nowhere)) in there.iter().zip(&nowhere).enumerate() {
        assert!(
            there.status == 404 || there.code() == Some(ErrorCode::EntryRefused),
            "attempt {number}: {}",
            there.status
        );
        assert_eq!((there.status, &there.body), (nowhere.status, &nowhere.body), "attempt {number}");
    }
    // The event stream says nothing of it.
    let heard = {
        let mut stream = TcpStream::connect(scene.pair.kegd.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        write!(stream, "GET {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", routes::EVENTS, wild.token)
            .unwrap();
        write(&scene.pair.ours, "more.txt", b"more");
        scene.pair.settle();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        String::from_utf8_lossy(&heard).into_owned()
    };
    assert!(heard.contains("event: ready") && !heard.contains(&db.to_string()), "{heard}");
    scene.all_is_well();
}

#[test]
fn abuse_appending_and_uploading_without_the_role() {
    let scene = Scene::new(Limits::default());
    let (alice, eve) = (scene.pair.alice.session(), scene.eve.id);
    alice.add_member(&scene.pair.ours, eve, Role::Viewer).unwrap();
    let theirs = scene.eve.folder("acme");
    let shadow = Shadow::of(&scene.pair.kegd, &scene.eve, &theirs);
    let wild = Wild::login(&scene.pair.kegd, &scene.eve.identity());
    let db = scene.db();
    assert_eq!(shadow.post(&shadow.batch(vec![name("defaced")]), &[]).unwrap_err().code(), Some(ErrorCode::Role));
    let bytes = noise(1000);
    let id = BlobId(verified::blob_id(&bytes));
    refused(&wild.call(Method::PUT, &routes::blob(&db, &id), bytes), ErrorCode::Role);
    let asks = encode(&BlobIds { ids: vec![id] });
    refused(&wild.call(Method::POST, &routes::blobs_missing(&db), asks), ErrorCode::Role);
    assert_eq!(wild.get(&routes::blob(&db, &id)).status, 404, "nothing was stored");
    // A membership entry may be signed by everybody (to leave); it may not release others' blobs on the way.
    let leave = shadow.membership(kegfs::format::MembershipChange::Remove { account: eve }, None);
    let release = BlobRef { id: scene.blob(), size_bytes: 1 };
    let sly = shadow.forged(&leave, |envelope| envelope.releases.push(release));
    assert!(shadow.post(&sly, &[]).is_err());
    scene.all_is_well();
}

#[test]
fn abuse_blobs_whose_bytes_do_not_match_their_id() {
    let scene = Scene::new(Limits::default());
    let wild = Wild::login(&scene.pair.kegd, &scene.pair.bob.identity());
    let (db, bytes) = (scene.db(), noise(300_000));
    let id = BlobId(verified::blob_id(&bytes));
    let mut other = bytes.clone();
    other[200_000] ^= 1;
    for body in [other, bytes[..299_999].to_vec(), [&bytes[..], &[0]].concat(), vec![]] {
        refused(&wild.call(Method::PUT, &routes::blob(&db, &id), body), ErrorCode::BlobMismatch);
        let missing = wild.call(Method::POST, &routes::blobs_missing(&db), encode(&BlobIds { ids: vec![id] }));
        assert_eq!(decode::<BlobIds>(&missing.body).unwrap().ids, [id], "nothing was stored");
    }
    // Over one that is there: it stays what it was.
    let kept = scene.blob();
    refused(&wild.call(Method::PUT, &routes::blob(&db, &kept), vec![1; 5000]), ErrorCode::BlobMismatch);
    let spool = std::fs::read_dir(scene.pair.kegd.data().join("blobs")).unwrap().flatten();
    let leftover = spool.filter(|entry| entry.file_name().to_string_lossy().contains("tmp"));
    let leftover = leftover.filter(|entry| std::fs::read_dir(entry.path()).is_ok_and(|mut dir| dir.next().is_some()));
    assert_eq!(leftover.count(), 0, "no half uploads are left");
    assert_eq!(wild.call(Method::PUT, &routes::blob(&db, &id), bytes).status, 201);
    scene.all_is_well();
}

#[test]
fn abuse_over_quota() {
    let scene = Scene::new(Limits { quota_bytes: 1 << 20, ..Limits::default() });
    let wild = Wild::login(&scene.pair.kegd, &scene.pair.bob.identity());
    let mut stored = 0;
    let mut last = None;
    for number in 0..40_usize {
        let bytes = noise(100_000 + number);
        let id = BlobId(verified::blob_id(&bytes));
        let answer = wild.call(Method::PUT, &routes::blob(&scene.db(), &id), bytes);
        if answer.status == 201 {
            stored += 1;
        } else {
            last = Some(answer);
        }
    }
    assert!((5..=10).contains(&stored), "{stored} blobs of 100 kB in a quota of 1 MiB");
    let last = last.unwrap();
    refused(&last, ErrorCode::Quota);
    assert_eq!(decode::<ApiError>(&last.body).unwrap().detail, Detail::Limit(1 << 20));
    // What nobody refers to counts as well; somebody else's quota is another.
    let eves = scene.eve.session().create_folder("eve's own").unwrap();
    write(&eves, "a.bin", &noise(500_000));
    eves.wait_uploaded_blocking(PATIENCE).unwrap();
    // Small writes that fit still work for the two.
    write(&scene.pair.ours, "tiny", b"x");
    scene.pair.settle();
    assert_eq!(read(&scene.pair.theirs, "plan.txt").unwrap(), b"meet at noon");
}

/// Peak memory of this process, the server in it included.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

/// What the server says to a request of which the body never ends, and how much of it was taken.
fn endless(address: SocketAddr, path: &str, token: &str) -> (String, usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let method = if path.contains("/blobs/") { "PUT" } else { "POST" };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .unwrap();
    let part = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 64 << 20 {
        let ok = write!(stream, "{:x}\r\n", part.len())
            .and_then(|()| stream.write_all(&part))
            .and_then(|()| stream.write_all(b"\r\n"));
        if ok.is_err() {
            break;
        }
        sent += part.len();
    }
    let mut answer = vec![0; 4096];
    let len = stream.read(&mut answer).unwrap_or(0);
    (String::from_utf8_lossy(&answer[..len]).into_owned(), sent)
}

#[test]
fn abuse_oversized_and_endless_bodies() {
    let scene = Scene::new(Limits::default());
    let wild = Wild::login(&scene.pair.kegd, &scene.pair.bob.identity());
    let db = scene.db();
    // One that says how long it is is refused before it is read.
    let big = 16 << 20;
    for (method, path) in [
        (Method::POST, routes::entries(&db)),
        (Method::POST, routes::DBS.to_owned()),
        (Method::POST, routes::REGISTER.to_owned()),
        (Method::POST, routes::LOGIN.to_owned()),
        (Method::POST, routes::account_log(&scene.pair.bob.id)),
        (Method::POST, routes::blobs_missing(&db)),
        (Method::PUT, routes::blob(&db, &BlobId([1; 32]))),
    ] {
        let mut stream = TcpStream::connect(scene.pair.kegd.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {big}\r\nconnection: close\r\n\r\n",
            wild.token
        )
        .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 413"), "{method} {path}: {answer}");
    }
    // One that does not is cut off at its bound; memory stays bounded.
    let before = peak_memory();
    for path in [routes::REGISTER.to_owned(), routes::entries(&db), routes::blob(&db, &BlobId([1; 32]))] {
        let (answer, sent) = endless(scene.pair.kegd.address, &path, &wild.token);
        assert!(sent < 40 << 20, "{sent} bytes were taken of {path}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
    }
    assert!(peak_memory() - before < 100 << 20);
    // A list beyond its bound.
    let ids = vec![BlobId([7; 32]); kegfs::api::limits::MISSING_MAX_IDS + 1];
    refused(&wild.call(Method::POST, &routes::blobs_missing(&db), encode(&BlobIds { ids })), ErrorCode::TooLarge);
    scene.all_is_well();
}

#[test]
fn abuse_slow_requests() {
    let (header_time, idle_time) = (Duration::from_millis(600), Duration::from_millis(600));
    let scene = Scene::new(Limits { header_time, idle_time, body_time: Duration::from_secs(2), ..Limits::default() });
    let wild = Wild::login(&scene.pair.kegd, &scene.pair.bob.identity());
    let address = scene.pair.kegd.address;
    // Two hundred that never finish their head, and as many that never finish their body.
    let path = routes::entries(&scene.db());
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", wild.token);
    let start = Instant::now();
    let mut streams: Vec<TcpStream> = (0..400)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            if number % 2 == 1 {
                stream.write_all(b"content-length: 1000\r\n\r\n0123456789").unwrap();
            }
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        })
        .collect();
    // Others are served meanwhile.
    scene.all_is_well();
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let timed_out = answer.is_empty() || answer.starts_with("HTTP/1.1 408");
        assert!(timed_out, "number {number}: {answer}");
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    // One byte now and then does not help: the body as a whole has a time.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    write!(stream, "{head}content-length: 1000\r\n\r\n").unwrap();
    let start = Instant::now();
    let mut answer = [0; 64];
    let got = loop {
        let _ = stream.write_all(b"x");
        std::thread::sleep(Duration::from_millis(200));
        match stream.read(&mut answer) {
            Ok(len) => break len,
            Err(_) => assert!(start.elapsed() < Duration::from_secs(10), "the trickle goes on"),
        }
    };
    assert!(got == 0 || answer.starts_with(b"HTTP/1.1 408"));
    // Who takes nothing of an answer is left, too.
    scene.all_is_well();
}

#[test]
fn abuse_floods() {
    let scene = Scene::new(Limits {
        requests_per_sec: 100,
        request_burst: 400,
        anonymous_per_sec: 20,
        anonymous_burst: 60,
        ..Limits::default()
    });
    let wild = Wild::login(&scene.pair.kegd, &scene.eve.identity());
    let limited: Vec<Answer> = (0..900).map(|_| wild.get(routes::DBS)).filter(|answer| answer.status == 429).collect();
    assert!(limited.len() > 100, "{} of 900 were refused", limited.len());
    for answer in &limited {
        refused(answer, ErrorCode::RateLimited);
        assert!(answer.retry_after.is_some_and(|seconds| (1..=2).contains(&seconds)));
        assert!(matches!(decode::<ApiError>(&answer.body).unwrap().detail, Detail::RetryAfterMs(1..)));
    }
    // The others have rates of their own.
    scene.all_is_well();
    // Nobody in particular, from one address: its own rate, and another address has its own.
    let flood = client(Some("127.0.0.77".parse().unwrap()));
    let other = client(Some("127.0.0.78".parse().unwrap()));
    let ask = |client: &reqwest::Client| {
        let request = encode(&ChallengeRequest { account: scene.eve.id, device: DeviceId([1; 32]) });
        let url = format!("{}{}", scene.pair.kegd.url(), routes::LOGIN_CHALLENGE);
        wait(async { client.post(url).body(request).send().await.unwrap().status().as_u16() })
    };
    let answers: Vec<u16> = (0..300).map(|_| ask(&flood)).collect();
    assert!(answers.iter().filter(|status| **status == 429).count() > 100);
    assert_eq!(ask(&other), 200);
    scene.all_is_well();
}

#[test]
fn abuse_more_connections_than_one_address_may_have() {
    let scene = Scene::new(Limits { connections: 300, connections_per_address: 100, ..Limits::default() });
    let address = scene.pair.kegd.address;
    let from = |host: u8| {
        let socket = wait(async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
            socket.connect(address).await.unwrap()
        });
        let stream = socket.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    };
    let served = |stream: &mut TcpStream| {
        let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut answer = [0; 16];
        asked.is_ok() && stream.read(&mut answer).is_ok_and(|len| len > 0 && answer.starts_with(b"HTTP/1.1 200"))
    };
    let mut greedy: Vec<TcpStream> = (0..250).map(|_| from(99)).collect();
    let got = greedy.iter_mut().filter_map(|stream| served(stream).then_some(())).count();
    assert_eq!(got, 100, "as many as one address may have");
    assert!(served(&mut from(98)), "another address is served");
    scene.all_is_well();
    drop(greedy);
    eventually("places are given back", || served(&mut from(99)));
}

#[test]
fn abuse_guessing_tokens() {
    let scene = Scene::new(Limits { anonymous_per_sec: 20, anonymous_burst: 100, ..Limits::default() });
    let mut wild = Wild::login(&scene.pair.kegd, &scene.eve.identity());
    let good = wild.token.clone();
    assert_eq!(wild.get(routes::DBS).status, 200);
    let from = client(Some("127.0.0.66".parse().unwrap()));
    wild.client = from;
    let guesses =
        ["", "x", "0", &"0".repeat(64), &good.to_uppercase(), &good[1..], &format!("{good}0"), &format!(" {good}")];
    for guess in guesses {
        wild.token = guess.to_owned();
        let answer = wild.get(routes::DBS);
        assert_eq!(answer.code(), Some(ErrorCode::Unauthenticated), "'{guess}'");
    }
    let statuses: Vec<u16> = (0..400_u32)
        .map(|number| {
            wild.token = format!("{number:064x}");
            wild.get(routes::DBS).status
        })
        .collect();
    assert!(statuses.iter().all(|status| [401, 429].contains(status)));
    assert!(statuses.iter().filter(|status| **status == 429).count() > 150, "guessing is slowed down");
    // The right one is not slowed down with it.
    wild.token = good;
    assert_eq!(wild.get(routes::DBS).status, 200);
    scene.all_is_well();
}

#[test]
fn abuse_registering_without_an_invite() {
    let scene = Scene::new(Limits { first_invite_uses: 4, ..Limits::default() });
    let nobody = Wild::nobody(&scene.pair.kegd);
    let register = |invite: &str| {
        let account = NewAccount::create("mallory", "laptop").unwrap();
        nobody.call(
            Method::POST,
            routes::REGISTER,
            encode(&Register { invite: invite.to_owned(), first: account.first }),
        )
    };
    let good = scene.pair.kegd.invite.clone();
    for invite in ["", "x", &"0".repeat(32), &good[1..], &"a".repeat(200_000)] {
        refused(&register(invite), ErrorCode::BadInvite);
    }
    // Three are in; one place is left, and then none.
    assert_eq!(register(&good).status, 200);
    refused(&register(&good), ErrorCode::BadInvite);
    // An account that is there already spends none, and is not another.
    let again = account_log(&direct(&scene.pair.kegd.url(), &scene.eve.identity()), scene.eve.id).remove(0);
    let answer = nobody.call(Method::POST, routes::REGISTER, encode(&Register { invite: good, first: again }));
    assert_eq!(answer.status, 200);
    scene.all_is_well();
}

#[test]
fn abuse_reusing_another_entrys_counter() {
    let scene = Scene::new(Limits::default());
    let mut bob = scene.bob();
    let alices = Shadow::of(&scene.pair.kegd, &scene.pair.alice, &scene.pair.ours);
    let first = bob.batch(vec![name("one")]);
    let twin = bob.batch(vec![name("two")]);
    let before = bob.post(&first, &[]).unwrap();
    bob.push(first.clone());
    // The own counter again, an earlier one, a later one.
    assert_eq!(bob.post(&twin, &[]).unwrap_err().code(), Some(ErrorCode::Counter));
    for counter in [0, 1, 7, u64::MAX] {
        let forged = bob.forged(&bob.batch(vec![name("x")]), |envelope| envelope.counter = counter);
        assert_eq!(bob.post(&forged, &[]).unwrap_err().code(), Some(ErrorCode::Counter), "{counter}");
    }
    // An entry in the name of Alice's device, with her counter; one of hers, sent by Bob; one of hers changed.
    let hers = alices.batch(vec![name("by alice")]);
    let device = alices.identity.device_id();
    let in_her_name = bob.forged(&hers, |envelope| envelope.device = device);
    for entry in [in_her_name, hers.clone(), bob.forged(&hers, |_| {})] {
        assert_eq!(bob.post(&entry, &[]).unwrap_err().code(), Some(ErrorCode::EntryRefused));
    }
    // The same bytes again are the same entry, and no second one.
    assert_eq!(bob.post(&first, &[]).unwrap(), before);
    // Her counter is still free for her.
    alices.post(&hers, &[]).unwrap_or_else(|error| panic!("{error}"));
    eventually("it is there", || scene.pair.theirs.name() == "by alice");
    let _ = Envelope::decode(&hers.envelope).unwrap();
}

#[test]
fn abuse_deleting_blobs_in_use() {
    let scene = Scene::new(Limits::default());
    let wild = Wild::login(&scene.pair.kegd, &scene.pair.bob.identity());
    let (db, blob) = (scene.db(), scene.blob());
    for method in [Method::DELETE, Method::PATCH, Method::POST] {
        refused(&wild.call(method, &routes::blob(&db, &blob), vec![]), ErrorCode::NoRoute);
    }
    // An editor who says that nothing refers to it any more: it is still there for who reads it.
    let shadow = scene.bob();
    let size_bytes = wild.get(&routes::blob(&db, &blob)).body.len() as u64;
    let position = shadow.position();
    let batch = kegfs::format::Batch {
        ops: vec![kegfs::format::Op { base: position.observed.seq, at_ns: 0, kind: name("x") }],
    };
    let draft = Draft { batch, adds: vec![], releases: vec![BlobRef { id: blob, size_bytes }] };
    let entry = shadow.author.batch(&position, shadow.ring.epoch(position.epoch).unwrap(), draft);
    assert_eq!(shadow.post(&entry, &[]).unwrap_err().code(), Some(ErrorCode::EntryRefused));
    // And the way in which admins do.
    let nothing = kegfs::format::Thinning { from: 0, upto: 0, keep: vec![] };
    let thins = shadow.author.thinning(&shadow.position(), &nothing, vec![BlobRef { id: blob, size_bytes }]);
    assert_eq!(shadow.post(&thins, &[]).unwrap_err().code(), Some(ErrorCode::Role));
    scene.pair.ours.local.clear_cache().unwrap();
    assert_eq!(read(&scene.pair.ours, "plan.txt").unwrap(), b"meet at noon");
    // A blob of a folder that one is not in, named in one's own: it is not there.
    let eves = scene.eve.session().create_folder("eve's").unwrap();
    let hers = Shadow::of(&scene.pair.kegd, &scene.eve, &eves);
    let position = hers.position();
    let batch = kegfs::format::Batch {
        ops: vec![kegfs::format::Op { base: position.observed.seq, at_ns: 0, kind: name("y") }],
    };
    let draft = Draft { batch, adds: vec![BlobRef { id: blob, size_bytes }], releases: vec![] };
    let steals = hers.author.batch(&position, hers.ring.epoch(position.epoch).unwrap(), draft);
    assert_eq!(hers.post(&steals, &[]).unwrap_err().code(), Some(ErrorCode::MissingBlobs));
    let hers = Wild::login(&scene.pair.kegd, &scene.eve.identity());
    assert_eq!(hers.get(&routes::blob(&eves.id(), &blob)).status, 404);
    scene.all_is_well();
}

#[test]
fn abuse_path_tricks_in_ids() {
    let scene = Scene::new(Limits::default());
    let wild = Wild::login(&scene.pair.kegd, &scene.pair.bob.identity());
    let (db, good) = (scene.db().to_string(), scene.blob().to_string());
    std::fs::write(scene.pair.kegd.data().join("blobs").join("planted"), b"planted secret").unwrap();
    let tricks = [
        "..",
        ".",
        "",
        "%2e%2e",
        "..%2f..%2flog.db",
        "..%2f..%2f..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "planted",
        "..%5cplanted",
        "tmp",
        "%00",
        &format!("{good}%00"),
        &good.to_uppercase(),
        &good[..63],
        &format!("{good}0"),
        &format!("{good}%2f..%2fplanted"),
        &format!("%20{good}"),
        &"a".repeat(7000),
    ];
    let files = || {
        let mut files = vec![];
        let mut todo = vec![scene.pair.kegd.data().to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if entry.path().is_dir() { todo.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files.sort();
        files
    };
    let before = files();
    // The very objects under another spelling are not there either.
    let (loud_db, loud_account) = (db.to_uppercase(), scene.pair.alice.id.to_string().to_uppercase());
    assert!(loud_db != db && wild.get(&format!("/v1/dbs/{db}/entries")).status == 200);
    for path in [
        format!("/v1/dbs/{loud_db}/entries"),
        format!("/v1/dbs/{loud_db}/blobs/{good}"),
        format!("/v1/dbs/{db}/blobs/{}", good.to_uppercase()),
        format!("/v1/accounts/{loud_account}/log"),
    ] {
        assert_eq!(wild.get(&path).status, 400, "{path}");
    }
    for trick in tricks {
        for path in [
            format!("/v1/dbs/{db}/blobs/{trick}"),
            format!("/v1/dbs/{trick}/blobs/{good}"),
            format!("/v1/dbs/{trick}/entries"),
            format!("/v1/accounts/{trick}/log"),
        ] {
            // By hand, so that no library tidies the path.
            for method in ["GET", "PUT"] {
                let mut stream = TcpStream::connect(scene.pair.kegd.address).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc", wild.token).unwrap();
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                let answer = String::from_utf8_lossy(&answer);
                let status = answer.get(9..12).unwrap_or("");
                assert!(["400", "404", "414", "422", "431"].contains(&status), "{method} {path}: {answer}");
                assert!(!answer.contains("planted secret") && !answer.contains("root:"), "{path}");
            }
        }
    }
    let after = files();
    let new: Vec<_> =
        after.iter().filter(|file| !before.contains(file) && !file.to_string_lossy().contains("log.db")).collect();
    assert!(new.is_empty(), "{new:?}");
    scene.all_is_well();
}

#[test]
fn tls_a_server_of_its_own_certificate_and_no_other() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let start = |dir: &std::path::Path| {
        let config = Config { tls: Tls::SelfSigned, ..Config::new(dir.to_owned()) };
        wait(Server::start(config)).unwrap()
    };
    let (true_one, false_one) = (start(one.path()), start(other.path()));
    let pem = |dir: &std::path::Path| std::fs::read(dir.join("tls-cert.pem")).unwrap();
    let account = NewAccount::create("alice", "laptop").unwrap();
    let reach = |url: String, pem: Option<Vec<u8>>| {
        let options = HttpOptions { url, server_cert_pem: pem, ..HttpOptions::default() };
        connect(&options, &account.identity)
            .map(|remote| wait(remote.register(true_one.invite().unwrap(), &account.first)))
    };
    assert!(matches!(reach(true_one.url(), Some(pem(one.path()))), Ok(Ok(_))), "with its certificate");
    assert!(matches!(reach(true_one.url(), None), Ok(Err(RemoteError::Untrusted(_)))), "nobody vouches for it");
    let wrong = reach(true_one.url(), Some(pem(other.path())));
    assert!(matches!(wrong, Ok(Err(RemoteError::Untrusted(_)))), "another server's certificate");
    let impostor = reach(false_one.url(), Some(pem(one.path())));
    assert!(matches!(impostor, Ok(Err(RemoteError::Untrusted(_)))), "an impostor");
    assert!(reach(true_one.url(), Some(b"no certificate".to_vec())).is_err());
    // Without TLS: not to a server that has it, not beyond this machine, and no server serves it there.
    let port = true_one.address().port();
    assert!(matches!(reach(format!("http://127.0.0.1:{port}"), None), Ok(Err(_))));
    for url in ["http://192.0.2.1:7440", "http://kegs.example", "http://0.0.0.0:1"] {
        let refused = reach(url.to_owned(), None);
        assert!(matches!(refused, Err(kegfs::sync::SyncError::Remote(RemoteError::BadAddress(_)))), "{url}");
    }
    let open = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        name: Some("kegs.example".into()),
        ..Config::new(other.path().join("open"))
    };
    assert!(matches!(wait(Server::start(open)), Err(ServerError::PlainHttp(_))));
    // A server on the way that speaks plain HTTP where TLS is expected (a downgrade) is no server.
    let plain = Kegd::start();
    let downgraded = reach(format!("https://{}", plain.address), Some(pem(one.path())));
    assert!(matches!(downgraded, Ok(Err(_))), "{:?}", downgraded.is_ok());
    // With the real command line.
    let dir = tempfile::tempdir().unwrap();
    let cert = one.path().join("tls-cert.pem");
    let invite = wait(async { true_one.invite().unwrap().to_owned() });
    let create = |name: &str, url: &str, cert: Option<&std::path::Path>| {
        let member = common::Member::blank(dir.path(), name);
        let mut args =
            vec!["account", "create", "--server", url, "--name", name, "--device", "laptop", "--invite", &invite];
        args.extend(cert.iter().flat_map(|cert| ["--server-cert", cert.to_str().unwrap()]));
        let output = member.kegfs(&args);
        (member, output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (bob, ok, message) = create("bob", &true_one.url(), Some(&cert));
    assert!(ok, "{message}");
    bob.ok(&["folder", "create", "acme"]);
    let listed = bob.ok(&["folder", "list"]);
    assert!(listed.contains("acme"));
    let (_, ok, message) = create("carol", &true_one.url(), None);
    assert!(!ok && message.contains("certificate"), "{message}");
    let (_, ok, message) = create("dave", &true_one.url(), Some(&other.path().join("tls-cert.pem")));
    assert!(!ok && message.contains("certificate"), "{message}");
    let (_, ok, message) = create("erin", "http://192.0.2.1:1", None);
    assert!(!ok && message.contains("https"), "{message}");
}
