//! What the stub answers: canned tables, recorded bytes, generated rows; all of it encoded before the first client comes.
//!
//! Not SQL: a statement is looked up by its text, then by what a file says it contains, its first word, and the
//! tables we know; several statements in one Query
//! get one answer. Invariant: finding an answer allocates nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::wire::{cstr, frame};

/// Which tables the stub says its columns come from: their oids in the catalogue a gateway was given. 0: from none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origins {
    pub(crate) customers: u32,
    pub(crate) accounts: u32,
}

pub(crate) const ACCOUNTS: &str = "pgbench_accounts";
pub(crate) const CUSTOMERS: &str = "customers";
/// Name and type of what is generated.
pub(crate) const CUSTOMERS_COLUMNS: [(&str, u32); 10] = [
    ("id", 20),
    ("name", 25),
    ("email", 25),
    ("ssn", 25),
    ("card", 25),
    ("phone", 25),
    ("address", 25),
    ("notes", 25),
    ("created_at", 1184),
    ("balance", 1700),
];
/// Rows encoded once and sent again and again.
const BLOCK_ROWS: u64 = 1000;
const TEXT: u32 = 25;
const INT4: u32 = 23;

/// The answer to one statement, in encoded pieces: `columns` or `copy`, then `block` so many `times`, then `tail`.
#[derive(Default)]
pub(crate) struct Answer {
    /// RowDescription; empty: the statement returns no rows.
    pub(crate) columns: Vec<u8>,
    /// CopyOutResponse.
    pub(crate) copy: Vec<u8>,
    pub(crate) block: Vec<u8>,
    pub(crate) times: u64,
    /// CommandComplete.
    pub(crate) tail: Vec<u8>,
    /// What ReadyForQuery says from here on: I or T; `None`: as before.
    pub(crate) transaction: Option<u8>,
}

pub(crate) struct Answers {
    known: Vec<Answer>,
    by_text: HashMap<Vec<u8>, usize>,
    /// A file's, and those recorded.
    by_part: Vec<(Vec<u8>, usize)>,
    by_word: Vec<(&'static str, usize)>,
    /// Built in: a table the statement names.
    by_table: Vec<(Vec<u8>, usize)>,
    otherwise: usize,
    empty: usize,
    origins: Origins,
}

/// A line of an answers file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    text: Option<String>,
    contains: Option<String>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    rows: Vec<Vec<Option<String>>>,
    replay: Option<PathBuf>,
    generate: Option<u64>,
}

impl Answers {
    /// The built-in ones; `rows` is how many customers there are.
    pub(crate) fn new(rows: u64, origins: Origins) -> Answers {
        let mut a = Answers {
            known: Vec::new(),
            by_text: HashMap::new(),
            by_part: Vec::new(),
            by_word: Vec::new(),
            by_table: Vec::new(),
            otherwise: 0,
            empty: 0,
            origins,
        };
        a.otherwise = a.keep(table(&[("?column?", INT4, 0, 0)], &[vec![Some("1".to_owned())]]));
        a.empty = a.keep(Answer { tail: framed(b'I', b""), ..Answer::default() });
        for (word, tag, transaction) in [
            ("begin", "BEGIN", Some(b'T')),
            ("start", "START TRANSACTION", Some(b'T')),
            ("commit", "COMMIT", Some(b'I')),
            ("end", "COMMIT", Some(b'I')),
            ("rollback", "ROLLBACK", Some(b'I')),
            ("set", "SET", None),
            ("reset", "RESET", None),
            ("discard", "DISCARD ALL", None),
            ("deallocate", "DEALLOCATE ALL", None),
            ("listen", "LISTEN", None),
            ("unlisten", "UNLISTEN", None),
            ("insert", "INSERT 0 1", None),
            ("update", "UPDATE 1", None),
            ("delete", "DELETE 1", None),
        ] {
            let number = a.keep(Answer { tail: complete(tag), transaction, ..Answer::default() });
            a.by_word.push((word, number));
        }
        let number = a.keep(copy_of_customers(rows));
        a.by_word.push(("copy", number));
        let account = [("abalance", INT4, origins.accounts, 3)];
        let number = a.keep(table(&account, &[vec![Some("0".to_owned())]]));
        a.by_table.push((ACCOUNTS.into(), number));
        let number = a.keep(customers(rows, origins.customers));
        a.by_table.push((CUSTOMERS.into(), number));
        a
    }

