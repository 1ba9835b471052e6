//! The login of a device: answering the server's challenge, keeping the token.

use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::api::{ChallengeRequest, LoginRequest, LoginStatement};
use crate::crypto::labels::SIGN_LOGIN;
use crate::crypto::sign::SigningKey;
use crate::format::{AccountId, DeviceId};

/// Who logs in. Holds the device's signing key; not printable.
pub struct Credentials {
    /// The account.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
    /// The device's signing key.
    pub key: SigningKey,
}

impl Credentials {
    /// What to ask a challenge with.
    pub(super) fn request(&self) -> ChallengeRequest {
        ChallengeRequest { account: self.account, device: self.device }
    }

    /// The answer to the challenge of the server named `server_name`.
    pub(super) fn answer(&self, server_name: String, challenge: [u8; 32]) -> LoginRequest {
        let (account, device) = (self.account, self.device);
        let statement = LoginStatement { server_name, challenge, account, device };
        let signature = self.key.sign(SIGN_LOGIN, &statement.to_bytes()).0;
        LoginRequest { account, device, challenge, signature }
    }
}

/// A token that can be sent.
#[derive(Clone)]
pub(super) struct Bearer(pub Zeroizing<String>);

/// The current token. One login at a time: who comes meanwhile waits for it and shares its result.
#[derive(Default)]
pub(super) struct TokenSlot {
    current: Mutex<Option<(u64, Bearer)>>,
}

impl TokenSlot {
    /// The token and its generation, which is another than `refused` (a token that the server no longer takes);
    /// logs in with `login` where there is none.
    pub async fn get<E>(
        &self,
        refused: Option<u64>,
        login: impl AsyncFnOnce() -> Result<Bearer, E>,
    ) -> Result<(u64, Bearer), E> {
        let mut current = self.current.lock().await;
        let last = current.as_ref().map_or(0, |(generation, _)| *generation);
        if let Some((generation, bearer)) = current.as_ref()
            && refused != Some(*generation)
        {
            return Ok((*generation, bearer.clone()));
        }
        let bearer = login().await?;
        *current = Some((last + 1, bearer.clone()));
        Ok((last + 1, bearer))
    }
}
