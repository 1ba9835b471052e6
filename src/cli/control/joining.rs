//! What is asked and answered about devices and invites.
//!
//! The one secret that travels here is a code or link on its way to the process that uses it up, over a socket that
//! nobody else can open; it shows in no log.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::FolderInfo;

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Private(pub zeroize::Zeroizing<String>);

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Private")
    }
}

/// About the account's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum DeviceRequest {
    /// All of them.
    List,
    /// Which device waits under a code.
    Waiting {
        /// The six words.
        code: Private,
    },
    /// Let it in, as soon as its user wants to come in.
    Add {
        /// The six words.
        code: Private,
        /// The words that it shows.
        words: String,
    },
    /// Do not let it in.
    Refuse {
        /// The six words.
        code: Private,
    },
    /// Shut one out.
    Revoke {
        /// Name or id.
        device: String,
    },
    /// Give one another name.
    Rename {
        /// Name or id.
        device: String,
        /// The name.
        name: String,
    },
    /// Whether a recovery phrase can be made.
    RecoveryCheck,
    /// A recovery phrase was made; its public keys, hexadecimal.
    RecoveryAdd {
        /// Ed25519.
        sign: String,
        /// X-Wing.
        kem: String,
    },
}

/// The result of a [`DeviceRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceResponse {
    /// Of `List`.
    List(Vec<DeviceInfo>),
    /// Of `Waiting`.
    Waiting(WaitingInfo),
    /// Of `Add` and `Rename`.
    Device(DeviceInfo),
    /// Of `Add`: nothing was said on the new device yet; ask again.
    Undecided,
    /// Of `Revoke`.
    Revoked(RevokedInfo),
    /// Of `Refuse`, `RecoveryCheck` and `RecoveryAdd`.
    Done,
}

/// A device that waits to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingInfo {
    /// What it calls itself.
    pub device: String,
    /// What it must show too.
    pub words: String,
}

/// A device of the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Its id, hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// This one.
    pub me: bool,
    /// Words on paper.
    pub recovery: bool,
    /// It speaks for the account no more.
    pub revoked: bool,
}

/// What a revocation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedInfo {
    /// Which device.
    pub device: DeviceInfo,
    /// Folders that have a new key.
    pub rotated: Vec<String>,
    /// Folders that know of it and get a new key from an admin's client.
    pub told: Vec<String>,
    /// Folders that could not be told yet.
    pub waiting: Vec<String>,
}

/// About invites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum InviteRequest {
    /// Open a folder to who holds a link.
    Create {
        /// Name or id of the folder.
        folder: String,
        /// The link's public key, hexadecimal.
        key: String,
        /// Hash of the admission that follows from the link, hexadecimal.
        admission_hash: String,
        /// The role's name.
        role: String,
        /// End of the link, milliseconds since 1970 UTC.
        ends_ms: i64,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        expires_ms: Option<i64>,
    },
    /// The links that can still be used.
    List {
        /// Name or id of the folder.
        folder: String,
    },
    /// End one.
    Cancel {
        /// Name or id of the folder.
        folder: String,
        /// The first characters of its key.
        id: String,
    },
    /// Use one.
    Use {
        /// The folder's id, hexadecimal.
        db: String,
        /// The link's secret, hexadecimal.
        secret: Private,
        /// How long to wait to be let in, milliseconds.
        wait_ms: u64,
    },
}

/// The result of an [`InviteRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InviteResponse {
    /// Of `Create`: the folder.
    Created(FolderInfo),
    /// Of `List`.
    List(Vec<InviteInfo>),
    /// Of `Cancel`: which it was.
    Cancelled(InviteInfo),
    /// Of `Use`: the folder; none while no admin's client has let the account in.
    Joined(Option<FolderInfo>),
}

/// An open invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteInfo {
    /// What to call it.
    pub id: String,
    /// Who made it.
    pub by: String,
    /// The role's name.
    pub role: String,
    /// End of the link, Unix time in milliseconds.
    pub ends_ms: i64,
    /// Guests: end of membership, Unix time in milliseconds.
    pub expires_ms: Option<i64>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Request, Response};
    use super::*;

    #[test]
    fn a_code_travels_and_does_not_show() {
        let code = Private(zeroize::Zeroizing::new("planted-secret".to_owned()));
        let request = Request::Device(DeviceRequest::Add { code, words: "a b c".to_owned() });
        let line = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        assert!(!format!("{request:?}").contains("planted"));
        let response = Response::Device(DeviceResponse::Done);
        let line = serde_json::to_string(&response).unwrap();
        assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), response);
    }
}
