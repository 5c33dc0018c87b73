//! Formats events as lines of JSON: `timestamp`, `level`, `fields`, `target`.

use std::cell::RefCell;
use std::fmt;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::buffer::Buffer;

/// Writes each event as one line into the buffer.
pub(super) struct JsonLines(pub(super) &'static Buffer);

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        thread_local!(static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let write = |line: &mut Vec<u8>| {
            line.clear();
            if write(line, event, Timestamp::now()).is_ok() {
                self.0.push(line);
            }
        };
        let is_written = LINE.try_with(|line| line.try_borrow_mut().map(|mut line| write(&mut line)).is_ok());
        // The thread is ending, or formatting a field logs another event.
        if !is_written.unwrap_or(false) {
            write(&mut Vec::new());
        }
    }
}

fn write(line: &mut Vec<u8>, event: &Event<'_>, now: Timestamp) -> Result<(), serde_json::Error> {
    let normalized = event.normalized_metadata();
    let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
    let mut serializer = serde_json::Serializer::new(&mut *line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &format_args!("{now:.6}"))?;
    map.serialize_entry("level", metadata.level().as_str())?;
    map.serialize_entry("fields", &Fields(event))?;
    map.serialize_entry("target", metadata.target())?;
    map.end()?;
    line.push(b'\n');
    Ok(())
}

struct Fields<'a, 'b>(&'a Event<'b>);

impl Serialize for Fields<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entries = Entries { map: serializer.serialize_map(None)?, error: None };
        self.0.record(&mut entries);
        match entries.error {
            Some(error) => Err(error),
            None => entries.map.end(),
        }
    }
}

struct Entries<M: SerializeMap> {
    map: M,
    error: Option<M::Error>,
}

impl<M: SerializeMap> Entries<M> {
    fn add(&mut self, field: &Field, value: impl Serialize) {
        // Records of the crate `log` contain the path of a source file on the build machine.
        if self.error.is_none() && !field.name().starts_with("log.") {
            self.error = self.map.serialize_entry(field.name(), &value).err();
        }
    }
}

impl<M: SerializeMap> Visit for Entries<M> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

/// Returns a source path from its crate directory on, without the directories of the build machine.
pub(super) fn short_path(path: &str) -> &str {
    if !path.starts_with('/') {
        return path;
    }
    let crate_end = path.rfind("/src/").unwrap_or(0);
    let start = path.get(..crate_end).and_then(|before| before.rfind('/'));
    start.or_else(|| path.rfind('/')).and_then(|slash| path.get(slash + 1..)).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    struct Captured(Arc<Mutex<Vec<Value>>>);

    impl<S: Subscriber> Layer<S> for Captured {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Vec::new();
            write(&mut line, event, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            self.0.lock().push(serde_json::from_slice(&line).unwrap());
        }
    }

    #[test]
    fn event_is_one_line_of_json_with_any_field_content() {
        let captured = Captured(Arc::default());
        let lines = Arc::clone(&captured.0);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(captured), || {
            let text = "two\nlines \"quoted\" \u{0}";
            tracing::warn!(target: "t", text, error = %text, list = ?["a"], number = 7, rate = 0.5, yes = true, "said {}", 1);
        });
        let wanted = json!({
            "timestamp": "1970-01-01T00:00:00.000000Z", "level": "WARN", "target": "t",
            "fields": {"message": "said 1", "text": "two\nlines \"quoted\" \u{0}", "error": "two\nlines \"quoted\" \u{0}",
                "list": "[\"a\"]", "number": 7, "rate": 0.5, "yes": true},
        });
        assert_eq!(*lines.lock(), [wanted]);
    }

    #[test]
    fn path_of_the_build_machine_is_removed() {
        for (path, wanted) in [
            ("src/pay.rs", "src/pay.rs"),
            (
                "/root/.cargo/registry/src/index.crates.io-1949/tokio-1.48.0/src/runtime/mod.rs",
                "tokio-1.48.0/src/runtime/mod.rs",
            ),
            ("/rustc/0123/library/core/src/option.rs", "core/src/option.rs"),
            ("/home/someone/build/main.rs", "main.rs"),
            ("/", ""),
        ] {
            assert_eq!(short_path(path), wanted);
        }
    }
}
