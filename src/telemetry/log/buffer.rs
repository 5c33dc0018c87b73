//! Lines that wait to be written. Whoever adds one never waits; a thread of its own writes them.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;

/// How long the writer gathers lines before it writes them together, so that a busy gateway does not wake it for each.
const GATHERING: Duration = Duration::from_millis(1);
/// How long the writer rests when standard error is a non-blocking descriptor that takes nothing now.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A bounded buffer of whole lines.
pub(super) struct Buffer {
    state: Mutex<State>,
    /// The first line came, or everything was written.
    changed: Condvar,
    dropped_total: IntCounter,
}

struct State {
    waiting: Vec<u8>,
    /// The most bytes that wait.
    limit: usize,
    is_writing: bool,
    /// Lines that were dropped since the log last said so.
    dropped: u64,
}

impl Buffer {
    /// Holds so many bytes, and counts the lines that it drops.
    pub(super) fn new(limit: usize, dropped_total: &IntCounter) -> Self {
        let state = State { waiting: Vec::new(), limit, is_writing: false, dropped: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), dropped_total: dropped_total.clone() }
    }

    /// Changes how many bytes it holds.
    pub(super) fn set_limit(&self, limit: usize) {
        self.state.lock().limit = limit;
    }

    /// Adds a line with its line end, or drops it when too much waits already.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.waiting.len() + line.len() > state.limit {
            state.dropped += 1;
            drop(state);
            return self.dropped_total.inc();
        }
        let is_first = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if is_first {
            self.changed.notify_all();
        }
    }

    /// Writes lines until the process ends. What cannot be written is dropped.
    pub(super) fn write_to(&self, out: &mut impl Write) {
        let (mut batch, mut is_torn) = (Vec::new(), false);
        loop {
            self.next(&mut batch);
            self.write(out, &batch, &mut is_torn);
        }
    }

    /// Writes as much of the batch as possible. What follows half a line begins on a line of its own.
    fn write(&self, out: &mut impl Write, batch: &[u8], is_torn: &mut bool) {
        *is_torn = *is_torn && write_some(out, b"\n") == 0;
        let written = if *is_torn { 0 } else { write_some(out, batch) };
        let (done, left) = batch.split_at(written);
        *is_torn = done.last().map_or(*is_torn, |end| *end != b'\n');
        self.count(left);
    }

    /// Waits for lines and takes all of them.
    fn next(&self, batch: &mut Vec<u8>) {
        batch.clear();
        let mut state = self.state.lock();
        state.is_writing = false;
        self.changed.notify_all();
        while state.waiting.is_empty() {
            self.changed.wait(&mut state);
        }
        state.is_writing = true;
        drop(state);
        std::thread::sleep(GATHERING);
        std::mem::swap(batch, &mut self.state.lock().waiting);
    }

    /// Counts the lines that were not written; when all were, says how many were dropped before.
    fn count(&self, left: &[u8]) {
        let lost = left.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.dropped_total.inc_by(lost);
        let mut state = self.state.lock();
        state.dropped += lost;
        if left.is_empty() && state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            tracing::warn!(dropped, "log lines were dropped: nobody read standard error, or it could not be written");
        }
    }

    /// Waits until everything is written, for so long at most.
    pub(super) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
        while (state.is_writing || !state.waiting.is_empty()) && !self.changed.wait_until(&mut state, until).timed_out()
        {
        }
    }
}

/// Writes as much as possible, and returns how many bytes that was. A full pipe is waited for.
fn write_some(out: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_PAUSE),
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A pipe: a reader that is slow blocks the writer, and one that is gone breaks it.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map(|()| bytes.len()).map_err(|_| ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(limit: usize) -> (Arc<Buffer>, IntCounter, Receiver<Vec<u8>>) {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let buffer = Arc::new(Buffer::new(limit, &dropped));
        let (pipe, reader) = sync_channel(0);
        let writing = Arc::clone(&buffer);
        std::thread::spawn(move || writing.write_to(&mut Pipe(pipe)));
        (buffer, dropped, reader)
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_dropped_lines_are_counted() {
        let (buffer, dropped, reader) = start(50);
        for _ in 0..100 {
            buffer.push(b"0123456789\n");
        }
        // A batch may be with the writer, and as much may wait.
        let lost = dropped.get();
        assert!((92..=96).contains(&lost), "{lost}");
        buffer.flush(Duration::from_millis(1));
        let mut read = 0;
        while read < 100 - lost {
            let lines = reader.recv().unwrap();
            assert_eq!(lines.len() % 11, 0, "whole lines");
            read += lines.len() as u64 / 11;
        }
        buffer.push(b"again\n");
        assert_eq!(reader.recv().unwrap(), b"again\n");
        buffer.flush(Duration::from_secs(60));
        assert_eq!(dropped.get(), lost);
    }

    #[test]
    fn reader_that_is_gone_loses_lines_and_stops_nobody() {
        let (buffer, dropped, reader) = start(1 << 20);
        drop(reader);
        for round in 1..=3 {
            buffer.push(b"one\n");
            buffer.flush(Duration::from_secs(60));
            assert_eq!(dropped.get(), round);
        }
    }

    /// Takes so many bytes, fails once, and takes all the rest.
    struct Torn(usize, Vec<u8>);

    impl Write for Torn {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            if count == 0 {
                self.0 = usize::MAX;
                return Err(ErrorKind::StorageFull.into());
            }
            self.0 -= count;
            self.1.extend_from_slice(bytes.get(..count).unwrap());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_after_half_a_line_begins_on_its_own() {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let buffer = Buffer::new(1 << 20, &dropped);
        let (mut disk, mut batch, mut is_torn) = (Torn(6, Vec::new()), Vec::new(), false);
        for line in ["one\n", "two\n", "three\n"] {
            buffer.push(line.as_bytes());
            buffer.next(&mut batch);
            buffer.write(&mut disk, &batch, &mut is_torn);
        }
        assert_eq!(String::from_utf8(disk.1).unwrap(), "one\ntw\nthree\n");
        assert_eq!(dropped.get(), 1);
    }
}
