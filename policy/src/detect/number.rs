//! Findings made of digits: cards, IBANs, phone numbers, ids of persons.
//!
//! Two digits side by side are the candidate (a vector search finds them), except for E.164 numbers, whose candidate is the plus.
//! Each looks at no more than 40 bytes around it, and most are refused by how their digits are grouped, read from one bit a byte. Sources: ISO/IEC 7812 and the schemes' published ranges; the IBAN registry
//! (release 99); ITU E.164; for ids of persons the checksum each country's law or tax office publishes.

use std::ops::Range;

use wide::u8x16;

use super::{Cell, Detector, Detectors};

/// What is written with a plus: E.164.
pub(super) fn plus(set: Detectors, cell: Cell<'_>, from: usize) -> Option<Range<usize>> {
    if !set.has(Detector::Phone) {
        return None;
    }
    let mut at = from;
    loop {
        let plus = at + memchr::memchr(b'+', cell.text.get(at..)?)?;
        at = plus + 1;
        if !cell.back(plus, 1).is_ascii_alphanumeric()
            && let Some(end) = e164(cell, at)
        {
            return Some(plus..end);
        }
    }
}

/// `+` country, area and number: 8 to 15 digits, with single separators and parentheses among them.
fn e164(cell: Cell<'_>, start: usize) -> Option<usize> {
    if !matches!(cell.at(start), b'1'..=b'9') {
        return None;
    }
    let (mut digits, mut end, mut at) = (0, start, start);
    loop {
        let group = at;
        while cell.at(at).is_ascii_digit() && at - group <= 15 {
            at += 1;
        }
        if at == group || digits + at - group > 15 {
            break;
        }
        digits += at - group;
        end = at;
        for _ in 0..2 {
            at += usize::from(is_separator(cell.at(at)) || matches!(cell.at(at), b'(' | b')'));
        }
        if at == end {
            break;
        }
    }
    let nanp = cell.at(start) != b'1' || digits == 11;
    (digits >= 8 && nanp && !is_word(cell.at(end))).then_some(end)
}

/// Everything else that has two digits side by side.
pub(super) fn plain(set: Detectors, cell: Cell<'_>, from: usize) -> Option<Range<usize>> {
    digits(set, cell, from, Row::plausible)
}

/// `plausible` only saves work: what it refuses is nothing.
#[inline]
fn digits(
    set: Detectors,
    cell: Cell<'_>,
    from: usize,
    plausible: impl Fn(Row, Cell<'_>, usize) -> bool,
) -> Option<Range<usize>> {
    let wanted = [Detector::Card, Detector::Iban, Detector::Phone, Detector::NationalId];
    if !wanted.into_iter().any(|d| set.has(d)) {
        return None;
    }
    let lettered = [Detector::Iban, Detector::NationalId].into_iter().any(|d| set.has(d));
    let mut bits = Bits::new(cell.text);
    let mut at = from;
    loop {
        let start = bits.two_digits(at)?;
        let row = bits.row(start);
        at = start + row.first();
        if !plausible(row, cell, start) {
            continue;
        }
        let (total, end) = extent(cell.text, start);
        // Letters beside the digits: those of an IBAN or of an id.
        let beside = lettered && (is_lettered(cell, start) || is_letter(cell, end));
        if !beside && (total < SHORTEST || !shaped(cell, start)) {
            continue;
        }
        let run = Run::read(cell, start);
        let find = |detector, check: fn(Cell<'_>, usize, &Run) -> Option<Range<usize>>| {
            set.has(detector).then(|| check(cell, start, &run)).flatten().filter(|f| f.start >= from)
        };
        let found = find(Detector::Iban, iban)
            .or_else(|| find(Detector::Card, card))
            .or_else(|| find(Detector::NationalId, person))
            .or_else(|| find(Detector::Phone, national));
        if found.is_some() {
            return found;
        }
    }
}

/// What bytes are, one bit each, of one or two blocks at a time: each byte is looked at once, however many candidates are near.
///
/// Invariant: base ≤ where candidates are looked for; end = base + one block or two, or nothing has been looked at.
struct Bits<'t> {
    text: &'t [u8],
    base: usize,
    end: usize,
    low: Row,
    high: Row,
}

const BLOCK: usize = 64;
/// Further from a candidate than this, [`Row::plausible`] does not look: fifteen digits with a gap after each, and some.
const REACH: usize = 40;

