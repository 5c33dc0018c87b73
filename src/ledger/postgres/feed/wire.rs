//! Text format of change notifications: the sender, and items of equal length in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use crate::change_feed::Changes;
use crate::record_key::{MerchantKey, RecordKey, Version};

/// Maximum number of items in a message. PostgreSQL accepts payloads below 8,000 bytes.
const MAX_ITEMS_PER_MESSAGE: usize = 170;

/// One change, in a fixed number of bytes.
pub(super) type Item = [u8; SIZE];
const SIZE: usize = 33;

const INSERTED_ITEM: u8 = b'b';
const DELETED_ITEM: u8 = b'g';
const UPDATING_ITEM: u8 = b'c';
const UPDATED_ITEM: u8 = b'v';
const PUBLISHED_ITEM: u8 = b'e';

pub(super) fn items(changes: &Changes, is_done: bool) -> Vec<Item> {
    let item = |kind, name: RecordKey, version: Version| {
        let mut item = [kind; SIZE];
        item[1..17].copy_from_slice(&name.0);
        item[17..25].copy_from_slice(&version.created.to_be_bytes());
        item[25..].copy_from_slice(&version.version.to_be_bytes());
        item
    };
    let updated = changes.updated.iter();
    if is_done {
        let updated = updated.map(|(name, version)| item(UPDATED_ITEM, *name, *version));
        let published = changes.published.iter();
        let published = published.map(|MerchantKey(name)| item(PUBLISHED_ITEM, RecordKey(*name), Version::DELETED));
        return updated.chain(published).collect();
    }
    let inserted = changes.inserted.iter().map(|name| item(INSERTED_ITEM, *name, Version::DELETED));
    let deleted = changes.deleted.iter().map(|name| item(DELETED_ITEM, *name, Version::DELETED));
    inserted.chain(deleted).chain(updated.map(|(name, version)| item(UPDATING_ITEM, *name, *version))).collect()
}

/// Splits items into changes before and after the commit.
pub(super) fn changes(items: &[Item]) -> (Changes, Changes) {
    let (mut before, mut after) = (Changes::default(), Changes::default());
    for item in items {
        let (mut name, mut number) = ([0; 16], [0; 8]);
        name.copy_from_slice(&item[1..17]);
        number.copy_from_slice(&item[17..25]);
        let created = u64::from_be_bytes(number);
        number.copy_from_slice(&item[25..]);
        let (name, version) = (RecordKey(name), Version { created, version: u64::from_be_bytes(number) });
        match item[0] {
            INSERTED_ITEM => before.inserted.push(name),
            DELETED_ITEM => before.deleted.push(name),
            UPDATING_ITEM => before.updated.push((name, version)),
            PUBLISHED_ITEM => after.published.push(MerchantKey(name.0)),
            _ => after.updated.push((name, version)),
        }
    }
    (before, after)
}

pub(super) fn messages(owner: u32, items: &[Item]) -> Vec<String> {
    items.chunks(MAX_ITEMS_PER_MESSAGE).map(|part| format!("{owner} {}", BASE64.encode(part.concat()))).collect()
}

pub(super) fn read(message: &str) -> Option<(u32, Vec<Item>)> {
    let (owner, items) = message.split_once(' ')?;
    let bytes = BASE64.decode(items).ok()?;
    let (items, rest) = bytes.as_chunks::<SIZE>();
    rest.is_empty().then_some((owner.parse().ok()?, items.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_changes_decode_to_the_same_and_fit_into_messages() {
        let name = |number: u16| RecordKey(std::array::from_fn(|index| number.to_be_bytes()[index % 2]));
        let announced = Changes {
            inserted: (0..200).map(name).collect(),
            deleted: (200..300).map(name).collect(),
            updated: (300..600)
                .map(|number| (name(number), Version { created: 1 << 60, version: number.into() }))
                .collect(),
            published: (0..9).map(|number| MerchantKey(name(number).0)).collect(),
        };
        for is_done in [false, true] {
            let messages = messages(u32::MAX, &items(&announced, is_done));
            assert!(messages.iter().all(|message| message.len() < 8000));
            let mut items = Vec::new();
            for (owner, more) in messages.iter().filter_map(|message| read(message)) {
                assert_eq!(owner, u32::MAX);
                items.extend(more);
            }
            let (updated, published) = (announced.updated.clone(), announced.published.clone());
            let done = Changes { updated, published, ..Changes::default() };
            let (before, after) = changes(&items);
            assert_eq!(
                (before, after),
                if is_done {
                    (Changes::default(), done)
                } else {
                    (Changes { published: Vec::new(), ..announced.clone() }, Changes::default())
                }
            );
        }
        for wrong in ["", "1", "x AAAA", "1 AAAA", "1 ***"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
