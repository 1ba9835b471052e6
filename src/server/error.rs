//! Refusals as responses, and why a server does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::commit::CommitError;
use super::store::StoreError;
use crate::api::{self, ApiError, Detail, ErrorCode};
use crate::blobs::BlobError;
use crate::format::{FormatError, encode};

/// Why a server did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Plain HTTP where others could listen.
    #[error(
        "refusing to serve plain HTTP on {0}, which is not a loopback address: give --tls-cert and --tls-key, \
         or --tls-self-signed"
    )]
    PlainHttp(SocketAddr),
    /// Nobody can know the server by an address that stands for all.
    #[error("listening on {0} needs --name: the host by which clients will reach this server, as in their URL")]
    Nameless(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; is another kegd running?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use the certificate {path}: {message}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}")]
    Data {
        /// The directory or a file of it.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A write at start failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The blob store cannot be opened.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The listener failed.
    #[error("the server ended: {0}")]
    Serve(std::io::Error),
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub struct Refused(pub ApiError);

impl Refused {
    /// A refusal without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ApiError::new(code, message))
    }

    /// The same with details.
    pub fn with(self, detail: Detail) -> Self {
        Self(self.0.with(detail))
    }

    /// There is no such object, or the caller may not know whether there is: the two are not told apart.
    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound, "there is no such object here, or you have no access to it")
    }

    /// The server's own failure. What happened goes to the log, not to the client.
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "request failed");
        Self::new(ErrorCode::Internal, "the server failed; nothing was changed; try again later")
    }

    /// No room on the server.
    pub fn full() -> Self {
        tracing::error!("no room on the disk");
        Self::new(ErrorCode::StorageFull, "the server's disk is full; tell its operator")
    }

    /// Something is longer than its bound.
    pub fn too_large(what: &str, limit: u64) -> Self {
        let message = format!("{what} is larger than the bound of {limit}");
        Self::new(ErrorCode::TooLarge, message).with(Detail::Limit(limit))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, api::CBOR)], encode(&self.0)).into_response();
        if let Detail::RetryAfterMs(wait_ms) = self.0.detail {
            response.headers_mut().insert(header::RETRY_AFTER, wait_ms.div_ceil(1000).into());
        }
        // For the request's line in the log.
        response.extensions_mut().insert(self.0.code);
        response
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::full(),
            other => Self::internal(&other),
        }
    }
}

impl From<CommitError> for Refused {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => error.into(),
            group @ CommitError::Group(_) => Self::internal(&group),
        }
    }
}

impl From<BlobError> for Refused {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::WrongBytes(id) => Self::new(ErrorCode::BlobMismatch, format!("the bytes are not blob {id}")),
            BlobError::TooLarge(limit) => Self::too_large("the blob", limit),
            BlobError::Full => Self::full(),
            io @ BlobError::Io { .. } => Self::internal(&io),
        }
    }
}

impl From<FormatError> for Refused {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::OutOfBounds(_) => Self::new(ErrorCode::TooLarge, error.to_string()),
            _ => Self::new(ErrorCode::Malformed, error.to_string()),
        }
    }
}