impl<'t> Bits<'t> {
    fn new(text: &'t [u8]) -> Bits<'t> {
        Bits { text, base: 0, end: 0, low: Row::default(), high: Row::default() }
    }

    /// Goes on until everything is known that `at` needs.
    #[inline(never)]
    fn look(&mut self, at: usize) {
        if at >= self.end {
            (self.base, self.end) = (at, at + BLOCK);
            (self.low, self.high) = (classes(self.text, at), Row::default());
        } else if at >= self.base + BLOCK {
            self.base += BLOCK;
            self.low = std::mem::take(&mut self.high);
        }
        if at + REACH > self.end {
            self.high = classes(self.text, self.end);
            self.end += BLOCK;
        }
    }

    /// What follows `at`.
    #[inline]
    fn row(&mut self, at: usize) -> Row {
        if at + REACH > self.end || at >= self.base + BLOCK {
            self.look(at);
        }
        let by = at - self.base;
        // In two shifts, for one by 64 is none.
        let from = |low: u64, high: u64| low >> by | high << 1 << (63 - by);
        Row { digits: from(self.low.digits, self.high.digits), gaps: from(self.low.gaps, self.high.gaps) }
    }

    /// Where the first two neighbouring digits at or behind `at` are.
    fn two_digits(&mut self, at: usize) -> Option<usize> {
        if at < self.end {
            let digits = self.row(at).digits;
            let pairs = digits & digits >> 1;
            if pairs != 0 {
                return Some(at + pairs.trailing_zeros() as usize);
            }
            return two_digits(self.text, self.end.min(at + BLOCK) - 1);
        }
        two_digits(self.text, at)
    }
}

/// The block that begins at `at`.
fn classes(text: &[u8], at: usize) -> Row {
    let rest = text.get(at..).unwrap_or_default();
    let mut padded = [0; BLOCK];
    let block = rest.first_chunk().unwrap_or_else(|| {
        for (to, from) in padded.iter_mut().zip(rest) {
            *to = *from;
        }
        &padded
    });
    let (parts, _) = block.as_chunks();
    let within = |part: u8x16, first: u8, last: u8| {
        let by = part - u8x16::splat(first);
        by.simd_eq(by.min(u8x16::splat(last - first)))
    };
    parts.iter().rev().fold(Row::default(), |row, part| {
        let part = u8x16::new(*part);
        let is_digit = within(part, b'0', b'9');
        // `-`, `.` and `/` are neighbours.
        let is_gap =
            within(part, b'-', b'/') | part.simd_eq(u8x16::splat(b' ')) | part.simd_eq(u8x16::splat(b')'));
        Row {
            digits: row.digits << 16 | u64::from(is_digit.to_bitmask()),
            gaps: row.gaps << 16 | u64::from(is_gap.to_bitmask()),
        }
    })
}

/// 64 bytes: which are digits, and which may stand between two groups of them. Of a candidate at least [`REACH`] are known.
#[derive(Clone, Copy, Default)]
struct Row {
    digits: u64,
    gaps: u64,
}

impl Row {
    /// Digits of the first group.
    fn first(self) -> usize {
        self.digits.trailing_ones() as usize
    }

    /// Groups of these lengths with one byte between, and no digit behind.
    fn grouped(self, shape: Shape) -> bool {
        self.digits & shape.seen == shape.digits
    }

