//! Effects of a reload on the filter state and the connections of changed channels, in words.

use std::sync::Arc;

use crate::snapshot::{Channel, Snapshot};

/// Maximum number of channels that are described.
const MAX_DESCRIBED: usize = 50;

/// Returns the effects on the filter state and the connections of changed channels.
pub fn effects(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    let changed = new.channels.values().filter_map(|channel| {
        let before = old.channels.get(&channel.name).filter(|before| !Arc::ptr_eq(before, channel))?;
        Some(format!("channel {}: {}", channel.name, effect(before, channel)))
    });
    let gone = old.channels.values().filter(|channel| !new.channels.contains_key(&channel.name)).map(|channel| {
        let filters: Vec<&str> = channel.filters.iter().map(|filter| filter.name()).collect();
        format!("channel {}: {} are removed", channel.name, joined(filters.into_iter().chain(["connections"])))
    });
    changed.chain(gone).take(MAX_DESCRIBED).collect()
}

fn effect(before: &Channel, after: &Channel) -> String {
    let names =
        |channel: &Channel| -> Vec<&'static str> { channel.filters.iter().map(|filter| filter.name()).collect() };
    let (mut left, mut kept, mut new) = (names(before), Vec::new(), Vec::new());
    for name in names(after) {
        match left.iter().position(|known| *known == name) {
            Some(place) => kept.push(left.remove(place)),
            None => new.push(name),
        }
    }
    let connections = match Arc::ptr_eq(&before.upstream, &after.upstream) {
        true => "connections are reused",
        false => "connections are re-established",
    };
    let parts = [(kept, "state retained: "), (new, "state reset: "), (left, "removed: ")];
    let parts = parts.into_iter().filter(|(names, _)| !names.is_empty());
    let parts = parts.map(|(names, text)| format!("{text}{}", joined(names.into_iter())));
    parts.chain([connections.to_owned()]).collect::<Vec<_>>().join("; ")
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use tollgate_config::testing::{edit, put};

    use super::*;
    use crate::snapshot::load;
    use crate::snapshot::testing::sandbox;

    #[test]
    fn effects_name_filters_and_connections_of_changed_channels() {
        let dir = sandbox();
        let key = dir.path().join("channels/wechat/apiclient_key.pem");
        let first = load(dir.path(), None).unwrap();
        put(&dir, "channels/wechat/apiclient_key.pem", &format!("# rotated\n{}", fs::read_to_string(key).unwrap()));
        let next = load(dir.path(), Some(&first)).unwrap();
        let expected = ["channel wechat: state retained: limit, retry, breaker; connections are reused"];
        assert_eq!(effects(&first, &next), expected);
        edit(&dir, "channels/wechat.toml", "total = \"5s\"", "total = \"4s\"");
        fs::rename(dir.path().join("channels/wechat.toml"), dir.path().join("channels/main.toml")).unwrap();
        put(&dir, "routes.toml", "");
        let last = load(dir.path(), Some(&next)).unwrap();
        assert_eq!(effects(&next, &last), ["channel wechat: limit, retry, breaker, connections are removed"]);
    }
}
