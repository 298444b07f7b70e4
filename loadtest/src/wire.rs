//! PostgreSQL's frames: building the few a client sends, and walking those a server sends without decoding cells.
//!
//! Not a protocol library: what neither ends an answer, fails it nor asks for a password is counted and skipped.
//! Invariant: the walker says the same wherever its input is cut, and never copies the body of a row.
//! Source: PostgreSQL documentation, "Message Formats".

/// Protocol 3.0.
const PROTOCOL: u32 = 196_608;
const SSL_REQUEST: u32 = 80_877_103;
/// Longest authentication or error message we keep. PostgreSQL's own are a few hundred bytes.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Appends a frame with a tag; the length is patched when the body is known.
pub(crate) fn frame(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    untagged(out, body);
}

fn untagged(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

pub(crate) fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

pub(crate) fn ssl_request(out: &mut Vec<u8>) {
    untagged(out, |b| b.extend_from_slice(&SSL_REQUEST.to_be_bytes()));
}

pub(crate) fn startup(out: &mut Vec<u8>, user: &str, database: &str) {
    untagged(out, |b| {
        b.extend_from_slice(&PROTOCOL.to_be_bytes());
        for text in ["user", user, "database", database, "application_name", "loadtest"] {
            cstr(b, text.as_bytes());
        }
        b.push(0);
    });
}

pub(crate) fn sync(out: &mut Vec<u8>) {
    frame(out, b'S', |_| {});
}

pub(crate) fn terminate(out: &mut Vec<u8>) {
    frame(out, b'X', |_| {});
}

/// Describe of the unnamed portal and Execute without a row limit.
pub(crate) fn describe_execute(out: &mut Vec<u8>) {
    frame(out, b'D', |b| b.extend_from_slice(b"P\0"));
    frame(out, b'E', |b| b.extend_from_slice(&[0; 5]));
}

/// What the walker stops for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// ReadyForQuery: everything asked before the last Sync or Query is answered.
    Ready,
    Error(&'a [u8]),
    Authentication(&'a [u8]),
    /// The server waits for rows we do not have.
    CopyIn,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Walks frames of a server. Invariant: `have < 5` exactly while a header is incomplete; `left` is what its body still lacks.
#[derive(Default)]
pub(crate) struct Walker {
    header: [u8; 5],
    have: usize,
    left: usize,
    kept: Vec<u8>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl Walker {
    /// Takes from `input` up to the next thing worth telling; `None`: all of it is walked.
    pub(crate) fn next<'w>(&'w mut self, input: &mut &[u8]) -> Result<Option<Seen<'w>>, Malformed> {
        loop {
            if self.have < 5 && !self.header(input)? {
                return Ok(None);
            }
            let [tag, ..] = self.header;
            let (body, rest) = input.split_at(self.left.min(input.len()));
            let keep = matches!(tag, b'R' | b'E');
            if keep {
                if self.kept.len() + body.len() > KEPT_BYTES_MAX {
                    return Err(Malformed("an error or authentication message longer than 64 KiB"));
                }
                self.kept.extend_from_slice(body);
            }
            *input = rest;
            self.left -= body.len();
            self.bytes += body.len() as u64;
            if self.left > 0 {
                return Ok(None);
            }
            self.have = 0;
            match tag {
                b'Z' => return Ok(Some(Seen::Ready)),
                b'E' => return Ok(Some(Seen::Error(&self.kept))),
                b'R' => return Ok(Some(Seen::Authentication(&self.kept))),
                b'G' => return Ok(Some(Seen::CopyIn)),
                // Counted, or none of our business.
                _ => {}
            }
        }
    }

    /// True when a header is complete.
    fn header(&mut self, input: &mut &[u8]) -> Result<bool, Malformed> {
        if let (0, Some((whole, rest))) = (self.have, input.split_first_chunk::<5>()) {
            self.header = *whole;
            *input = rest;
            self.have = 5;
            self.bytes += 5;
        }
        while self.have < 5 {
            let Some((first, rest)) = input.split_first() else { return Ok(false) };
            if let Some(slot) = self.header.get_mut(self.have) {
                *slot = *first;
            }
            *input = rest;
            self.have += 1;
            self.bytes += 1;
        }
        let [tag, a, b, c, d] = self.header;
        let length = u32::from_be_bytes([a, b, c, d]);
        self.left = length.checked_sub(4).ok_or(Malformed("a frame shorter than its own length"))? as usize;
        self.kept.clear();
        if matches!(tag, b'D' | b'd') {
            self.rows += 1;
        }
        Ok(true)
    }
}

/// `SQLSTATE message` of an ErrorResponse's body.
pub(crate) fn error_text(body: &[u8]) -> String {
    let field = |wanted: u8| {
        body.split(|b| *b == 0).find_map(|f| match f.split_first() {
            Some((kind, text)) if *kind == wanted => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        })
    };
    format!("{} {}", field(b'C').unwrap_or_default(), field(b'M').unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Vec<u8> {
        let mut b = Vec::new();
        frame(&mut b, b'R', |b| b.extend_from_slice(&[0, 0, 0, 0]));
        frame(&mut b, b'T', |b| b.extend_from_slice(&[0, 1, 7, 0]));
        for n in 0..3u8 {
            frame(&mut b, b'D', |b| b.extend_from_slice(&vec![n; 300]));
        }
        frame(&mut b, b'd', |b| cstr(b, b"1\t2"));
        frame(&mut b, b'E', |b| b.extend_from_slice(b"SERROR\0C42P01\0Mno such table\0\0"));
        frame(&mut b, b'Z', |b| b.push(b'I'));
        b
    }

    fn walk(pieces: &[&[u8]]) -> (Vec<String>, u64, u64) {
        let mut walker = Walker::default();
        let mut seen = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(s) = walker.next(&mut input).expect("well formed") {
                seen.push(match s {
                    Seen::Error(body) => error_text(body),
                    other => format!("{other:?}"),
                });
            }
            assert!(input.is_empty());
        }
        (seen, walker.rows, walker.bytes)
    }

    #[test]
    fn every_cut_gives_the_same() {
        let bytes = answer();
        let whole = walk(&[&bytes]);
        assert_eq!(whole.0, ["Authentication([0, 0, 0, 0])", "42P01 no such table", "Ready"]);
        assert_eq!((whole.1, whole.2), (4, bytes.len() as u64));
        for cut in 0..=bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(walk(&[a, b]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(walk(&single), whole);
    }

    #[test]
    fn a_frame_shorter_than_its_length_is_malformed() {
        let mut input: &[u8] = &[b'D', 0, 0, 0, 3];
        assert!(Walker::default().next(&mut input).is_err());
    }

    #[test]
    fn lengths_count_themselves() {
        let mut out = Vec::new();
        ssl_request(&mut out);
        assert_eq!(out, [0, 0, 0, 8, 4, 210, 22, 47]);
        out.clear();
        describe_execute(&mut out);
        assert_eq!(out, *b"D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0");
    }
}