    /// False: nothing is found here, whatever the digits are. Asked first because texts are full of dates, times and amounts, and in few
    /// instructions because a text can be made of nothing else. Where in doubt it says true.
    fn plausible(self, cell: Cell<'_>, start: usize) -> bool {
        let before = cell.back(start, 1);
        if (matches!(before, b' ' | b'-') || before.is_ascii_alphabetic()) && lettered(cell, start) {
            return true;
        }
        // How far digits and gaps go. The fewest are what a French number has between its sex and a letter.
        let end = (self.digits | self.gaps).trailing_ones();
        if end < 5 {
            return false;
        }
        let (one, two) = (cell.at(start), cell.at(start + 1));
        // The year of a French number whose sex stands apart.
        let spaced = matches!(before, b' ' | b'.' | b'-') && cell.back(start, 2).is_ascii_digit();
        if spaced && matches!(cell.back(start, 2), b'1' | b'2') && !is_word(cell.back(start, 3)) {
            return true;
        }
        if !begins(cell, start) {
            return false;
        }
        let first = self.first();
        let person = match first {
            2 => self.grouped(shape(&[2, 3, 3, 3])) || self.grouped(shape(&[2, 2, 2, 3, 2])),
            3 => {
                self.grouped(shape(&[3, 2, 4]))
                    || (self.grouped(shape(&[3, 3, 3]))
                        && (self.grouped(shape(&[3, 3, 3, 2])) || canada(cell, start)))
                    || self.grouped(shape(&[3, 4, 4, 2]))
            }
            4 => one > b'1' && self.grouped(shape(&[4, 4, 4])),
            // Behind one byte the serial number of a Finn, or what all others have there.
            6 => self.digits >> 7 & 7 == 7,
            8 => is_letter(cell, start + 8) || self.grouped(shape(&[8, 4])),
            9..=13 | 17 | 18 => true,
            _ => false,
        };
        if person {
            return true;
        }
        // Counted only where that matters.
        let total = || {
            let before = 1u64.checked_shl(end).unwrap_or(0).wrapping_sub(1);
            (self.digits & before).count_ones()
        };
        let card = first >= 12 || (first >= 3 && end >= 13 && matches!(cell.at(start + first), b' ' | b'-'));
        if card && issuer(one, two) && total() >= 12 {
            return true;
        }
        match one {
            b'0' => two != b'0' && end >= 9 && total() >= 9,
            b'1' | b'2' if !spaced && end >= 15 && total() >= 15 => true,
            b'1' | b'2'
                if !spaced
                    && end >= 6
                    && matches!(cell.at(start + end as usize), b'A' | b'a' | b'B' | b'b') =>
            {
                true
            }
            b'2'..=b'9' => first == 3 && end >= 12 && total() >= 10,
            _ => false,
        }
    }
}

/// Letters stand before the digits as in an IBAN, or in an id of Britain, Italy or a foreigner in Spain.
fn lettered(cell: Cell<'_>, start: usize) -> bool {
    let capital = |by: usize| cell.back(start, by).is_ascii_uppercase();
    let foreign = |by: usize| matches!(cell.back(start, by), b'X' | b'Y' | b'Z' | b'x' | b'y' | b'z');
    match cell.back(start, 1) {
        b' ' => capital(2) && capital(3) && !is_word(cell.back(start, 4)),
        b'-' => foreign(2) && !is_word(cell.back(start, 3)),
        b if b.is_ascii_alphabetic() => {
            let letters = (1..7).take_while(|by| cell.back(start, *by).is_ascii_alphabetic()).count();
            matches!((letters, foreign(1)), (1, true) | (2 | 6, _)) && !is_word(cell.back(start, letters + 1))
        }
        _ => false,
    }
}

/// Where digits are, among the first so many bytes.
#[derive(Clone, Copy)]
struct Shape {
    digits: u64,
    seen: u64,
}

/// Groups of these lengths with one byte behind each.
const fn shape(lengths: &[u32]) -> Shape {
    let (mut digits, mut at) = (0, 0);
    let mut i = 0;
    while let Some((length, _)) = lengths.split_at(i).1.split_first() {
        digits |= ((1 << *length) - 1) << at;
        at += *length + 1;
        i += 1;
    }
    Shape { digits, seen: (1 << at) - 1 }
}

/// Three groups of three digits are as Canada checks them.
fn canada(cell: Cell<'_>, start: usize) -> bool {
    let mut digits = [0; 9];
    for (i, digit) in digits.iter_mut().enumerate() {
        *digit = cell.at(start + i + i / 3).wrapping_sub(b'0');
    }
    luhn(&digits)
}

/// What [`issued`] cards begin with.
fn issuer(one: u8, two: u8) -> bool {
    match one {
        b'2' => matches!(two, b'2'..=b'7'),
        b'3' => matches!(two, b'0' | b'4'..=b'9'),
        b'4' => true,
        b'5' => matches!(two, b'0'..=b'8'),
        b'6' => matches!(two, b'0' | b'2'..=b'5' | b'7'),
        b'8' => matches!(two, b'1' | b'2'),
        b'9' => two == b'7',
        _ => false,
    }
}

/// Fewest digits of what has no letters: ids of nine, and phone numbers.
const SHORTEST: usize = 9;

/// How many digits follow with at most one separator between two, up to what any finding has; and where they end.
fn extent(text: &[u8], start: usize) -> (usize, usize) {
    let (mut digits, mut end, mut gap) = (0, start, 0);
    for (at, b) in text.iter().enumerate().skip(start) {
        if b.is_ascii_digit() {
            digits += 1;
            end = at + 1;
            gap = 0;
            if digits == SHORTEST {
                break;
            }
        } else {
            gap += 1;
            // `) ` is one separator.
            if gap > 2 || !(is_separator(*b) || *b == b')') {
                break;
            }
        }
    }
    (digits, end)
}

/// A row that begins with two digits is a phone number with its 0, an id in groups of 2-3-3-3 or 2-2-2-3-2, or of France. Asked first
/// because texts are full of dates and times.
fn shaped(cell: Cell<'_>, start: usize) -> bool {
    let digit = |by: usize| cell.at(start + by).is_ascii_digit();
    digit(2)
        || cell.at(start) == b'0'
        || (is_separator(cell.back(start, 1)) && matches!(cell.back(start, 2), b'1' | b'2'))
        || (digit(3)
            && digit(4)
            && (digit(5) || (digit(6) && digit(7) && digit(9) && digit(10) && digit(11))))
}

/// Letters right before the digits, or two capitals and a space; or the digit of a French number's sex.
fn is_lettered(cell: Cell<'_>, start: usize) -> bool {
    match cell.back(start, 1) {
        b' ' => cell.back(start, 2).is_ascii_uppercase() && cell.back(start, 3).is_ascii_uppercase(),
        b'-' => matches!(cell.back(start, 2), b'X' | b'Y' | b'Z' | b'x' | b'y' | b'z'),
        b => b.is_ascii_alphabetic(),
    }
}

/// A letter right behind them, or behind a dash; or a century's sign of Finland.
fn is_letter(cell: Cell<'_>, end: usize) -> bool {
    match cell.at(end) {
        b'-' | b'+' => cell.at(end + 1).is_ascii_alphanumeric(),
        b => b.is_ascii_alphabetic(),
    }
}

/// Where the first two neighbouring digits at or behind `from` are.
fn two_digits(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    // Without a branch inside, so that the compiler makes vector instructions of it.
    while let Some(block) = text.get(at..).and_then(|rest| rest.first_chunk::<{ BLOCK + 1 }>()) {
        let (Some((_, left)), Some((_, right))) = (block.split_last(), block.split_first()) else { break };
        let digit = |b: &u8| u8::from(b.wrapping_sub(b'0') < 10);
        if left.iter().zip(right).fold(0, |any, (a, b)| any | (digit(a) & digit(b))) != 0 {
            break;
        }
        at += BLOCK;
    }
    let rest = text.get(at..)?;
    rest.windows(2).position(|pair| pair.iter().all(u8::is_ascii_digit)).map(|i| at + i)
}

fn is_separator(b: u8) -> bool {
    matches!(b, b' ' | b'-' | b'.' | b'/')
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// Nothing of a longer word, number or decimal fraction stands before it.
fn begins(cell: Cell<'_>, start: usize) -> bool {
    let before = cell.back(start, 1);
    !(is_word(before) || (matches!(before, b'.' | b',') && cell.back(start, 2).is_ascii_digit()))
}

fn ends(cell: Cell<'_>, end: usize) -> bool {
    let after = cell.at(end);
    !(is_word(after) || (matches!(after, b'.' | b',') && cell.at(end + 1).is_ascii_digit()))
}

/// Digits in groups with one separator between, as far as twenty digits and eight groups go.
#[derive(Default)]
struct Run {
    digits: [u8; DIGITS],
    groups: [Group; 8],
    count: usize,
    /// It ends here: what follows is no further group.
    whole: bool,
}

const DIGITS: usize = 20;

#[derive(Default, Clone, Copy)]
struct Group {
    /// Before it; 0 before the first.
    separator: u8,
    length: usize,
    /// Digits up to its end, and where that is.
    digits: usize,
    end: usize,
}

impl Run {
    fn read(cell: Cell<'_>, start: usize) -> Run {
        let mut run = Run::default();
        let (mut digits, mut at, mut separator) = (0, start, 0);
        for group in 0..=run.groups.len() {
            let first = at;
            while cell.at(at).is_ascii_digit() {
                let Some(slot) = run.digits.get_mut(digits) else { return run };
                *slot = cell.at(at) - b'0';
                digits += 1;
                at += 1;
            }
            if at == first {
                break;
            }
            let Some(slot) = run.groups.get_mut(group) else { return run };
            *slot = Group { separator, length: at - first, digits, end: at };
            run.count = group + 1;
            separator = cell.at(at);
            let paren = separator == b')' && is_separator(cell.at(at + 1));
            let further = at + 1 + usize::from(paren);
            if !(is_separator(separator) || separator == b')') || !cell.at(further).is_ascii_digit() {
                break;
            }
            at = further;
        }
        run.whole = true;
        run
    }

    fn groups(&self) -> &[Group] {
        self.groups.get(..self.count).unwrap_or_default()
    }

    fn lengths(&self) -> [usize; 8] {
        self.groups.map(|g| g.length)
    }
}

// ----------------------------------------------------------------------------------------------------------------- cards

fn card(cell: Cell<'_>, start: usize, run: &Run) -> Option<Range<usize>> {
    if !begins(cell, start) {
        return None;
    }
    let first = run.groups().first()?;
    let mut longest = None;
    for (i, group) in run.groups().iter().enumerate() {
        // 4-4-4-4, 4-6-5, 4-4-4-4-3, 4-3-3-3: one kind of separator, groups of three to seven.
        let second = run.groups().get(1).map_or(0, |g| g.separator);
        if i > 0
            && (group.separator != second
                || !matches!(group.separator, b' ' | b'-')
                || !(3..=7).contains(&first.length)
                || !(1..=7).contains(&group.length))
        {
            break;
        }
        let digits = run.digits.get(..group.digits).unwrap_or_default();
        if issued(digits) && luhn(digits) && ends(cell, group.end) {
            longest = Some(start..group.end);
        }
    }
    longest
}

/// The issuer's prefix and the lengths it issues.
fn issued(digits: &[u8]) -> bool {
    let n = digits.len();
    if !(12..=19).contains(&n) {
        return false;
    }
    let prefix = digits.iter().take(6).fold(0u32, |n, d| n * 10 + u32::from(*d));
    let (two, three, four) = (prefix / 10_000, prefix / 1_000, prefix / 100);
    match two {
        40..=49 => matches!(n, 13 | 16 | 19) || matches!((four, n), (4903..=4911, 18)),
        51..=55 => n == 16,
        22..=27 if (2_221..=2_720).contains(&four) => n == 16,
        22 if (2_200..=2_204).contains(&four) => n >= 16,
        34 | 37 => n == 15,
        36 | 38 | 39 => n >= 14,
        30 if three <= 305 || four == 3_095 => n >= 14,
        35 if (3_528..=3_589).contains(&four) => n >= 16,
        50 => n == 16 || n == 19 || matches!(four, 5_018 | 5_020 | 5_038),
        56..=58 => true,
        60 if four == 6_011 => n >= 16,
        60 => n == 16,
        62 | 64 | 65 | 81 | 82 => n >= 16,
        63 | 67 => true,
        97 => four == 9_792 && n == 16,
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let d = u32::from(*d) << (i & 1);
            d / 10 + d % 10
        })
        .sum();
    !digits.is_empty() && sum.is_multiple_of(10)
}

// ----------------------------------------------------------------------------------------------------------------- IBANs

/// The candidate is its two check digits.
fn iban(cell: Cell<'_>, digits: usize, _: &Run) -> Option<Range<usize>> {
    let start = digits.checked_sub(2).filter(|s| *s >= cell.floor)?;
    if !cell.at(start + 1).is_ascii_alphabetic() || is_word(cell.back(start, 1)) {
        return None;
    }
    let country = [cell.at(start).to_ascii_uppercase(), cell.at(start + 1).to_ascii_uppercase()];
    let known = COUNTRIES.binary_search_by(|(code, _)| (*code).cmp(&country)).ok()?;
    let (_, length) = COUNTRIES.get(known)?;
    // A = 10, B = 11, …; the country and its check digits are read last.
    let mut rest = 0;
    let take = |b: u8, rest: &mut u64| {
        let value = u64::from(char::from(b).to_digit(36)?);
        *rest = *rest * if value > 9 { 100 } else { 10 } + value;
        if *rest > u64::from(u32::MAX) {
            *rest %= 97;
        }
        Some(())
    };
    let (mut at, mut taken) = (digits + 2, 4);
    while taken < *length {
        at += usize::from(matches!(cell.at(at), b' ' | b'-'));
        take(cell.at(at), &mut rest)?;
        at += 1;
        taken += 1;
    }
    for b in [cell.at(start), cell.at(start + 1), cell.at(digits), cell.at(digits + 1)] {
        take(b, &mut rest)?;
    }
    (rest % 97 == 1 && !is_word(cell.at(at))).then_some(start..at)
}

/// Length by country.
const COUNTRIES: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

// ---------------------------------------------------------------------------------------------------------------- phones

/// Without a plus, and only with separators: a row of digits alone may be anything.
fn national(cell: Cell<'_>, start: usize, run: &Run) -> Option<Range<usize>> {
    let last = run.groups().last().filter(|_| run.whole)?;
    if !begins(cell, start) || !ends(cell, last.end) {
        return None;
    }
    let open = usize::from(cell.back(start, 1) == b'(');
    let digit = |i: usize| run.digits.get(i).copied().unwrap_or(0);
    let found = start - open..last.end;
    let lengths = run.lengths();
    // (212) 555-0123: neither area nor exchange begins with 0 or 1.
    if run.count == 3 && lengths.starts_with(&[3, 3, 4]) {
        let [_, second, third, ..] = run.groups;
        let same = second.separator == third.separator || second.separator == b')' || third.separator == b'-';
        return (digit(0) > 1 && digit(3) > 1 && same).then_some(found);
    }
    // 030 1234567, 01 23 45 67 89, 07700 900123; but 01.02.2026 12 is a date.
    let date = lengths.starts_with(&[2, 2, 4]) || (lengths.starts_with(&[2, 2, 2]) && last.digits < 9);
    let grouped = run.count > 1
        && lengths.first().is_some_and(|l| (2..=5).contains(l))
        && run.groups().iter().all(|g| g.length > 1);
    let uniform = run
        .groups()
        .iter()
        .skip(2)
        .all(|g| run.groups.get(2).is_some_and(|third| g.separator == third.separator));
    (digit(0) == 0 && digit(1) > 0 && grouped && uniform && !date && (9..=12).contains(&last.digits))
        .then_some(found)
}

// --------------------------------------------------------------------------------------------------------- ids of persons

fn person(cell: Cell<'_>, start: usize, run: &Run) -> Option<Range<usize>> {
    // By the length of the first group.
    let numeric: &[Numeric] = match run.groups().first().map_or(0, |g| g.length) {
        2 => &[german, belgian],
        3 => &[ssn, brazilian, canadian, swiss],
        4 => &[indian],
        6 => &[swedish, danish, finnish, norwegian],
        8 => &[spanish, swedish],
        9 => &[ssn, canadian, dutch],
        10 => &[swedish],
        11 => &[german, belgian, polish, brazilian, norwegian],
        12 => &[swedish, indian],
        13 => &[swiss, south_african],
        17 | 18 => &[chinese],
        _ => &[],
    };
    let numeric = || numeric.iter().find_map(|check| check(cell, start, run)).map(|end| start..end);
    begins(cell, start)
        .then(numeric)
        .flatten()
        .or_else(|| LETTERED.iter().find_map(|check| check(cell, start)))
}

/// Begins with its digits; says where it ends.
type Numeric = fn(Cell<'_>, usize, &Run) -> Option<usize>;
/// Whose candidate is further in.
type Lettered = fn(Cell<'_>, usize) -> Option<Range<usize>>;

const LETTERED: &[Lettered] = &[british, spanish_foreigner, french, italian];

/// `N` digits from `start` in groups of these lengths (one separator of these between), or side by side when `lengths` is empty.
fn exactly<const N: usize>(
    cell: Cell<'_>,
    run: &Run,
    lengths: &[usize],
    separators: &[u8],
) -> Option<([u8; N], usize)> {
    let groups = run.groups();
    let last = if lengths.is_empty() {
        groups.first().filter(|g| g.length == N)?
    } else {
        let last = groups.get(lengths.len().checked_sub(1)?)?;
        let shaped = groups.iter().zip(lengths).all(|(g, l)| g.length == *l)
            && groups.iter().take(lengths.len()).skip(1).all(|g| separators.contains(&g.separator));
        Some(last).filter(|l| shaped && l.digits == N)?
    };
    let digits = *run.digits.first_chunk::<N>()?;
    ends(cell, last.end).then_some((digits, last.end))
}

/// A bare number that is a whole cell or a quoted string, or stands behind one of these words.
fn weak(cell: Cell<'_>, start: usize, end: usize, words: &[&str]) -> bool {
    let alone = |part: Option<&[u8]>| part.is_some_and(|p| p.len() < 8 && p.trim_ascii().is_empty());
    (alone(cell.text.get(cell.floor..start)) && alone(cell.text.get(end..)))
        || (cell.back(start, 1) == b'"' && cell.at(end) == b'"')
        || named(cell, start, words)
}

/// One of these words (in lower case) stands within forty bytes before, with no other number between.
fn named(cell: Cell<'_>, start: usize, words: &[&str]) -> bool {
    let before = cell.text.get(start.saturating_sub(40)..start).unwrap_or_default();
    let before = before.rsplit(u8::is_ascii_digit).next().unwrap_or_default();
    words.iter().any(|w| before.windows(w.len()).any(|part| part.eq_ignore_ascii_case(w.as_bytes())))
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |n, d| n * 10 + u64::from(*d))
}

fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(d, w)| u32::from(*d) * w).sum()
}

