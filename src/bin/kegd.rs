//! `kegd`, the KegFS server: arguments, log output and signals. Everything else is in the library's `server` room.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kegfs::server::{Config, Server, Tls};
use kegfs::sys::{files, process};
use tokio::signal::unix::{SignalKind, signal};

// Returns memory of finished transfers to the system; the C library's allocator keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The KegFS server: stores and orders what clients sealed, and can read nothing of it.
#[derive(Parser)]
#[command(name = "kegd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Directory that holds everything the server keeps; made when missing.
    #[arg(long, global = true, value_name = "DIR", default_value = "kegd-data")]
    data: PathBuf,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Makes another admission code, prints it and ends; the server may be running.
    Invite {
        /// How many accounts can register with it.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
    },
}

#[derive(Args)]
struct Serve {
    /// Address and port to listen on; port 0 lets the system choose. Plain HTTP is served on loopback only.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7440")]
    listen: SocketAddr,
    /// The host by which clients reach this server, as in their URL; logins are bound to it [default: the IP address
    /// that it listens on].
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
    /// Certificate chain, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "tls_self_signed")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Make a certificate at the first start and print its fingerprint.
    #[arg(long)]
    tls_self_signed: bool,
    /// Bytes of blobs in the folders of one owner; suffixes K, M, G, T (powers of 1024) [default: 1T].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    quota: Option<u64>,
    /// Seconds for which a file's lock is kept for a device that is not heard of [default: 10].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u8).range(1..=120))]
    lock_lease: Option<u8>,
    /// How long content is kept after an owner or admin has released it; `0s`, `12h`, `7d` [default: 7d].
    #[arg(long, value_name = "TIME", value_parser = period)]
    release_grace: Option<Duration>,
    /// Write the address to this file when the server is ready.
    #[arg(long, value_name = "FILE")]
    addr_file: Option<PathBuf>,
    /// Log lines as JSON. The level is taken from KEGD_LOG, as in `KEGD_LOG=debug` [default: info].
    #[arg(long)]
    json: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1_u64 << 40,
        other => return Err(format!("unknown unit {other}")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number of bytes".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

fn period(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds: u64 = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("give a number and s, m, h or d".to_owned()),
    };
    let number: u32 = digits.parse().map_err(|_| "not a number".to_owned())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Invite { uses }) => invite(&arguments.data, uses),
        None => serve(arguments.data, arguments.serve),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kegd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn invite(data: &std::path::Path, uses: u32) -> anyhow::Result<()> {
    println!("{}", Server::invite(data, uses)?);
    Ok(())
}

fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KEGD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { lines.json().init() } else { lines.init() }
}

fn serve(data: PathBuf, options: Serve) -> anyhow::Result<()> {
    start_log(options.json);
    // Each connection and each upload takes a file descriptor.
    process::raise_nofile_limit().context("raising the limit of open files")?;
    let mut config = Config::new(data);
    config.listen = options.listen;
    config.name = options.name;
    config.tls = match (options.tls_cert, options.tls_key) {
        (Some(cert), Some(key)) => Tls::Files { cert, key },
        _ if options.tls_self_signed => Tls::SelfSigned,
        _ => Tls::Off,
    };
    if let Some(quota) = options.quota {
        config.limits.quota_bytes = quota;
    }
    if let Some(seconds) = options.lock_lease {
        config.limits.lock_lease = Duration::from_secs(seconds.into());
    }
    if let Some(grace) = options.release_grace {
        config.limits.release_grace = grace;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("kegd").build()?;
    runtime.block_on(run(config, options.addr_file))
}

async fn run(config: Config, addr_file: Option<PathBuf>) -> anyhow::Result<()> {
    // Before anybody can be told that the server runs, so that no signal is lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let data = config.data.clone();
    let running = Server::start(config).await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {}", running.url())?;
    if let Some(fingerprint) = running.fingerprint() {
        writeln!(out, "certificate SHA-256 {fingerprint}")?;
    }
    if let Some(code) = running.invite() {
        writeln!(out, "invite code {code} (also in {})", data.join("invite-code").display())?;
    }
    out.flush()?;
    drop(out);
    if let Some(path) = addr_file {
        let line = format!("{}\n", running.url());
        files::write_atomic(&path, line.as_bytes(), 0o644).with_context(|| format!("writing {}", path.display()))?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    running.stop().await?;
    Ok(())
}
