//! To whom an epoch is boxed: the members after a change, each with the user key of an account log that is new enough.

use std::sync::Arc;

use crate::crypto::boxes::KemPublic;
use crate::format::{AccountId, Head, MembershipChange};

use super::account::AccountLog;
use super::folder::{AccountLogs, FolderState};

/// One receiver of an epoch's secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Whose box.
    pub account: AccountId,
    /// Generation of the user key.
    pub generation: u32,
    /// Its public half.
    pub key: KemPublic,
    /// The box holds the history secret too.
    pub history: bool,
}

/// Why an epoch cannot be boxed yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipientsError {
    /// The account's log is not known up to what the folder's log knows of it. Boxing to an older user key would box
    /// to a revoked device (THREATS row 9). Fetch it and try again.
    #[error("the account log of {account} up to position {} is needed first", head.seq)]
    AccountMissing {
        /// Whose.
        account: AccountId,
        /// Up to where at least.
        head: Head,
    },
    /// A user key that nobody can own; verified logs have none.
    #[error("account {0} has an unusable key")]
    BadKey(AccountId),
}

impl FolderState {
    /// Who has a box in the epoch that an entry with `change` starts here: the members after it, in ascending order of
    /// account id, with history as far as they have it. Costs O(members).
    ///
    /// # Errors
    /// See [`RecipientsError`].
    pub fn recipients(
        &self,
        change: &MembershipChange,
        accounts: &dyn AccountLogs,
    ) -> Result<Vec<Recipient>, RecipientsError> {
        let leaves = match change {
            MembershipChange::Remove { account } => Some(account),
            _ => None,
        };
        let staying = self.members().iter().filter(|(account, _)| Some(*account) != leaves);
        let mut recipients = staying
            .map(|(account, member)| {
                let known = self.account_head(account).unwrap_or(Head::EMPTY);
                recipient(account, known, member.history, accounts)
            })
            .collect::<Result<Vec<_>, _>>()?;
        if let MembershipChange::Add { account, account_head, .. }
        | MembershipChange::Redeem { account, account_head, .. } = change
        {
            // With a new epoch instead of a grant, so from now on.
            recipients.push(recipient(account, *account_head, false, accounts)?);
            recipients.sort_by_key(|recipient| recipient.account);
        }
        Ok(recipients)
    }
}

fn recipient(
    account: &AccountId,
    at_least: Head,
    history: bool,
    accounts: &dyn AccountLogs,
) -> Result<Recipient, RecipientsError> {
    let known = |log: &Arc<AccountLog>| log.id() == *account && log.has_head(at_least);
    let missing = RecipientsError::AccountMissing { account: *account, head: at_least };
    let log = accounts.log(account).filter(known).ok_or(missing)?;
    let (generation, key) = log.user_key().map_err(|_| RecipientsError::BadKey(*account))?;
    Ok(Recipient { account: *account, generation, key, history })
}