/// Month and day at these places could be.
fn dated(digits: &[u8], month: usize, day: usize) -> bool {
    let two = |at: usize| number(digits.get(at..at + 2).unwrap_or_default());
    (1..=12).contains(&two(month)) && (1..=31).contains(&two(day))
}

/// United States, social security: `123-45-6789`; side by side only behind its name.
fn ssn(cell: Cell<'_>, start: usize, run: &Run) -> Option<usize> {
    let written = |s| exactly::<9>(cell, run, &[3, 2, 4], s);
    let (d, end) = written(b"-").or_else(|| written(b" ")).or_else(|| {
        exactly::<9>(cell, run, &[], b"").filter(|_| named(cell, start, &["ssn", "social sec"]))
    })?;
    let (area, group, serial) = (number(&d) / 1_000_000, number(&d) / 10_000 % 100, number(&d) % 10_000);
    (area > 0 && area != 666 && area < 900 && group > 0 && serial > 0).then_some(end)
}

/// Germany, Steuer-ID: ISO 7064 mod 11,10; of the first ten digits one comes twice or three times, the others once.
fn german(cell: Cell<'_>, _: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<11>(cell, run, &[], b"").or_else(|| exactly(cell, run, &[2, 3, 3, 3], b" "))?;
    let (check, ten) = d.split_last()?;
    let mut product = 10;
    for digit in ten {
        let sum = (u32::from(*digit) + product) % 10;
        product = if sum == 0 { 10 } else { sum } * 2 % 11;
    }
    if (11 - product) % 10 != u32::from(*check) || ten.first().is_none_or(|first| *first == 0) {
        return None;
    }
    let mut seen = [0u8; 10];
    for digit in ten {
        if let Some(n) = seen.get_mut(usize::from(*digit)) {
            *n += 1;
        }
    }
    let repeated = seen.iter().filter(|n| **n > 1).count() == 1 && seen.iter().all(|n| *n < 4);
    repeated.then_some(end)
}

