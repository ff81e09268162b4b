//! A ticket: what rustls wants to find again, sealed by AES-256-GCM.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0..16 | the name of the key, which is authenticated too |
//! | 16..28 | the nonce, at random: workers that share a key cannot count together |
//! | 28.. | the sealed content, then 16 bytes that authenticate it |

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::tickets::{NAME, TicketKey, TicketKeys};

/// Seals with this key. `None` if the system has no random bytes, or there is too much to seal.
pub(super) fn seal(key: &TicketKey, plain: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).ok()?;
    let start = NAME + NONCE_LEN;
    // With room for all of it, so that the content is never moved, which would leave a copy.
    let mut ticket = Vec::with_capacity(start + plain.len() + AES_256_GCM.tag_len());
    ticket.extend_from_slice(key.name());
    ticket.extend_from_slice(&nonce);
    ticket.extend_from_slice(plain);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = expand(key)?.seal_in_place_separate_tag(nonce, Aad::from(key.name()), &mut ticket[start..]).ok()?;
    ticket.extend_from_slice(tag.as_ref());
    Some(ticket)
}

/// Opens what was sealed with any of these keys. `None` for everything else.
pub(super) fn open(keys: &TicketKeys, ticket: &[u8]) -> Option<Vec<u8>> {
    let (name, rest) = ticket.split_at_checked(NAME)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
    let key = expand(keys.named(name)?)?;
    let mut content = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = key.open_in_place(nonce, Aad::from(name), &mut content).ok()?.len();
    content.truncate(length);
    Some(content)
}

/// For one use: it is the one form of a key that nobody zeroes, so it is kept nowhere.
fn expand(key: &TicketKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key.secret()).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tickets::tests::{keys, rotate};

    #[test]
    fn ticket_opens_until_its_key_has_been_rotated_out() {
        let mut keys = keys();
        let ticket = seal(&keys.current, b"a session").unwrap();
        assert_eq!(open(&keys, &ticket).unwrap(), b"a session");
        rotate(&mut keys, 4);
        assert_eq!(open(&keys, &ticket).unwrap(), b"a session", "its key is the previous one");
        rotate(&mut keys, 5);
        assert_eq!(open(&keys, &ticket), None, "its key is gone");
    }

    #[test]
    fn ticket_opens_where_the_rotation_is_not_known_yet() {
        let late = keys();
        let mut early = keys();
        rotate(&mut early, 4);
        let ticket = seal(&early.current, b"a session").unwrap();
        assert_eq!(open(&late, &ticket).unwrap(), b"a session");
    }

    #[test]
    fn two_tickets_of_one_content_have_nothing_but_the_name_in_common() {
        let keys = keys();
        let [first, second] = [0; 2].map(|_| seal(&keys.current, &[0; 64]).unwrap());
        assert_eq!(first[..NAME], second[..NAME]);
        assert_ne!(first[NAME..NAME + NONCE_LEN], second[NAME..NAME + NONCE_LEN]);
        assert_ne!(first[NAME + NONCE_LEN..], second[NAME + NONCE_LEN..]);
        assert!(!first.windows(8).any(|bytes| bytes == [0; 8]), "the content is not there to read");
    }

    #[test]
    fn ticket_with_one_bit_changed_or_one_byte_missing_does_not_open() {
        let keys = keys();
        let ticket = seal(&keys.current, b"a session").unwrap();
        for position in 0..ticket.len() {
            let mut tampered = ticket.clone();
            tampered[position] ^= 1;
            assert_eq!(open(&keys, &tampered), None, "byte {position}");
            assert_eq!(open(&keys, &ticket[..position]), None, "the first {position} bytes");
        }
        // The name of another key that is there: it is 2 for the current one, and 3 for the next.
        let renamed = [&[3; NAME][..], &ticket[NAME..]].concat();
        assert_eq!(open(&keys, &renamed), None);
    }

    proptest! {
        #[test]
        fn whatever_is_sealed_comes_back(content: Vec<u8>) {
            let keys = keys();
            let ticket = seal(&keys.current, &content).unwrap();
            prop_assert_eq!(open(&keys, &ticket).unwrap(), content);
        }

        #[test]
        fn no_bytes_of_a_client_open(ticket: Vec<u8>) {
            prop_assert_eq!(open(&keys(), &ticket), None);
        }
    }
}