    /// JSON lines: `{"text" or "contains": …}` and one of `"rows"` (with `"columns"`), `"replay": FILE`, `"generate": N`.
    pub(crate) fn read(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let folder = path.parent().unwrap_or(Path::new("."));
            self.entry(line, folder).with_context(|| format!("{}, line {}", path.display(), number + 1))?;
        }
        Ok(())
    }

    fn entry(&mut self, line: &str, folder: &Path) -> Result<()> {
        let entry: Entry = serde_json::from_str(line)?;
        let answer = match (entry.replay, entry.generate) {
            (Some(file), None) => {
                let path = folder.join(file);
                let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
                replay(bytes).with_context(|| path.display().to_string())?
            }
            (None, Some(rows)) => customers(rows, self.origins.customers),
            (None, None) => {
                let wrong = entry.rows.iter().find(|row| row.len() != entry.columns.len());
                ensure!(wrong.is_none(), "a row has another number of cells than there are columns");
                let columns: Vec<_> = entry.columns.iter().map(|name| (name.as_str(), TEXT, 0, 0)).collect();
                table(&columns, &entry.rows)
            }
            (Some(_), Some(_)) => bail!("replay and generate exclude each other"),
        };
        let number = self.keep(answer);
        match (entry.text, entry.contains) {
            (Some(text), None) => drop(self.by_text.insert(text.into_bytes(), number)),
            (None, Some(part)) => self.by_part.push((part.into_bytes(), number)),
            _ => bail!("either text or contains says which statement this answers"),
        }
        Ok(())
    }

    /// A recorded answer for statements that contain `part`.
    pub(crate) fn replay(&mut self, part: &str, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let number = self.keep(replay(bytes).with_context(|| path.display().to_string())?);
        self.by_part.push((part.as_bytes().to_vec(), number));
        Ok(())
    }

    pub(crate) fn find(&self, sql: &[u8]) -> usize {
        if let Some(number) = self.by_text.get(sql) {
            return *number;
        }
        let having = |parts: &[(Vec<u8>, usize)]| {
            let found = parts.iter().find(|(part, _)| contains(sql, part));
            found.map(|(_, number)| *number)
        };
        if let Some(number) = having(&self.by_part) {
            return number;
        }
        let start = sql.iter().position(|b| !matches!(b, b' ' | b'\n' | b'\t' | b'\r' | b';' | b'('));
        let Some(text) = start.and_then(|at| sql.get(at..)) else { return self.empty };
        let end = text.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(text.len());
        let word = text.get(..end).unwrap_or_default();
        let named = self.by_word.iter().find(|(known, _)| word.eq_ignore_ascii_case(known.as_bytes()));
        named.map(|(_, number)| *number).or_else(|| having(&self.by_table)).unwrap_or(self.otherwise)
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Answer> {
        self.known.get(number)
    }

    fn keep(&mut self, answer: Answer) -> usize {
        self.known.push(answer);
        self.known.len() - 1
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    let Some(first) = part.first() else { return true };
    let starts = text.iter().enumerate().filter(|(_, b)| *b == first).map(|(at, _)| at);
    starts.into_iter().any(|at| text.get(at..).is_some_and(|rest| rest.starts_with(part)))
}

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, tag, |b| b.extend_from_slice(body));
    out
}

fn complete(tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, b'C', |b| cstr(b, tag.as_bytes()));
    out
}

/// Name, type, and the table and attribute it comes from.
fn description(columns: &[(&str, u32, u32, u16)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, b'T', |b| {
        b.extend_from_slice(&(columns.len() as u16).to_be_bytes());
        for (name, kind, oid, attribute) in columns {
            cstr(b, name.as_bytes());
            b.extend_from_slice(&oid.to_be_bytes());
            b.extend_from_slice(&attribute.to_be_bytes());
            b.extend_from_slice(&kind.to_be_bytes());
            let size: i16 = match *kind {
                INT4 => 4,
                20 | 1184 => 8,
                _ => -1,
            };
            b.extend_from_slice(&size.to_be_bytes());
            b.extend_from_slice(&(-1i32).to_be_bytes());
            b.extend_from_slice(&[0, 0]);
        }
    });
    out
}

