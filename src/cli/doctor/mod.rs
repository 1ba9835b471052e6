//! What `kegfs doctor` knows: which names other systems refuse, change or take for one, and how they could be called.
//!
//! Must not know folders, sockets or terminals: it is shown names, and says what is wrong with them. On Linux a name is
//! any bytes, and KegFS keeps them; these are the rules of those who get a copy elsewhere.

mod alike;
mod names;
mod walk;

pub use walk::{Page, walk};
