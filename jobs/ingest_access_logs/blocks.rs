//! Pieces of a file that end with a line, made of chunks that end anywhere.

use bytes::Bytes;
use memchr::{memchr, memrchr};

use super::line::LINE_BYTES;

/// Whole lines of a file.
#[derive(Debug)]
pub(super) struct Block {
    /// The line that began in an earlier chunk, without its line feed.
    head: Option<Vec<u8>>,
    /// The lines after it.
    body: Bytes,
}

impl Block {
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let mut body = &self.body[..];
        let rest = std::iter::from_fn(move || {
            if body.is_empty() {
                return None;
            }
            let end = memchr(b'\n', body).unwrap_or(body.len());
            let line = &body[..end];
            body = body.get(end + 1..).unwrap_or_default();
            Some(line)
        });
        self.head.iter().map(Vec::as_slice).chain(rest)
    }

    pub(super) fn bytes(&self) -> usize {
        self.head.as_ref().map_or(0, Vec::len) + self.body.len()
    }
}

/// Cuts the chunks of a file behind line feeds.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// The beginning of a line; of one that is too long, one byte more than is allowed.
    begun: Vec<u8>,
}

impl Cutter {
    fn keep(&mut self, bytes: &[u8]) {
        let room = (LINE_BYTES + 1).saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The lines that end in the next chunk.
    pub(super) fn push(&mut self, chunk: &Bytes) -> Option<Block> {
        let Some(last) = memrchr(b'\n', chunk) else {
            self.keep(chunk);
            return None;
        };
        let mut body = chunk.slice(..=last);
        let mut head = None;
        if !self.begun.is_empty() {
            let first = memchr(b'\n', &body).unwrap_or(last);
            self.keep(&body[..first]);
            head = Some(std::mem::take(&mut self.begun));
            body = body.slice(first + 1..);
        }
        self.keep(&chunk[last + 1..]);
        Some(Block { head, body })
    }

    /// The last line of a file that does not end with a line feed.
    pub(super) fn end(&mut self) -> Option<Block> {
        let begun = std::mem::take(&mut self.begun);
        (!begun.is_empty()).then_some(Block { head: Some(begun), body: Bytes::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], chunk_bytes: usize) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::default();
        let mut found = vec![];
        for chunk in text.chunks(chunk_bytes) {
            let block = cutter.push(&Bytes::copy_from_slice(chunk));
            found.extend(block.iter().flat_map(Block::lines).map(<[u8]>::to_vec));
        }
        found.extend(cutter.end().iter().flat_map(Block::lines).map(<[u8]>::to_vec));
        found
    }

    #[test]
    fn lines_are_whole_wherever_chunks_end() {
        for text in ["a\nbc\n\ndef\n", "a\nbc\n\ndef", "\n\n", "", "abc", "\nabc\n"] {
            let mut want: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b'\n').collect();
            if want.last().is_some_and(|last| last.is_empty()) {
                want.pop();
            }
            for chunk_bytes in 1..12 {
                assert_eq!(lines(text.as_bytes(), chunk_bytes), want, "{text:?} in chunks of {chunk_bytes}");
            }
        }
    }

    #[test]
    fn of_a_line_without_an_end_little_is_kept() {
        let text = [vec![b'x'; 10 * LINE_BYTES], b"\nnext\n".to_vec()].concat();
        for chunk_bytes in [1_000, LINE_BYTES, 4 * LINE_BYTES, 20 * LINE_BYTES] {
            let found = lines(&text, chunk_bytes);
            assert_eq!(found.len(), 2);
            assert!(found[0].len() > LINE_BYTES && found[1] == b"next", "{chunk_bytes}");
        }
        let mut cutter = Cutter::default();
        for _ in 0..100 {
            assert!(cutter.push(&Bytes::from(vec![0; LINE_BYTES])).is_none());
        }
        assert_eq!(cutter.begun.len(), LINE_BYTES + 1);
    }
}
