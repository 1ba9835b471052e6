//! Who is asking: challenges, logins, sessions and admission codes.
//!
//! A device proves itself by signing a challenge together with the server's own name, so an answer that was given to
//! one server is worth nothing at another. What it gets is a random token; the server keeps only its hash.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;

use super::commit::{CommitError, Committer};
use super::error::Refused;
use super::store::{LogStore, Session, StoreError, Write};
use crate::api::limits::{CHALLENGE_MS, TOKEN_MS};
use crate::api::{Challenge, ChallengeRequest, ErrorCode, LoginRequest, LoginStatement, Token};
use crate::crypto::sign::{Signature, VerifyingKey};
use crate::crypto::{kdf, labels};
use crate::format::{AccountId, DeviceId};
use crate::sys::{clock, random};

/// Challenges that wait for their answer. Beyond it the oldest are forgotten: whoever floods the server with requests
/// for challenges makes others ask again, and memory stays bounded.
const CHALLENGES_MAX: usize = 65_536;

/// Sessions in memory; the others are in the store.
const SESSIONS_CACHED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// Now, milliseconds since 1970 UTC.
pub fn now_ms() -> i64 {
    clock::unix_nanos().div_euclid(1_000_000)
}

/// When `time` from now is over, milliseconds since 1970 UTC.
pub fn ms_after(time: Duration) -> i64 {
    now_ms().saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

#[derive(Default)]
struct Challenges {
    open: HashMap<[u8; 32], (ChallengeRequest, i64)>,
    by_end: BTreeSet<(i64, [u8; 32])>,
}

impl Challenges {
    fn add(&mut self, challenge: [u8; 32], who: ChallengeRequest, now_ms: i64) {
        while let Some(&(end, oldest)) = self.by_end.first()
            && (end <= now_ms || self.by_end.len() >= CHALLENGES_MAX)
        {
            self.by_end.pop_first();
            self.open.remove(&oldest);
        }
        let end = now_ms + CHALLENGE_MS;
        self.open.insert(challenge, (who, end));
        self.by_end.insert((end, challenge));
    }

    /// Whether this challenge was given to `who` and is still open. It is closed now, whatever the answer.
    fn take(&mut self, challenge: &[u8; 32], who: ChallengeRequest, now_ms: i64) -> bool {
        let Some((given_to, end)) = self.open.remove(challenge) else { return false };
        self.by_end.remove(&(end, *challenge));
        given_to == who && now_ms < end
    }
}

/// Logins of one server.
pub struct Auth {
    /// The name that logins are bound to.
    name: String,
    store: Arc<dyn LogStore>,
    committer: Committer,
    challenges: Mutex<Challenges>,
    sessions: Mutex<LruCache<[u8; 32], Session>>,
}

impl Auth {
    /// Logins bound to `name`.
    pub fn new(name: String, store: Arc<dyn LogStore>, committer: Committer) -> Self {
        let sessions = Mutex::new(LruCache::new(SESSIONS_CACHED));
        Self { name, store, committer, challenges: Mutex::default(), sessions }
    }

    /// A fresh challenge, for anyone who asks.
    pub fn challenge(&self, who: ChallengeRequest) -> Challenge {
        let challenge = random::array();
        self.challenges.lock().add(challenge, who, now_ms());
        Challenge { challenge, server_name: self.name.clone() }
    }

    /// A token for who answered a challenge rightly. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::LoginFailed`] in all cases that are the caller's fault, without telling which.
    pub fn login(&self, request: &LoginRequest) -> Result<Token, Refused> {
        let failed = || {
            let message =
                "the login was refused: ask for a new challenge; if this device was revoked, it cannot log in";
            Refused::new(ErrorCode::LoginFailed, message)
        };
        let LoginRequest { account, device, challenge, signature } = *request;
        if !self.challenges.lock().take(&challenge, ChallengeRequest { account, device }, now_ms()) {
            return Err(failed());
        }
        let sign = self.store.device_key(&account, &device)?.ok_or_else(failed)?;
        let statement = LoginStatement { server_name: self.name.clone(), challenge, account, device };
        VerifyingKey(sign)
            .verify(labels::SIGN_LOGIN, &statement.to_bytes(), &Signature(signature))
            .map_err(|_| failed())?;

        let token: [u8; 32] = random::array();
        let token = hex::encode(token);
        let session = Session { account, device, expires_ms: now_ms() + TOKEN_MS };
        let hash = token_hash(&token);
        let job = vec![Write::ForgetSessions { before_ms: now_ms() }, Write::AddSession { hash, session }];
        match self.committer.submit(job).durable_blocking() {
            Ok(()) => Ok(Token { token, expires_ms: session.expires_ms }),
            // Revoked since the key was looked up.
            Err(CommitError::Store(StoreError::Outdated(_))) => Err(failed()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the login's challenge is open and rightly answered with the key `sign` of a device that may not log in.
    pub fn proves(&self, request: &LoginRequest, sign: [u8; 32]) -> bool {
        let LoginRequest { account, device, challenge, signature } = *request;
        let statement = LoginStatement { server_name: self.name.clone(), challenge, account, device };
        self.challenges.lock().take(&challenge, ChallengeRequest { account, device }, now_ms())
            && VerifyingKey(sign).verify(labels::SIGN_LOGIN, &statement.to_bytes(), &Signature(signature)).is_ok()
    }

    /// The session of a token if it is in memory. Does not block.
    pub fn session_cached(&self, token: &str) -> Option<Session> {
        let hash = token_hash(token);
        let session = self.sessions.lock().get(&hash).copied()?;
        (now_ms() < session.expires_ms).then_some(session)
    }

    /// The session of a token. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub fn session(&self, token: &str) -> Result<Option<Session>, StoreError> {
        let hash = token_hash(token);
        // Held over the look-up: otherwise a revocation could come between it and the insertion.
        let mut sessions = self.sessions.lock();
        let Some(session) = self.store.session(&hash)? else { return Ok(None) };
        if now_ms() >= session.expires_ms {
            return Ok(None);
        }
        sessions.put(hash, session);
        Ok(Some(session))
    }

    /// Forgets the sessions in memory of a device whose revocation is durable.
    pub fn revoked(&self, account: &AccountId, device: &DeviceId) {
        let mut sessions = self.sessions.lock();
        let theirs = |session: &Session| session.account == *account && session.device == *device;
        let gone: Vec<_> = sessions.iter().filter(|(_, session)| theirs(session)).map(|(hash, _)| *hash).collect();
        for hash in gone {
            sessions.pop(&hash);
        }
    }
}

/// What is stored of a token. A plain hash is enough: it has 256 random bits.
fn token_hash(token: &str) -> [u8; 32] {
    kdf::hash(labels::HASH_TOKEN, &[token.as_bytes()])
}

/// A new admission code, 128 random bits.
pub fn new_invite() -> String {
    hex::encode(random::array::<16>())
}

/// What is stored of an admission code. White space and case do not matter: people copy it by hand.
pub fn invite_hash(code: &str) -> [u8; 32] {
    let plain: String = code.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    kdf::hash(labels::HASH_INVITE, &[plain.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_good_once_in_time_and_for_who_asked() {
        let who = ChallengeRequest { account: AccountId([1; 32]), device: DeviceId([2; 32]) };
        let other = ChallengeRequest { device: DeviceId([3; 32]), ..who };
        let mut challenges = Challenges::default();
        (1..=4).for_each(|n| challenges.add([n; 32], who, 1000));
        assert!(challenges.take(&[1; 32], who, 1000 + CHALLENGE_MS - 1));
        assert!(!challenges.take(&[1; 32], who, 1000), "used");
        assert!(!challenges.take(&[2; 32], other, 1000), "another device");
        assert!(!challenges.take(&[2; 32], who, 1000), "spent by the wrong device");
        assert!(!challenges.take(&[3; 32], who, 1000 + CHALLENGE_MS), "too late");
        assert!(!challenges.take(&[9; 32], who, 1000), "never given");
        challenges.add([5; 32], who, 1000 + CHALLENGE_MS);
        assert_eq!((challenges.open.len(), challenges.by_end.len()), (1, 1), "ended ones are forgotten");
    }

    #[test]
    fn challenges_take_bounded_memory() {
        let who = ChallengeRequest { account: AccountId([1; 32]), device: DeviceId([2; 32]) };
        let mut challenges = Challenges::default();
        for n in 0..CHALLENGES_MAX as u64 + 10 {
            let mut challenge = [0; 32];
            challenge[..8].copy_from_slice(&n.to_be_bytes());
            challenges.add(challenge, who, 0);
        }
        assert_eq!((challenges.open.len(), challenges.by_end.len()), (CHALLENGES_MAX, CHALLENGES_MAX));
    }

    #[test]
    fn codes_typed_by_hand_are_recognised() {
        let code = new_invite();
        assert_eq!(code.len(), 32);
        let spaced = format!(" {}-{}\n", code[..16].to_uppercase(), &code[16..]);
        assert_eq!(invite_hash(&code), invite_hash(&spaced));
        assert_ne!(invite_hash(&code), invite_hash(&code[1..]));
    }
}