/// Belgium, rijksregisternummer: `85.07.30-033.28`, mod 97, with a 2 before it for who was born since 2000.
fn belgian(cell: Cell<'_>, _: usize, run: &Run) -> Option<usize> {
    let (d, end) =
        exactly::<11>(cell, run, &[], b"").or_else(|| exactly(cell, run, &[2, 2, 2, 3, 2], b".- "))?;
    let (body, check) = (number(&d) / 100, number(&d) % 100);
    (dated(&d, 2, 4) && [body, body + 2_000_000_000].iter().any(|n| 97 - n % 97 == check)).then_some(end)
}

/// Sweden, personnummer: `811218-9876`, with the century or without; Luhn over the last ten.
fn swedish(cell: Cell<'_>, start: usize, run: &Run) -> Option<usize> {
    let century = exactly::<12>(cell, run, &[], b"").or_else(|| exactly(cell, run, &[8, 4], b"-"));
    let (d, end) = match century {
        Some((d, end)) => {
            (matches!(d, [1, 9, ..] | [2, 0, ..]).then(|| d.last_chunk::<10>().copied())??, end)
        }
        None => exactly::<10>(cell, run, &[6, 4], b"-").or_else(|| {
            let (d, end) = exactly::<10>(cell, run, &[], b"")?;
            weak(cell, start, end, &["personn", "pnr"]).then_some((d, end))
        })?,
    };
    let day = number(d.get(4..6)?);
    (dated(&d, 2, 4) || ((61..=91).contains(&day) && (1..=12).contains(&number(d.get(2..4)?))))
        .then_some(end)
        .filter(|_| luhn(&d))
}

