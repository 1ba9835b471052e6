//! Invite links: `kegfs://HOST[:PORT]/#PAYLOAD`, everything that somebody needs who has nothing but the program.
//!
//! The payload is base64url of `canonical CBOR ‖ checksum (4)`. Where the server is known by a certificate that was named
//! with `--server-cert`, the certificate itself is in the link: with its fingerprint alone, the first connection would
//! have to be made to somebody unknown.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::{Zeroize, Zeroizing};

use super::failure::{Code, Failure};
use crate::crypto::{Key, kdf, labels};
use crate::format::{DbId, decode, encode};
use crate::keyring::InviteSecret;

const SCHEME: &str = "kegfs://";
const VERSION: u8 = 1;
const CHECKSUM: usize = 4;
/// No link is longer: a chain of a few certificates.
const MOST_CHARS: usize = 16 * 1024;

/// What a link says.
pub struct Link {
    /// Address of the server, as `--server` takes it.
    pub server: String,
    /// Certificates (PEM) to trust for it.
    pub server_cert: Option<String>,
    /// The folder.
    pub db: DbId,
    /// What opens it.
    pub secret: InviteSecret,
    /// Until when, milliseconds since 1970 UTC.
    pub ends_ms: i64,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Payload {
    #[n(0)]
    version: u8,
    /// `https`; else `http`, for a server on this machine.
    #[n(1)]
    tls: bool,
    #[n(2)]
    db: DbId,
    #[cbor(n(3), with = "minicbor::bytes")]
    secret: [u8; 32],
    #[n(4)]
    ends_ms: i64,
    /// DER.
    #[n(5)]
    certificates: Vec<ByteVec>,
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Link {
    /// The link as text.
    ///
    /// # Errors
    /// A server address or certificate that cannot be put into one.
    pub fn to_text(&self) -> Result<Zeroizing<String>, Failure> {
        let unusable = |what: &str| Failure::new(Code::Failure, format!("{what} cannot be put into a link"));
        let (scheme, host) = self.server.split_once("://").ok_or_else(|| unusable("the server's address"))?;
        let pem = self.server_cert.as_deref().unwrap_or_default().as_bytes();
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|_| unusable("the server's certificate"))?;
        let payload = Payload {
            version: VERSION,
            tls: scheme == "https",
            db: self.db,
            secret: *self.secret.as_bytes(),
            ends_ms: self.ends_ms,
            certificates: certificates.iter().map(|der| der.to_vec().into()).collect(),
        };
        let host = host.trim_end_matches('/');
        let mut bytes = Zeroizing::new(encode(&payload));
        let sum = checksum(host, &bytes);
        bytes.extend_from_slice(&sum);
        Ok(Zeroizing::new(format!("{SCHEME}{host}/#{}", &*Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes)))))
    }

    /// What somebody pasted.
    ///
    /// # Errors
    /// [`Code::Usage`] for what is no link, or not all of one.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |why: &str| Failure::new(Code::Usage, format!("this is not an invite link: {why}; ask for it again"));
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| bad("it does not begin with kegfs://"))?;
        if rest.len() > MOST_CHARS {
            return Err(bad("it is far too long"));
        }
        let (host, payload) = rest.split_once("/#").ok_or_else(|| bad("it has no part after /#"))?;
        let cut = || bad("it is damaged or cut off");
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).map_err(|_| cut())?);
        let (bytes, sum) = bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM)).ok_or_else(cut)?;
        if sum != checksum(host, bytes) {
            return Err(cut());
        }
        let payload: Payload = decode(bytes).map_err(|_| bad("a newer version made it, update kegfs"))?;
        if payload.version != VERSION {
            return Err(bad("a newer version made it, update kegfs"));
        }
        let pem: String = payload.certificates.iter().map(|der| pem_of(der)).collect();
        Ok(Self {
            server: format!("{}://{host}", if payload.tls { "https" } else { "http" }),
            server_cert: (!pem.is_empty()).then_some(pem),
            db: payload.db,
            secret: InviteSecret::from_key(Key::from_bytes(payload.secret)),
            ends_ms: payload.ends_ms,
        })
    }
}

/// Of host and payload: a link that was cut off or mistyped is told from one that opens nothing.
fn checksum(host: &str, payload: &[u8]) -> [u8; CHECKSUM] {
    let hash = kdf::hash(labels::HASH_INVITE_LINK, &[host.as_bytes(), payload]);
    std::array::from_fn(|at| hash[at])
}

fn pem_of(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn link(server: &str, server_cert: Option<String>) -> Link {
        let secret = InviteSecret::from_key(Key::from_bytes([0x5e; 32]));
        Link { server: server.to_owned(), server_cert, db: DbId([0xdb; 32]), secret, ends_ms: 1_795_446_000_000 }
    }

    #[test]
    fn a_link_says_everything_that_is_needed() {
        let made = rcgen::generate_simple_self_signed(vec!["kegs.example".to_owned()]).unwrap();
        for (server, cert) in [
            ("https://kegs.example", None),
            ("http://127.0.0.1:8080", None),
            ("https://kegs.example:8443", Some(made.cert.pem())),
        ] {
            let text = link(server, cert.clone()).to_text().unwrap();
            let back = Link::parse(&format!(" {}\n{}", &text[..30], &text[30..])).unwrap();
            assert_eq!((back.server.as_str(), back.db, back.ends_ms), (server, DbId([0xdb; 32]), 1_795_446_000_000));
            assert_eq!(back.secret.as_bytes(), &[0x5e; 32]);
            let ders = |pem: &str| -> Vec<Vec<u8>> {
                CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.unwrap().to_vec()).collect()
            };
            assert_eq!(back.server_cert.as_deref().map(ders), cert.as_deref().map(ders));
        }
    }

    #[test]
    fn the_layout_is_frozen() {
        let text = link("https://kegs.example", None).to_text().unwrap();
        assert_eq!(
            &*text,
            "kegfs://kegs.example/#hgH1WCDb29vb29vb29vb29vb29vb29vb29vb29vb29vb29vb21ggXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5e\
             Xl4bAAABogjryYCAHQFn1w"
        );
    }

    #[test]
    fn no_part_of_a_link_is_a_link_and_no_letter_can_change() {
        let text = link("https://kegs.example", None).to_text().unwrap();
        for end in 0..text.len() {
            assert_eq!(Link::parse(&text[..end]).err().unwrap().code, Code::Usage, "{end}");
        }
        for at in SCHEME.len()..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(Link::parse(std::str::from_utf8(&bytes).unwrap()).is_err(), "{at}");
        }
        assert!(Link::parse(&format!("{}{}", &*text, "A".repeat(MOST_CHARS))).is_err());
    }
}
