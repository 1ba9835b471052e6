//! Refusals: what went wrong, to which object, and what the caller can do about it.

use std::fmt;

use minicbor::{Decode, Encode};

use crate::format::{AccountId, BlobId, Head};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $status:literal, $text:literal;)*) => {
        /// Why a request was refused. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
            /// A code that a newer server has and this version does not know.
            Other(u32),
        }

        impl ErrorCode {
            /// Every code of this version.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number that travels.
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// The code with this number.
            pub fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }

            /// The HTTP status it comes with (RFC 9110 §15).
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)*
                    Self::Other(_) => 500,
                }
            }

            /// Its name in logs and `--json` output.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_) => "other",
                }
            }
        }
    };
}

codes! {
    /// The request is not of the expected layout.
    Malformed = 1, 400, "malformed";
    /// No token, or one that is unknown, expired, or of a revoked device: log in (again).
    Unauthenticated = 2, 401, "unauthenticated";
    /// The challenge is not answered rightly: unknown, used, expired, wrong signature, unknown or revoked device.
    LoginFailed = 3, 401, "login_failed";
    /// The invite code is unknown or used up.
    BadInvite = 4, 403, "bad_invite";
    /// The caller is a member but its role does not allow this.
    Role = 5, 403, "role";
    /// There is no such object, or the caller may not know whether there is.
    NotFound = 6, 404, "not_found";
    /// A membership entry must observe the newest entry and does not: [`Detail::Head`]. Catch up and sign anew.
    StaleObserved = 7, 409, "stale_observed";
    /// The entry is sealed under an epoch that is not current: [`Detail::Epoch`]. Catch up and seal anew.
    StaleEpoch = 8, 409, "stale_epoch";
    /// The device's entry counter is another: [`Detail::Counter`].
    Counter = 9, 409, "counter";
    /// The entry adds blobs that the server does not have in that size: [`Detail::Blobs`]. Upload them first.
    MissingBlobs = 10, 409, "missing_blobs";
    /// The entry relies on an account log that the server does not have so far: [`Detail::Account`]. Post it first.
    AccountLog = 11, 409, "account_log";
    /// The account log has another entry at this place: [`Detail::Head`].
    AccountConflict = 12, 409, "account_conflict";
    /// The entry can never be part of this log: its signature, chain, content or boxes are wrong.
    EntryRefused = 13, 422, "entry_refused";
    /// The bytes of a blob do not have the id under which they were sent.
    BlobMismatch = 14, 422, "blob_mismatch";
    /// A body, list or range beyond its bound: [`Detail::Limit`].
    TooLarge = 15, 413, "too_large";
    /// The range does not lie in the blob: [`Detail::Limit`] is the blob's size.
    BadRange = 16, 416, "bad_range";
    /// The account that pays for the folder has no more room: [`Detail::Limit`] is its quota in bytes.
    Quota = 17, 507, "quota";
    /// Too many requests: [`Detail::RetryAfterMs`].
    RateLimited = 18, 429, "rate_limited";
    /// Too many uploads or streams at once: [`Detail::RetryAfterMs`].
    Busy = 19, 503, "busy";
    /// The request did not arrive in time.
    Timeout = 20, 408, "timeout";
    /// There is no such route or method.
    NoRoute = 21, 404, "no_route";
    /// The server failed; nothing was changed. Try again later.
    Internal = 22, 500, "internal";
    /// The server's disk is full.
    StorageFull = 23, 507, "storage_full";
}

impl<C> Encode<C> for ErrorCode {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u32(self.number())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for ErrorCode {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.u32().map(Self::from_number)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "other({number})"),
            known => f.write_str(known.name()),
        }
    }
}

/// What a program needs beside the code to get on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Detail {
    /// Nothing.
    #[n(0)]
    None,
    /// The newest head of the log concerned.
    #[n(1)]
    Head(#[n(0)] Head),
    /// The current epoch.
    #[n(2)]
    Epoch(#[n(0)] u32),
    /// The counter that the device's next entry must have.
    #[n(3)]
    Counter(#[n(0)] u64),
    /// Blobs that must be uploaded first.
    #[n(4)]
    Blobs(#[n(0)] Vec<BlobId>),
    /// The account whose log must be posted first.
    #[n(5)]
    Account(#[n(0)] AccountId),
    /// The bound, in the unit that the code's documentation names.
    #[n(6)]
    Limit(#[n(0)] u64),
    /// How long to wait, milliseconds.
    #[n(7)]
    RetryAfterMs(#[n(0)] u64),
}

/// The body of every response with an error status.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{message} ({code})")]
#[cbor(array)]
pub struct ApiError {
    /// For programs.
    #[n(0)]
    pub code: ErrorCode,
    /// For people: what happened and what to do.
    #[n(1)]
    pub message: String,
    /// For programs.
    #[n(2)]
    pub detail: Detail,
}

impl ApiError {
    /// A refusal without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: Detail::None }
    }

    /// The same with details.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::format::{decode, encode};

    #[test]
    fn every_code_has_its_own_number_and_name_and_an_error_status() {
        let numbers: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!((numbers.len(), names.len()), (ErrorCode::ALL.len(), ErrorCode::ALL.len()));
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), code);
            assert!((400..600).contains(&code.status()));
        }
    }

    #[test]
    fn a_code_of_a_newer_server_is_kept_and_not_an_error() {
        let error = ApiError::new(ErrorCode::Other(9999), "new").with(Detail::Limit(3));
        assert_eq!(decode::<ApiError>(&encode(&error)).unwrap(), error);
        assert_eq!(error.to_string(), "new (other(9999))");
    }

    #[test]
    fn every_detail_comes_back_from_its_bytes() {
        let details = [
            Detail::None,
            Detail::Head(Head::EMPTY),
            Detail::Epoch(1),
            Detail::Counter(2),
            Detail::Blobs(vec![BlobId([1; 32])]),
            Detail::Account(AccountId([2; 32])),
            Detail::Limit(3),
            Detail::RetryAfterMs(4),
        ];
        for detail in details {
            let error = ApiError::new(ErrorCode::Counter, "text").with(detail);
            assert_eq!(decode::<ApiError>(&encode(&error)).unwrap(), error);
        }
    }
}
