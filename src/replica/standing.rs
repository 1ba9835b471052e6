//! Storing what verification says about the folder.

use minicbor::{Decode, Encode};
use rusqlite::Connection;

use super::flush::put_meta;
use super::replica::meta;
use super::types::{MemberInfo, Standing};
use crate::format::{AccountId, Role, decode, encode};

/// Layout of the members in table `meta`: canonical CBOR.
#[derive(Encode, Decode)]
#[cbor(array)]
struct Stored {
    #[n(0)]
    epoch: u32,
    #[n(1)]
    role: Option<Role>,
    #[n(2)]
    members: Vec<StoredMember>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct StoredMember {
    #[n(0)]
    account: AccountId,
    #[n(1)]
    role: Role,
    #[n(2)]
    expires_ms: Option<i64>,
    #[n(3)]
    joined_seq: u64,
}

/// Writes it, within the transaction of the mark.
pub(super) fn store(conn: &Connection, standing: &Standing) -> rusqlite::Result<()> {
    let member = |member: &MemberInfo| StoredMember {
        account: member.account,
        role: member.role,
        expires_ms: member.expires_ms,
        joined_seq: member.joined_seq,
    };
    let members = standing.members.iter().map(member).collect();
    put_meta(conn, "standing", encode(&Stored { epoch: standing.epoch, role: standing.role, members }))?;
    put_meta(conn, "verified_state", &standing.state)
}

/// Reads it; that of a new replica is empty.
pub(super) fn load(conn: &Connection) -> rusqlite::Result<Standing> {
    let Some(bytes) = meta::<Vec<u8>>(conn, "standing")? else { return Ok(Standing::default()) };
    let stored: Stored = decode(&bytes)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error)))?;
    let member = |member: StoredMember| MemberInfo {
        account: member.account,
        role: member.role,
        expires_ms: member.expires_ms,
        joined_seq: member.joined_seq,
    };
    Ok(Standing {
        state: meta(conn, "verified_state")?.unwrap_or_default(),
        epoch: stored.epoch,
        role: stored.role,
        members: stored.members.into_iter().map(member).collect(),
    })
}