/// Poland, PESEL: the century is in the month.
fn polish(cell: Cell<'_>, _: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<11>(cell, run, &[], b"")?;
    let (month, day) = (number(d.get(2..4)?) % 20, number(d.get(4..6)?));
    let sum = weighted(&d, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]);
    ((1..=12).contains(&month) && (1..=31).contains(&day) && sum.is_multiple_of(10)).then_some(end)
}

/// Brazil, CPF: `529.982.247-25`, two check digits mod 11.
fn brazilian(cell: Cell<'_>, _: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<11>(cell, run, &[], b"").or_else(|| exactly(cell, run, &[3, 3, 3, 2], b".-"))?;
    let check = |sum: u32| sum * 10 % 11 % 10;
    let first = check(weighted(d.get(..9)?, &[10, 9, 8, 7, 6, 5, 4, 3, 2]));
    let second = check(weighted(d.get(..10)?, &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2]));
    let [.., a, b] = d;
    let varied = d.iter().any(|x| *x != a);
    (varied && first == u32::from(a) && second == u32::from(b)).then_some(end)
}

/// Norway, fødselsnummer: two check digits mod 11.
fn norwegian(cell: Cell<'_>, _: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<11>(cell, run, &[], b"").or_else(|| exactly(cell, run, &[6, 5], b" "))?;
    let sound = weighted(&d, &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1]).is_multiple_of(11)
        && weighted(&d, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11);
    (dated(&d, 2, 0) && sound).then_some(end)
}

/// Denmark, CPR: `211062-5629`; its old checksum no longer holds, so only as written.
fn danish(cell: Cell<'_>, _: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<10>(cell, run, &[6, 4], b"-")?;
    dated(&d, 2, 0).then_some(end)
}

/// Finland, henkilötunnus: `131052-308T`; the last is the number's rest by 31.
fn finnish(cell: Cell<'_>, start: usize, run: &Run) -> Option<usize> {
    let group = run.groups().first().filter(|g| g.length == 6)?;
    let serial = group.end + 1;
    let mut digits = [0; 9];
    digits.get_mut(..6)?.copy_from_slice(run.digits.get(..6)?);
    for (i, slot) in digits.iter_mut().skip(6).enumerate() {
        *slot = cell.at(serial + i).checked_sub(b'0').filter(|d| *d < 10)?;
    }
    let rest = usize::try_from(number(&digits) % 31).ok()?;
    let check = b"0123456789ABCDEFHJKLMNPRSTUVWXY".get(rest)?;
    let century = matches!(cell.at(group.end), b'-' | b'+' | b'A'..=b'F' | b'U'..=b'Y');
    let end = start + 11;
    (dated(&digits, 2, 0) && century && cell.at(end - 1) == *check && ends(cell, end)).then_some(end)
}

/// Switzerland, AHV: `756.9217.0769.85`, the check digit of EAN-13.
fn swiss(cell: Cell<'_>, _: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<13>(cell, run, &[], b"").or_else(|| exactly(cell, run, &[3, 4, 4, 2], b". "))?;
    let sum = weighted(&d, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]);
    (d.starts_with(&[7, 5, 6]) && sum.is_multiple_of(10)).then_some(end)
}

/// Canada, SIN: `046 454 286`, Luhn; as written, alone or behind its name.
fn canadian(cell: Cell<'_>, start: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<9>(cell, run, &[3, 3, 3], b" -").or_else(|| {
        let (d, end) = exactly::<9>(cell, run, &[], b"")?;
        named(cell, start, &["sin", "social insurance"]).then_some((d, end))
    })?;
    (d != [0; 9] && luhn(&d)).then_some(end)
}

/// Netherlands, BSN: the test of eleven lets one number in eleven through, so alone or behind its name.
fn dutch(cell: Cell<'_>, start: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<9>(cell, run, &[], b"")?;
    let sum = weighted(&d, &[9, 8, 7, 6, 5, 4, 3, 2]);
    let sound = d != [0; 9] && sum % 11 == u32::from(d[8]);
    (sound && weak(cell, start, end, &["bsn", "burgerservice", "sofi"])).then_some(end)
}

/// India, Aadhaar: `2341 2341 2346`, Verhoeff; side by side alone or behind its name.
fn indian(cell: Cell<'_>, start: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<12>(cell, run, &[4, 4, 4], b" -").or_else(|| {
        let (d, end) = exactly::<12>(cell, run, &[], b"")?;
        weak(cell, start, end, &["aadhaar", "aadhar", "uidai"]).then_some((d, end))
    })?;
    (d[0] > 1 && verhoeff(&d)).then_some(end)
}

