//! No bytes make a decoder panic, and what one accepts is exactly the encoding of what it returns (THREATS row 37).
#![no_main]

#[path = "../decoders.rs"]
mod decoders;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| decoders::decode_everything(bytes));
