//! The messages we read and write, borrowed from the buffer. Readers name the field that is missing and never panic.

use flow::record::Values;
use flow::{Fault, Side};

/// Reads one message's body front to back.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    side: Side,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8], side: Side) -> Reader<'a> {
        Reader { rest: body, side }
    }

    fn missing(&self, what: &'static str) -> Fault {
        Fault::Protocol { side: self.side, what }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Fault> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.missing(what))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Fault> {
        self.array::<1>(what).map(|[b]| b)
    }

    pub(crate) fn i16(&mut self, what: &'static str) -> Result<i16, Fault> {
        self.array(what).map(i16::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, Fault> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32, Fault> {
        self.array(what).map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Fault> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Fault> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.missing(what))?;
        self.rest = rest;
        Ok(head)
    }

    /// A NUL-terminated string, without the NUL.
    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a [u8], Fault> {
        let end = memchr::memchr(0, self.rest).ok_or_else(|| self.missing(what))?;
        let text = self.take(end, what)?;
        self.take(1, what)?;
        Ok(text)
    }

    pub(crate) fn end(&self, what: &'static str) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.missing(what)) }
    }
}

/// Appends one message: the tag, a length that is patched once the body is there, the body.
pub(crate) fn write(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(room) = out.get_mut(at..at + 4) {
        room.copy_from_slice(&length);
    }
}

/// Appends a string and its NUL. A NUL inside would end it early for the reader: it is left out.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().filter(|b| **b != 0));
    out.push(0);
}

/// What Parse holds; `types` as it is written there: an object id for each parameter.
#[derive(Default)]
pub(crate) struct Parse<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) text: &'a [u8],
    pub(crate) types: &'a [u8],
}

/// Parse: statement name, text, and how many parameter types follow.
pub(crate) fn parse(body: &[u8]) -> Result<Parse<'_>, Fault> {
    let mut r = Reader::new(body, Side::Client);
    let name = r.string("Parse: statement name")?;
    let text = r.string("Parse: statement text")?;
    let types = r.u16("Parse: parameter types")?;
    let types = r.take(usize::from(types) * 4, "Parse: parameter types")?;
    r.end("Parse: trailing bytes")?;
    Ok(Parse { name, text, types })
}

/// The beginning of Bind: portal and statement name, and what follows. That may be a gigabyte and is read by [`parameters`] only when
/// whole.
pub(crate) fn bind(body: &[u8]) -> Result<(&[u8], &[u8], Reader<'_>), Fault> {
    let mut r = Reader::new(body, Side::Client);
    Ok((r.string("Bind: portal")?, r.string("Bind: statement")?, r))
}

/// The rest of Bind: parameter values, after a check of all of it.
pub(crate) fn parameters(mut r: Reader<'_>) -> Result<Values<'_>, Fault> {
    let formats = r.u16("Bind: parameter formats")?;
    r.take(usize::from(formats) * 2, "Bind: parameter formats")?;
    let values = values(&mut r)?;
    let results = r.u16("Bind: result formats")?;
    r.take(usize::from(results) * 2, "Bind: result formats")?;
    r.end("Bind: trailing bytes")?;
    Ok(values)
}

/// FunctionCall: the function's OID and its arguments.
pub(crate) fn function_call(body: &[u8]) -> Result<(u32, Values<'_>), Fault> {
    let mut r = Reader::new(body, Side::Client);
    let function = r.u32("FunctionCall: function")?;
    let formats = r.u16("FunctionCall: argument formats")?;
    r.take(usize::from(formats) * 2, "FunctionCall: argument formats")?;
    let values = values(&mut r)?;
    r.i16("FunctionCall: result format")?;
    r.end("FunctionCall: trailing bytes")?;
    Ok((function, values))
}

/// A count and as many values.
fn values<'a>(r: &mut Reader<'a>) -> Result<Values<'a>, Fault> {
    let count = r.u16("value count")?;
    let (values, _) = Values::split(count.into(), r.rest())
        .map_err(|_| Fault::Protocol { side: Side::Client, what: "value length" })?;
    r.take(values.size(), "values")?;
    Ok(values)
}

/// Describe and Close: `S` or `P`, and the name.
pub(crate) fn kind_and_name(body: &[u8]) -> Result<(u8, &[u8]), Fault> {
    let mut r = Reader::new(body, Side::Client);
    let kind = r.u8("Describe or Close: kind")?;
    let name = r.string("Describe or Close: name")?;
    r.end("Describe or Close: trailing bytes")?;
    match kind {
        b'S' | b'P' => Ok((kind, name)),
        _ => Err(Fault::Protocol { side: Side::Client, what: "Describe or Close: kind" }),
    }
}

/// Execute: portal.
pub(crate) fn execute(body: &[u8]) -> Result<&[u8], Fault> {
    let mut r = Reader::new(body, Side::Client);
    let portal = r.string("Execute: portal")?;
    r.i32("Execute: row limit")?;
    r.end("Execute: trailing bytes")?;
    Ok(portal)
}

/// One field of ErrorResponse or NoticeResponse.
pub(crate) fn error_field(body: &[u8], wanted: u8) -> Option<&[u8]> {
    error_fields(body).find(|(code, _)| *code == wanted).map(|(_, text)| text)
}

/// Every field of ErrorResponse or NoticeResponse, in order.
pub(crate) fn error_fields(mut body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (code, rest) = body.split_first()?;
        if *code == 0 {
            return None;
        }
        let end = memchr::memchr(0, rest)?;
        let (text, rest) = rest.split_at_checked(end)?;
        body = rest.get(1..)?;
        Some((*code, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_with_absurd_counts_is_a_fault_not_an_allocation() {
        let parameters = |body| bind(body).and_then(|(_, _, rest)| parameters(rest));
        assert!(parameters(b"\0\0\xff\xff\xff\xff").is_err());
        assert!(parameters(b"\0\0\0\0\0\x01\x7f\xff\xff\xffaaaa").is_err());
        assert!(parameters(b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0").is_err());
        let null = parameters(b"\0\0\0\0\0\x01\xff\xff\xff\xff\0\0").unwrap();
        assert_eq!(null.iter().collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn error_fields_stop_at_the_end() {
        let body = b"SERROR\0C42601\0Mno\0\0";
        assert_eq!(error_field(body, b'C'), Some(&b"42601"[..]));
        assert_eq!(error_field(body, b'D'), None);
        assert_eq!(error_fields(b"Sabc").count(), 0);
    }
}