fn row(out: &mut Vec<u8>, cells: &[Option<String>]) {
    frame(out, b'D', |b| {
        b.extend_from_slice(&(cells.len() as u16).to_be_bytes());
        for cell in cells {
            match cell {
                None => b.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(text) => {
                    b.extend_from_slice(&(text.len() as u32).to_be_bytes());
                    b.extend_from_slice(text.as_bytes());
                }
            }
        }
    });
}

fn table(columns: &[(&str, u32, u32, u16)], rows: &[Vec<Option<String>>]) -> Answer {
    let mut block = Vec::new();
    rows.iter().for_each(|cells| row(&mut block, cells));
    let tail = complete(&format!("SELECT {}", rows.len()));
    Answer { columns: description(columns), block, times: 1, tail, ..Answer::default() }
}

/// A made-up customer; about 230 bytes, as wide as people's records are.
fn customer(n: u64) -> Vec<Option<String>> {
    let pick = |of: &[&str]| of.get(n as usize % of.len().max(1)).copied().unwrap_or_default().to_owned();
    let first = pick(&["James", "Mary", "Wei", "Fatima", "Olga", "Juan", "Aisha", "Zoë"]);
    let last = pick(&["Smith", "García", "Nguyen", "Kowalski", "Müller", "Patel", "Rossi"]);
    let note = pick(&["Prefers contact by e-mail", "Renewed the annual plan", "Late payment in Q3", "VIP"]);
    vec![
        Some(n.to_string()),
        Some(format!("{first} {last}")),
        Some(format!("{}{}@mail.example.org", first.to_lowercase(), n % 9973)),
        Some(format!("{:03}-{:02}-{:04}", 100 + n * 31 % 799, 1 + n * 17 % 98, n % 10_000)),
        Some(format!("4{:015}", n * 7_919 % 1_000_000_000_000_000)),
        Some(format!("+1-{}-555-{:04}", 201 + n * 13 % 788, n * 37 % 10_000)),
        Some(format!("{} Maple Avenue, Springfield, IL 62704", 1 + n * 7 % 9_999)),
        (n % 20 != 13).then_some(note),
        Some(format!("2019-01-{:02} 00:{:02}:00+00", 1 + n % 31, n % 60)),
        Some(format!("{}.{:02}", n * 7_919 % 10_000_000, n % 100)),
    ]
}

fn times(rows: u64) -> (u64, u64) {
    match rows {
        0..BLOCK_ROWS => (rows, 1),
        _ => (BLOCK_ROWS, rows / BLOCK_ROWS),
    }
}

/// `rows` of them, rounded down to whole thousands.
fn customers(rows: u64, oid: u32) -> Answer {
    let (in_block, times) = times(rows);
    let columns = CUSTOMERS_COLUMNS.iter().zip(1u16..);
    let columns: Vec<_> = columns.map(|((name, kind), n)| (*name, *kind, oid, n)).collect();
    let mut block = Vec::new();
    (0..in_block).for_each(|n| row(&mut block, &customer(n)));
    let tail = complete(&format!("SELECT {}", in_block * times));
    Answer { columns: description(&columns), block, times, tail, ..Answer::default() }
}

fn copy_of_customers(rows: u64) -> Answer {
    let (in_block, times) = times(rows);
    let mut block = Vec::new();
    for n in 0..in_block {
        let cells = customer(n).into_iter().map(|cell| cell.unwrap_or_else(|| "\\N".to_owned()));
        let line = cells.collect::<Vec<_>>().join("\t");
        frame(&mut block, b'd', |b| {
            b.extend_from_slice(line.as_bytes());
            b.push(b'\n');
        });
    }
    let mut header = vec![0, 0, CUSTOMERS_COLUMNS.len() as u8];
    header.extend_from_slice(&[0; 2 * CUSTOMERS_COLUMNS.len()]);
    let mut tail = framed(b'c', b"");
    tail.extend_from_slice(&complete(&format!("COPY {}", in_block * times)));
    Answer { copy: framed(b'H', &header), block, times, tail, ..Answer::default() }
}

