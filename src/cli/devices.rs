//! Devices and invites of an unlocked account, in the words of the command line.

use std::time::Duration;

use super::control::{
    DeviceInfo, DeviceRequest, DeviceResponse, InviteInfo, InviteRequest, InviteResponse, Private, RevokedInfo,
    WaitingInfo,
};
use super::failure::{Code, Failure};
use super::unlocked::{Unlocked, role_name, role_of};
use super::{compare, describe};
use crate::crypto::Key;
use crate::crypto::words::Code as DeviceCode;
use crate::format::{DbId, DeviceKeys, InviteKey};
use crate::keyring::InviteSecret;
use crate::sync::{Invitation, Invite, OwnDevice, RECOVERY_NAME};

/// How long one request waits for the new device's user; the command asks again.
const DECIDING: Duration = Duration::from_secs(15);

impl Unlocked {
    /// Does what is asked about devices.
    ///
    /// # Errors
    /// Each request's own.
    pub fn device(&self, request: DeviceRequest) -> Result<DeviceResponse, Failure> {
        let session = &self.session;
        let told = |error| self.told(error);
        match request {
            DeviceRequest::List => {
                let devices = session.devices().map_err(told)?;
                Ok(DeviceResponse::List(devices.iter().map(device_info).collect()))
            }
            DeviceRequest::Waiting { code } => {
                let candidate = session.device_waiting(&code_of(&code)?).map_err(told)?;
                let (device, words) = (candidate.name().to_owned(), candidate.words().join(" "));
                Ok(DeviceResponse::Waiting(WaitingInfo { device, words }))
            }
            DeviceRequest::Add { code, words } => {
                let candidate = session.device_waiting(&code_of(&code)?).map_err(told)?;
                if words != candidate.words().join(" ") {
                    session.refuse_device(candidate).map_err(told)?;
                    return Err(compare::differ());
                }
                let added = session.add_device(candidate, DECIDING).map_err(told)?;
                Ok(added.map_or(DeviceResponse::Undecided, |device| DeviceResponse::Device(device_info(&device))))
            }
            DeviceRequest::Refuse { code } => {
                let candidate = session.device_waiting(&code_of(&code)?).map_err(told)?;
                session.refuse_device(candidate).map(|()| DeviceResponse::Done).map_err(told)
            }
            DeviceRequest::Revoke { device } => {
                let (device, report) = session.revoke_device(&device).map_err(told)?;
                Ok(DeviceResponse::Revoked(RevokedInfo {
                    device: device_info(&device),
                    rotated: report.rotated,
                    told: report.told,
                    waiting: report.waiting,
                }))
            }
            DeviceRequest::Rename { device, name } => {
                let device = session.rename_device(&device, &name).map_err(told)?;
                Ok(DeviceResponse::Device(device_info(&device)))
            }
            DeviceRequest::RecoveryCheck => session.check_no_recovery().map(|()| DeviceResponse::Done).map_err(told),
            DeviceRequest::RecoveryAdd { sign, kem } => {
                let keys = DeviceKeys { sign: bytes32(&sign)?, kem: unhex(&kem)?, name: RECOVERY_NAME.to_owned() };
                session.add_recovery(keys).map(|()| DeviceResponse::Done).map_err(told)
            }
        }
    }

    /// Does what is asked about invites.
    ///
    /// # Errors
    /// Each request's own.
    pub fn invite(&self, request: InviteRequest) -> Result<InviteResponse, Failure> {
        let session = &self.session;
        let told = |error| self.told(error);
        match request {
            InviteRequest::Create { folder, key, admission_hash, role, ends_ms, expires_ms } => {
                let folder = self.folder(&folder)?;
                let gives = Invitation { role: role_of(&role)?, ends_ms, expires_ms };
                let key = InviteKey(bytes32(&key)?);
                session.invite(&folder, key, bytes32(&admission_hash)?, gives).map_err(told)?;
                Ok(InviteResponse::Created(describe::folder_info(&folder)))
            }
            InviteRequest::List { folder } => {
                self.refresh_if_reachable()?;
                let invites = session.invites(&self.folder(&folder)?).map_err(told)?;
                Ok(InviteResponse::List(invites.iter().map(invite_info).collect()))
            }
            InviteRequest::Cancel { folder, id } => {
                self.refresh_if_reachable()?;
                let invite = session.cancel_invite(&self.folder(&folder)?, &id).map_err(told)?;
                Ok(InviteResponse::Cancelled(invite_info(&invite)))
            }
            InviteRequest::Use { db, secret, wait_ms } => {
                let (db, secret) = (DbId(bytes32(&db)?), InviteSecret::from_key(Key::from_bytes(bytes32(&secret.0)?)));
                session.redeem(db, &secret).map_err(told)?;
                let joined = session.wait_joined(db, &secret, Duration::from_millis(wait_ms)).map_err(told)?;
                Ok(InviteResponse::Joined(joined.map(|folder| describe::folder_info(&folder))))
            }
        }
    }
}

/// The words of a code.
///
/// # Errors
/// [`Code::Usage`] where they are none.
pub fn code_of(text: &Private) -> Result<DeviceCode, Failure> {
    DeviceCode::parse(&text.0).map_err(|_| {
        Failure::new(
            Code::Usage,
            "a code is six words of the list that `kegfs account join` takes them from; compare them",
        )
    })
}

fn unhex(text: &str) -> Result<Vec<u8>, Failure> {
    hex::decode(text).map_err(|_| Failure::new(Code::Usage, "not hexadecimal"))
}

fn bytes32(text: &str) -> Result<[u8; 32], Failure> {
    unhex(text)?.try_into().map_err(|_| Failure::new(Code::Usage, "not 32 bytes"))
}

fn device_info(device: &OwnDevice) -> DeviceInfo {
    DeviceInfo {
        id: device.id.to_string(),
        name: device.name.clone(),
        me: device.me,
        recovery: device.recovery,
        revoked: device.revoked,
    }
}

/// Characters of a key by which people name an invite.
const INVITE_ID_CHARS: usize = 12;

fn invite_info(invite: &Invite) -> InviteInfo {
    InviteInfo {
        id: invite.key.to_string()[..INVITE_ID_CHARS].to_owned(),
        by: invite.by.clone(),
        role: role_name(invite.role).to_owned(),
        ends_ms: invite.ends_ms,
        expires_ms: invite.expires_ms,
    }
}
