//! How a call to the server fails.

use crate::api::{ApiError, ErrorCode};

/// Why a call gave no answer. Never carries a token, an invite or a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// No connection, or it broke. Whether the server acted on the request is unknown.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// No answer within the call's deadline. Whether the server acted on the request is unknown.
    #[error("the server did not answer in time")]
    Timeout,
    /// The server's certificate is not trusted.
    #[error("the server's certificate is not trusted: {0}; name it with --server-cert if it is your own server's")]
    Untrusted(String),
    /// The server refused, and says why.
    #[error("the server refused: {0}")]
    Refused(#[from] ApiError),
    /// The answer is not what the interface promises.
    #[error("the server's answer makes no sense: {0}")]
    Protocol(String),
    /// The address cannot be used.
    #[error("{0}")]
    BadAddress(String),
    /// The server calls itself by another name than the one it is known by: its login challenge may be relayed.
    #[error("the server calls itself '{claimed}', but it was addressed as '{expected}'; refusing to log in")]
    WrongServer {
        /// The name it was addressed by.
        expected: String,
        /// The name in the challenge.
        claimed: String,
    },
}

impl RemoteError {
    /// The refusal's code, where the server refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.code),
            _ => None,
        }
    }

    /// Whether the log has moved on since the entry was made that was to be appended: made anew it may be taken.
    pub fn is_overtaken(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::StaleObserved | ErrorCode::StaleEpoch | ErrorCode::Counter))
    }

    /// Whether this is the network's or the server's trouble, over with time: trying again later is right.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout => true,
            Self::Refused(error) => matches!(
                error.code,
                ErrorCode::RateLimited
                    | ErrorCode::Busy
                    | ErrorCode::Timeout
                    | ErrorCode::Internal
                    | ErrorCode::StorageFull
                    | ErrorCode::Unauthenticated
            ),
            Self::Untrusted(_) | Self::Protocol(_) | Self::BadAddress(_) | Self::WrongServer { .. } => false,
        }
    }
}