/// The dihedral group of order ten (Verhoeff 1969).
fn verhoeff(digits: &[u8]) -> bool {
    // A digit below 5 turns, one above mirrors.
    let times = |a: u32, b: u32| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => (a + b) % 5 + 5,
        (false, true) => (a + 5 - b) % 5 + 5,
        (false, false) => (a + 5 - b) % 5,
    };
    let permute = |d: u32| [1u32, 5, 7, 6, 2, 8, 3, 0, 9, 4].get(d as usize).copied().unwrap_or(0);
    let mut check = 0;
    for (place, digit) in digits.iter().rev().enumerate() {
        let turned = (0..place % 8).fold(u32::from(*digit), |d, _| permute(d));
        check = times(check, turned);
    }
    check == 0
}

/// China, resident identity: seventeen digits with a date and ISO 7064 mod 11-2, whose ten is an X.
fn chinese(cell: Cell<'_>, start: usize, run: &Run) -> Option<usize> {
    let group = run.groups().first().filter(|g| g.length >= 17)?;
    let end = start + 18;
    let d = run.digits.first_chunk::<17>()?;
    let check = match cell.at(end - 1) {
        b'X' | b'x' => 10,
        b => u32::from(b.checked_sub(b'0').filter(|d| *d < 10)?),
    };
    let sum = weighted(d, &[7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]);
    let century = matches!(number(d.get(6..8)?), 19 | 20);
    (group.length <= 18 && century && dated(d, 10, 12) && (12 - sum % 11) % 11 == check && ends(cell, end))
        .then_some(end)
}

/// South Africa: thirteen digits with a date, Luhn.
fn south_african(cell: Cell<'_>, _: usize, run: &Run) -> Option<usize> {
    let (d, end) = exactly::<13>(cell, run, &[], b"")?;
    (dated(&d, 2, 4) && d[10] < 3 && luhn(&d)).then_some(end)
}

/// Spain, DNI: `12345678Z`, the letter is the number's rest by 23.
fn spanish(cell: Cell<'_>, start: usize, run: &Run) -> Option<usize> {
    let group = run.groups().first().filter(|g| g.length == 8)?;
    let letter = group.end + usize::from(cell.at(group.end) == b'-');
    let d = run.digits.get(..8)?;
    spanish_letter(cell, number(d), letter).filter(|_| group.end == start + 8)
}

/// Spain, NIE: `X1234567L`.
fn spanish_foreigner(cell: Cell<'_>, start: usize) -> Option<Range<usize>> {
    let dash = usize::from(cell.back(start, 1) == b'-');
    let kind = match cell.back(start, 1 + dash) {
        b'X' | b'x' => 0,
        b'Y' | b'y' => 1,
        b'Z' | b'z' => 2,
        _ => return None,
    };
    let first = start - 1 - dash;
    let digits = cell.text.get(start..start + 7).filter(|d| d.iter().all(u8::is_ascii_digit))?;
    let n = digits.iter().fold(kind, |n, d| n * 10 + u64::from(*d - b'0'));
    let letter = start + 7 + usize::from(cell.at(start + 7) == b'-');
    let end = spanish_letter(cell, n, letter)?;
    begins(cell, first).then_some(first..end)
}

fn spanish_letter(cell: Cell<'_>, n: u64, at: usize) -> Option<usize> {
    let letter = b"TRWAGMYFPDXBNJZSQVHLCKE".get(usize::try_from(n % 23).ok()?)?;
    (cell.at(at).eq_ignore_ascii_case(letter) && ends(cell, at + 1)).then_some(at + 1)
}

/// United Kingdom, national insurance: `AB 12 34 56 C`; the prefixes never given out are HMRC's.
fn british(cell: Cell<'_>, start: usize) -> Option<Range<usize>> {
    let space = usize::from(cell.back(start, 1) == b' ');
    let (a, b) = (cell.back(start, 2 + space), cell.back(start, 1 + space));
    let sound = a.is_ascii_uppercase()
        && b.is_ascii_uppercase()
        && !b"DFIQUV".contains(&a)
        && !b"DFIQUVO".contains(&b)
        && !matches!(&[a, b], b"BG" | b"GB" | b"NK" | b"KN" | b"TN" | b"NT" | b"ZZ");
    if !sound {
        return None;
    }
    let (mut at, mut digits) = (start, 0);
    while digits < 6 {
        if digits > 0 && digits % 2 == 0 && cell.at(at) == b' ' {
            at += 1;
        }
        if !cell.at(at).is_ascii_digit() {
            return None;
        }
        at += 1;
        digits += 1;
    }
    at += usize::from(cell.at(at) == b' ');
    let first = start - 2 - space;
    (matches!(cell.at(at), b'A'..=b'D') && begins(cell, first) && ends(cell, at + 1)).then_some(first..at + 1)
}

/// France, NIR: `1 85 05 78 006 084 36`: sex, year, month, department (Corsica's 2A and 2B count as 19 and 18), 97 less the rest.
/// The candidate is the year, or the whole when nothing separates.
fn french(cell: Cell<'_>, start: usize) -> Option<Range<usize>> {
    let spaced = matches!(cell.back(start, 1), b' ' | b'.' | b'-') && cell.back(start, 2).is_ascii_digit();
    let first = if spaced { start - 2 } else { start };
    if !begins(cell, first) || !matches!(cell.at(first), b'1' | b'2') {
        return None;
    }
    let (mut at, mut taken, mut n, mut month, mut corsica) = (first, 0, 0, 0, 0);
    let mut check = 0;
    while taken < 15 {
        if taken > 0 && matches!(cell.at(at), b' ' | b'.' | b'-') {
            at += 1;
        }
        let digit = match cell.at(at) {
            b @ b'0'..=b'9' => u64::from(b - b'0'),
            b'A' | b'a' if taken == 6 => {
                corsica = 1_000_000;
                0
            }
            b'B' | b'b' if taken == 6 => {
                corsica = 2_000_000;
                0
            }
            _ => return None,
        };
        match taken {
            3 | 4 => month = month * 10 + digit,
            _ => {}
        }
        if taken < 13 {
            n = n * 10 + digit;
        } else {
            check = check * 10 + digit;
        }
        at += 1;
        taken += 1;
    }
    // 2A is read as 20: what INSEE subtracts from the number is what tells it from 2B.
    let n = n.checked_sub(corsica)?;
    let month = matches!(month, 1..=12 | 20..=42 | 50..=99);
    (month && 97 - n % 97 == check && ends(cell, at)).then_some(first..at)
}

