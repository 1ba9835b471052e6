//! Making an account and letting the server know it.

use std::sync::Arc;

use super::SyncError;
use super::runtime::Runtimes;
use super::status::now_ms;
use crate::crypto::Key;
use crate::format::SignedAccountEntry;
use crate::keyring::{AccountLog, DeviceSecrets, Identity, UserKeySeed};
use crate::remote::{Credentials, HttpOptions, HttpRemote, Remote};

/// An account that the server does not know yet. Save [`Self::identity`] before [`Self::register`]: an account whose
/// keys are lost is lost.
pub struct NewAccount {
    /// Everything secret, for the keystore.
    pub identity: Identity,
    /// First entry of the account's log. Public.
    pub first: SignedAccountEntry,
}

impl NewAccount {
    /// Makes the keys and the first entry. Touches neither disk nor network.
    ///
    /// # Errors
    /// [`SyncError::BadName`] for names beyond their bounds.
    pub fn create(name: &str, device_name: &str) -> Result<Self, SyncError> {
        let (device, seed) = (DeviceSecrets::random(), UserKeySeed::random());
        let (log, first) = AccountLog::create(now_ms(), name, &device, device_name, &seed)
            .map_err(|_| SyncError::BadLabel(format!("{name} / {device_name}")))?;
        let identity = Identity { account: log.id(), device, user_keys: [(0, seed)].into(), local: Key::random() };
        Ok(Self { identity, first })
    }

    /// Lets the server know the account. Can be repeated: it spends one invite in all.
    ///
    /// # Errors
    /// [`SyncError::Remote`], for example with a refused invite.
    pub fn register(&self, remote: &Arc<dyn Remote>, invite: &str) -> Result<(), SyncError> {
        let runtimes = Runtimes::new()?;
        let (remote, invite, first) = (Arc::clone(remote), invite.to_owned(), self.first.clone());
        let account = runtimes.run(async move { Ok(remote.register(&invite, &first).await?) })?;
        if account == self.identity.account {
            Ok(())
        } else {
            Err(SyncError::Misbehaviour("it registered another account than the one it was given".to_owned()))
        }
    }
}

/// The server at `options.url`, addressed as the device of `identity`.
///
/// # Errors
/// [`SyncError::Remote`] for an address or certificate that cannot be used. Does not connect.
pub fn connect(options: &HttpOptions, identity: &Identity) -> Result<Arc<dyn Remote>, SyncError> {
    let (account, device) = (identity.account, identity.device_id());
    let credentials = Credentials { account, device, key: identity.device.signing_key() };
    Ok(HttpRemote::new(options, Some(credentials))?)
}
