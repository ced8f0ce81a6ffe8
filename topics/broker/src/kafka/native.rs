//! What the client library can do and its Rust layer does not: headers whatever their names are made of, and a token
//! for a client that is not polled.
//!
//! The layer panics at a header's name that is not UTF-8, which would end the process at the same record at every
//! start. And it asks for tokens only while a consumer or a producer is polled, which a client for topics never is.

#![expect(unsafe_code, reason = "the two calls of the C library that its Rust layer does not offer")]

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use bytes::Bytes;
use compact_str::CompactString;
use rdkafka::bindings::{
    rd_kafka_header_get_all, rd_kafka_message_headers, rd_kafka_oauthbearer_set_token, rd_kafka_resp_err_t,
};
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::message::BorrowedMessage;

const DONE: rd_kafka_resp_err_t = rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

/// Headers of a record in the order written. What is not UTF-8 in a name becomes U+FFFD; no value is an empty one.
pub(super) fn headers(message: &BorrowedMessage<'_>) -> Vec<(CompactString, Bytes)> {
    let mut headers = ptr::null_mut();
    // SAFETY: the message is alive, and it owns the headers.
    if unsafe { rd_kafka_message_headers(message.ptr(), &mut headers) } != DONE {
        return Vec::new();
    }
    let mut found = Vec::new();
    loop {
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: as above; past the last header nothing is written and an error is returned.
        if unsafe { rd_kafka_header_get_all(headers, found.len(), &mut name, &mut value, &mut length) } != DONE {
            return found;
        }
        // SAFETY: a name ends with a zero, as the library's manual says.
        let name = unsafe { CStr::from_ptr(name) };
        let value = if value.is_null() {
            Bytes::new()
        } else {
            // SAFETY: `length` bytes lie there for as long as the message is alive; they are copied.
            Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(value.cast::<u8>(), length) })
        };
        found.push((CompactString::from_utf8_lossy(name.to_bytes()), value));
    }
}

/// Gives a client its token; an error says why it was not taken.
pub(super) fn give_token<C: ClientContext>(client: &Client<C>, token: &OAuthToken) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|_| "the token has a zero byte".to_owned());
    let (value, principal) = (text(&token.token)?, text(&token.principal_name)?);
    let mut reason: [c_char; 256] = [0; 256];
    // SAFETY: the client is alive; the texts end with a zero and are copied; there are no extensions; the reason is
    // written with its zero, within the length that is given.
    let given = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            reason.as_mut_ptr(),
            reason.len(),
        )
    };
    if given == DONE {
        return Ok(());
    }
    // SAFETY: it ends with a zero: see above, and it began as zeros.
    Err(unsafe { CStr::from_ptr(reason.as_ptr()) }.to_string_lossy().into_owned())
}