/// Takes a recorded answer apart: what describes it, what is in it; the ReadyForQuery at its end is ours to say.
fn replay(bytes: Vec<u8>) -> Result<Answer> {
    let mut answer = Answer { times: 1, ..Answer::default() };
    let mut at = 0;
    while let Some((header, _)) = bytes.get(at..).and_then(|rest| rest.split_first_chunk::<5>()) {
        let [tag, a, b, c, d] = *header;
        let end = at + 1 + u32::from_be_bytes([a, b, c, d]) as usize;
        let whole = bytes.get(at..end).context("the recording ends within a message")?;
        match tag {
            b'T' if answer.columns.is_empty() && at == 0 => answer.columns = whole.to_vec(),
            b'H' if at == 0 => answer.copy = whole.to_vec(),
            b'Z' => {
                ensure!(end == bytes.len(), "the recording goes on after ReadyForQuery");
                let from = answer.columns.len() + answer.copy.len();
                answer.block = bytes.get(from..at).unwrap_or_default().to_vec();
                return Ok(answer);
            }
            b'E' => bail!("the recording is of an error"),
            _ => {}
        }
        at = end;
    }
    bail!("the recording does not end in ReadyForQuery")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(answers: &Answers, sql: &str) -> String {
        let tail = &answers.get(answers.find(sql.as_bytes())).expect("known").tail;
        String::from_utf8_lossy(tail.get(5..).unwrap_or_default()).trim_end_matches('\0').to_owned()
    }

    #[test]
    fn statements_are_found_by_text_then_part_then_word() {
        let mut answers = Answers::new(2000, Origins::default());
        let folder = Path::new(".");
        answers
            .entry(r#"{"text": "select 1", "columns": ["a"], "rows": [["x"], [null]]}"#, folder)
            .expect("valid");
        answers.entry(r#"{"contains": "nothing", "columns": ["a"]}"#, folder).expect("valid");
        assert_eq!(tag(&answers, "select 1"), "SELECT 2");
        assert_eq!(tag(&answers, "select 2"), "SELECT 1");
        assert_eq!(tag(&answers, "UPDATE t SET a = 'nothing'"), "SELECT 0");
        assert_eq!(tag(&answers, "SELECT * FROM customers"), "SELECT 2000");
        assert_eq!(tag(&answers, " \n begin"), "BEGIN");
        assert_eq!(tag(&answers, "update customers set a = 1"), "UPDATE 1");
        assert_eq!(tag(&answers, "COPY customers TO STDOUT"), "C\0\0\0\x0eCOPY 2000");
        assert_eq!(tag(&answers, " ; "), "");
    }

    #[test]
    fn a_file_with_mistakes_is_refused() {
        let mut answers = Answers::new(1, Origins::default());
        for line in [
            r#"{"columns": ["a"]}"#,
            r#"{"text": "a", "contains": "b"}"#,
            r#"{"text": "a", "columns": ["a"], "rows": [["1", "2"]]}"#,
            r#"{"text": "a", "replay": "/nonexistent"}"#,
            r#"{"text": "a", "nonsense": 1}"#,
        ] {
            assert!(answers.entry(line, Path::new(".")).is_err(), "{line}");
        }
    }

    #[test]
    fn a_recording_is_taken_apart_and_refused_when_cut() {
        let whole = customers(5, 7);
        let bytes = [&whole.columns[..], &whole.block, &whole.tail, &framed(b'Z', b"I")].concat();
        let again = replay(bytes.clone()).expect("whole");
        assert_eq!(again.columns, whole.columns);
        assert_eq!(again.block, [&whole.block[..], &whole.tail].concat());
        assert!(replay(bytes[..bytes.len() - 1].to_vec()).is_err());
        assert!(replay([&bytes[..], b"x"].concat()).is_err());
        assert!(replay(Vec::new()).is_err());
    }
}