/// Italy, codice fiscale: `RSSMRA85T10A562S`. The candidate is the year of birth, six letters in.
fn italian(cell: Cell<'_>, start: usize) -> Option<Range<usize>> {
    let first = start.checked_sub(6).filter(|f| *f >= cell.floor)?;
    let code = cell.text.get(first..first + 16)?;
    // A digit may be written as a letter where two codes would be the same (omocodia).
    let shaped = code.iter().zip(b"LLLLLLNNLNNLNNNL").all(|(b, kind)| match kind {
        b'L' => b.is_ascii_alphabetic(),
        _ => b.is_ascii_digit() || b"LMNPQRSTUV".contains(&b.to_ascii_uppercase()),
    });
    if !shaped || !begins(cell, first) || !ends(cell, first + 16) {
        return None;
    }
    let odd =
        [1u32, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let (check, body) = code.split_last()?;
    let mut sum = 0;
    for (i, b) in body.iter().enumerate() {
        let b = b.to_ascii_uppercase();
        let value = if b.is_ascii_digit() { b - b'0' } else { b - b'A' };
        sum += if i % 2 == 0 { *odd.get(usize::from(value))? } else { u32::from(value) };
    }
    (u32::from(check.to_ascii_uppercase() - b'A') == sum % 26).then_some(first..first + 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64, below: usize) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % below
    }

    #[test]
    fn rows_are_read_wherever_they_begin() {
        let mut state = 3;
        for length in 0..400 {
            let text: Vec<u8> =
                (0..length).map(|_| b"0123456789 -./)(:x\xff"[random(&mut state, 19)]).collect();
            let mut bits = Bits::new(&text);
            let mut at = 0;
            while at < length {
                let row = bits.row(at);
                for (i, b) in text.iter().skip(at).take(REACH).enumerate() {
                    assert_eq!(row.digits >> i & 1 == 1, b.is_ascii_digit(), "{i} behind {at} of {text:?}");
                    assert_eq!(row.gaps >> i & 1 == 1, is_separator(*b) || *b == b')', "{i} behind {at}");
                }
                let pair =
                    |i: &usize| text.iter().skip(*i).take(2).filter(|b| b.is_ascii_digit()).count() == 2;
                assert_eq!(bits.two_digits(at), (at..length).find(pair), "behind {at} of {text:?}");
                at += 1 + random(&mut state, 90);
            }
        }
    }

    /// Texts of groups as ids have them, their digits at random but for those that tell kinds apart.
    #[test]
    fn what_is_refused_by_its_groups_would_not_be_found() {
        let all: Detectors = Detector::ALL.into_iter().collect();
        let shapes: &[&[usize]] = &[
            &[3, 2, 4],
            &[3, 3, 3],
            &[3, 3, 3, 2],
            &[3, 4, 4, 2],
            &[2, 3, 3, 3],
            &[2, 2, 2, 3, 2],
            &[4, 4, 4],
            &[6, 4],
            &[6, 5],
            &[8, 4],
            &[8],
            &[9],
            &[10],
            &[11],
            &[12],
            &[13],
            &[15],
            &[16],
            &[18],
            &[4, 4, 4, 4],
            &[4, 6, 5],
            &[3, 3, 4],
            &[3, 8],
            &[1, 2, 2, 2, 3, 3, 2],
            &[2, 2, 2, 2, 2],
            &[5, 6],
            &[6, 3],
            &[7],
            &[1, 2, 2, 1, 3, 3, 2],
            &[2, 4, 4, 4, 4, 2],
        ];
        let (mut state, mut found) = (11, 0);
        for _ in 0..200_000 {
            let mut text = Vec::new();
            for _ in 0..1 + random(&mut state, 3) {
                text.extend_from_slice(
                    [
                        &b" "[..],
                        b"",
                        b"DE",
                        b"AB ",
                        b"X",
                        b"Y-",
                        b"+",
                        b"0",
                        b"(",
                        b", ",
                        b"1 ",
                        b"2.",
                        b"ssn ",
                        b"RSSMRA",
                    ][random(&mut state, 14)],
                );
                let separator = [" ", "-", ".", "/", ") ", "", "--"][random(&mut state, 7)];
                for (i, length) in shapes[random(&mut state, shapes.len())].iter().enumerate() {
                    if i > 0 {
                        let other = [" ", "-", ".", "A"][random(&mut state, 4)];
                        text.extend_from_slice(
                            if random(&mut state, 6) == 0 { other } else { separator }.as_bytes(),
                        );
                    }
                    text.extend((0..*length).map(|_| b"00112345678999"[random(&mut state, 14)]));
                }
                text.extend_from_slice(
                    [&b""[..], b" ", b"C", b" C", b"Z", b"-Z", b"A562S", b".", b".5"][random(&mut state, 9)],
                );
            }
            let mut from = 0;
            let cell = Cell { text: &text, floor: 0 };
            loop {
                let fast = plain(all, cell, from);
                let slow = digits(all, cell, from, |_, _, _| true);
                assert_eq!(fast, slow, "behind {from} of {:?}", String::from_utf8_lossy(&text));
                let Some(next) = slow else { break };
                from = next.end;
                found += 1;
            }
        }
        assert!(found > 10_000, "{found} findings: the texts are not what they should be");
    }

    #[test]
    fn countries_are_in_order() {
        assert!(COUNTRIES.is_sorted_by_key(|(code, _)| code));
    }
}
