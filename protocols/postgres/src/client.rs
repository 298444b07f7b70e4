//! What the client says, message by message: what it asks of policy, what is recorded, what the server gets in its place.
//!
//! Every tag of the protocol has an arm; one that is not in the list is a fault, never a forward.

use std::sync::Arc;

use flow::limits::{
    FRAME_BYTES_MAX, OWED_MAX, PREPARED_BYTES_MAX, PREPARED_MAX, RECORDED_PARAMETER_BYTES,
    STATEMENT_BYTES_MAX,
};
use flow::record::{How, Statement, Values, Verdict as Recorded, What};
use flow::{Ask, Fault, Flow, Side, Step};
use policy::{Block, Decision, Pass, Verdict};

use crate::frame::{self, HEADER, Header};
use crate::message::{self, Parse};
use crate::name::Name;
use crate::owed::{Bound, Owed, Preparing};
use crate::prepared::{Disturbs, Prepared, Types};
use crate::ready::{ClientBody, Judged, Ready};
use crate::refuse::{fatal, stand_in_parse, stand_in_query};

/// A name nobody uses: a stand-in for a refused Bind parses under it and fails.
const NOBODY: &[u8] = b"lockgate refused";
/// How much of a message too long to be held is looked at for the names at its beginning.
const HEAD_BYTES: usize = 64 << 10;
/// Of a name, as the server keeps it (NAMEDATALEN - 1).
const NAME_BYTES_MAX: usize = 63;
/// How many owed replies are searched for one message: whatever a client pipelines, its cost stays linear.
const SEARCHED: usize = 32;

/// How long a session waits for room in the record, again and again: a quarter of a second in all. The kernel holds up whoever
/// writes too many dirty pages for up to 200 ms at a time (`MAX_PAUSE`, mm/page-writeback.c), and the record is such a one.
const ROOM_WAITS_MS: [u64; 7] = [2, 4, 8, 16, 32, 64, 128];

fn fault(what: &'static str) -> Fault {
    Fault::Protocol { side: Side::Client, what }
}

/// What is known of a statement before it is acted on.
enum Ahead {
    Ask(Ask),
    /// Judged already, where that was needed to know.
    Judged(Option<Arc<Decision>>),
}

impl Ready {
    /// Takes what the client sent, as far as it is whole or can be passed on in part.
    pub(crate) fn client_received(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        let before = flow.taken();
        if self.owed.has_no_room() {
            self.owed.use_room(self.shared.room());
        }
        let step = self.client_messages(flow);
        self.tidy();
        self.from_client += (flow.taken() - before) as u64;
        match step {
            // The client broke the protocol; tell it before the connection ends.
            Err(Fault::Protocol { side: Side::Client, what }) => {
                let text = format!("protocol violation: {what}");
                let step = self.goodbye(flow, "08P01", &text, "");
                self.record_end(flow.now(), &text)?;
                Ok(step)
            }
            other => other,
        }
    }

    fn client_messages(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        // Only what the server says changes that.
        let cutting = self.is_cutting();
        loop {
            if self.leaving {
                flow.discard(flow.input().len());
                return Ok(Step::READ);
            }
            if let Some(step) = self.client_body(flow)? {
                return Ok(step);
            }
            // Too many replies owed: the rest waits, unread, until the server has answered some. (One message pushes two at most.)
            if self.owed.len() + 2 > OWED_MAX || (cutting && self.awaits_courier()) {
                return Ok(Step::READ);
            }
            let input = flow.input();
            let Some(header) = frame::header(input, Side::Client)? else { return Ok(Step::READ) };
            let statement = matches!(header.tag, b'Q' | b'P' | b'B' | b'E' | b'F');
            if statement {
                match self.refresh() {
                    Ok(None) => {}
                    Ok(Some(ask)) => {
                        self.waited = 0;
                        return Ok(Step::Ask(ask));
                    }
                    Err(why) => {
                        self.record_end(flow.now(), why)?;
                        return Ok(self.goodbye(flow, "57P01", why, "ask the operator of the gateway"));
                    }
                }
            }
            let need = self.hold(header);
            if input.len() < need {
                return Ok(Step::Read { need });
            }
            let seen = input.get(HEADER..need).unwrap_or_default();
            if (statement || header.tag == b'd')
                && let Some(step) = self.room_for(seen.len())
            {
                return Ok(step);
            }
            if let Some(step) = self.client_message(flow, header, seen)? {
                return Ok(step);
            }
        }
    }

    /// `Some`: the record has no room for an entry of so many bytes now, and this session waits for it. After a quarter of a second it
    /// goes on all the same, and what cannot be recorded is refused.
    fn room_for(&mut self, bytes: usize) -> Option<Step> {
        if !self.recording() || self.shared.recorder.borrow_mut().has_room(bytes) {
            self.waited = 0;
            return None;
        }
        let ms = ROOM_WAITS_MS.get(usize::from(self.waited)).copied();
        self.waited = if ms.is_some() { self.waited + 1 } else { 0 };
        ms.map(|ms| Step::Ask(Ask::Pause { ms }))
    }

    /// How many bytes of this message must be there before it is acted on: all of it where it must be judged whole.
    fn hold(&self, header: Header) -> usize {
        let total = header.total();
        match header.tag {
            b'Q' | b'P' if header.body <= STATEMENT_BYTES_MAX => total,
            b'd' => total.min(HEAD_BYTES),
            _ if total <= FRAME_BYTES_MAX && header.tag != b'Q' && header.tag != b'P' => total,
            _ => total.min(HEAD_BYTES),
        }
    }

    /// Goes on with a message whose beginning was decided before.
    fn client_body(&mut self, flow: &mut Flow<'_>) -> Result<Option<Step>, Fault> {
        let now = flow.now();
        let input = flow.input();
        let recorded = matches!(self.client_body, ClientBody::Forward { recorded: Some(_), .. });
        if recorded
            && !input.is_empty()
            && let Some(step) = self.room_for(input.len())
        {
            return Ok(Some(step));
        }
        match &mut self.client_body {
            ClientBody::None => return Ok(None),
            ClientBody::Discard(left) => {
                let part = (*left).min(input.len());
                *left -= part;
                flow.discard(part);
                if *left > 0 {
                    return Ok(Some(Step::READ));
                }
            }
            ClientBody::Forward { left, recorded } => {
                let part = (*left).min(input.len());
                if let Some((number, total)) = recorded
                    && part > 0
                {
                    let bytes = input.get(..part).unwrap_or_default();
                    *total += part as u64;
                    self.shared.record(self.id, now, What::Data { number: *number, bytes, total: *total })?;
                }
                *left -= part;
                // Judged when the message began: no rule touches this identity, or it is data towards the database.
                flow.forward(part, Pass::housekeeping());
                if *left > 0 {
                    return Ok(Some(Step::READ));
                }
            }
        }
        self.client_body = ClientBody::None;
        Ok(None)
    }

    /// `seen` is the body, or the beginning of one too long to be held.
    fn client_message(
        &mut self,
        flow: &mut Flow<'_>,
        header: Header,
        seen: &[u8],
    ) -> Result<Option<Step>, Fault> {
        let total = header.total();
        let whole = seen.len() == header.body;
        let small = |tag_ok: bool| if tag_ok && whole { Ok(()) } else { Err(fault("message too long")) };
        let judged = match header.tag {
            b'Q' | b'P' if whole => match self.renewed_for(header.tag, seen)? {
                Ahead::Ask(ask) => return Ok(Some(Step::Ask(ask))),
                Ahead::Judged(decision) => decision,
            },
            _ => None,
        };
        match header.tag {
            b'Q' => self.query(flow, header, seen, judged)?,
            b'P' => self.parse(flow, header, seen, judged)?,
            b'B' => self.bind(flow, header, seen)?,
            b'E' => {
                small(true)?;
                self.execute(flow, total, seen)?;
            }
            b'D' => {
                small(true)?;
                let (_, name) = message::kind_and_name(seen)?;
                self.known_as(name)?;
                self.owed.push(Owed::Describe)?;
                flow.forward(total, Pass::housekeeping());
            }
            b'C' => {
                small(true)?;
                let (kind, name) = message::kind_and_name(seen)?;
                let name = self.known_as(name)?;
                self.owed.push(Owed::Close { kind, name: Name::new(name), ours: false })?;
                flow.forward(total, Pass::housekeeping());
            }
            b'F' => self.function_call(flow, header, seen)?,
            b'd' => self.copy_data(flow, header, seen)?,
            b'c' => {
                small(header.body == 0)?;
                self.owed.push(Owed::CopyEnd { over: false })?;
                flow.forward(total, Pass::housekeeping());
            }
            b'f' => {
                small(true)?;
                self.owed.push(Owed::CopyEnd { over: false })?;
                flow.forward(total, Pass::housekeeping());
            }
            b'S' => {
                small(header.body == 0)?;
                self.owed.push(Owed::Sync)?;
                flow.forward(total, Pass::housekeeping());
            }
            b'H' => {
                small(header.body == 0)?;
                flow.forward(total, Pass::housekeeping());
            }
            b'X' => {
                small(header.body == 0)?;
                self.record_end(flow.now(), "client ended the session")?;
                if self.quiet() {
                    flow.discard(total);
                    return Ok(Some(self.leave(flow)));
                }
                // What was asked for before is still done: the server reads Terminate after it, and closes.
                flow.forward(total, Pass::housekeeping());
                self.leaving = true;
            }
            _ => return Err(fault("unknown message type")),
        }
        Ok(None)
    }

    /// What this statement names may be new: it is not in the catalogue at all, or it would be refused or masked and another session
    /// changed the catalogue a moment ago. The question to ask first, once per statement.
    fn renewed_for(&mut self, tag: u8, body: &[u8]) -> Result<Ahead, Fault> {
        let Some(judge) = &self.judge else { return Ok(Ahead::Judged(None)) };
        let version = judge.catalog().version;
        let changed = self.connection.catalogues.changed_since(&self.database, version);
        if std::mem::take(&mut self.renewing) || !(changed || self.scope.masks()) {
            return Ok(Ahead::Judged(None));
        }
        let text = match tag {
            b'P' => message::parse(body)?.text,
            _ => body.strip_suffix(b"\0").unwrap_or(body),
        };
        let Some(decision) = self.decide(text) else { return Ok(Ahead::Judged(None)) };
        let unknown = decision.unknown_tables && self.scope.masks();
        let fine = decision.verdict == Verdict::Pass && (decision.clean || !self.scope.masks());
        // What this transaction has made is nowhere else to be seen, and who looks waits for the locks of what it has altered.
        if self.changed_catalogue || (!unknown && (fine || !changed)) {
            return Ok(Ahead::Judged(Some(decision)));
        }
        self.renewing = true;
        Ok(Ahead::Ask(self.catalogue_ask(version)))
    }

    /// Passes on the message whose `seen` beginning was judged; the rest follows as it arrives. `number`: the record entry the rest
    /// belongs to.
    fn pass(&mut self, flow: &mut Flow<'_>, header: Header, seen: usize, number: Option<u64>, pass: Pass) {
        flow.forward(HEADER + seen, pass);
        if seen < header.body {
            let recorded = number.filter(|_| self.recording()).map(|n| (n, seen as u64));
            self.client_body = ClientBody::Forward { left: header.body - seen, recorded };
        }
    }

    /// Drops the message; the rest follows as it arrives.
    fn drop_message(&mut self, flow: &mut Flow<'_>, header: Header, seen: usize) {
        flow.discard(HEADER + seen);
        if seen < header.body {
            self.client_body = ClientBody::Discard(header.body - seen);
        }
    }

    fn query(
        &mut self,
        flow: &mut Flow<'_>,
        header: Header,
        seen: &[u8],
        judged: Option<Arc<Decision>>,
    ) -> Result<(), Fault> {
        let now = flow.now();
        let whole = seen.len() == header.body;
        let text = if whole {
            match memchr::memchr(0, seen) {
                Some(end) if end + 1 == seen.len() => seen.get(..end).unwrap_or_default(),
                _ => return Err(fault("Query: text must end with its only NUL")),
            }
        } else if memchr::memchr(0, seen).is_some() {
            return Err(fault("Query: text must end with its only NUL"));
        } else {
            seen
        };
        let Judged { number, decision, disturbs, refused } =
            self.judge_text(How::Query, text, header.body.saturating_sub(1), judged, now);
        let since = now.mono_ns;
        let owed = match refused {
            Some(block) => {
                stand_in_query(flow.own(Side::Server), &self.decision_id(number));
                self.drop_message(flow, header, seen.len());
                Owed::Refused { number, block, own_sync: true, answered: false, since }
            }
            None => {
                let pass = self.evidence(decision.as_deref())?;
                self.pass(flow, header, seen.len(), Some(number), pass);
                Owed::Query { number, decision, disturbs, since }
            }
        };
        self.push_or_skip(owed, number, now.mono_ns, flow)
    }

    fn parse(
        &mut self,
        flow: &mut Flow<'_>,
        header: Header,
        seen: &[u8],
        judged: Option<Arc<Decision>>,
    ) -> Result<(), Fault> {
        let now = flow.now();
        let whole = seen.len() == header.body;
        let Parse { name, text, types } = if whole {
            message::parse(seen)?
        } else {
            let end = memchr::memchr(0, seen).ok_or_else(|| fault("Parse: statement name"))?;
            let (name, text) = seen.split_at(end);
            let text = text.get(1..).unwrap_or_default();
            if memchr::memchr(0, text).is_some() {
                // A short text and a very long list of parameter types: nobody sends that.
                return Err(fault("Parse: parameter types"));
            }
            Parse { name, text, types: &[] }
        };
        let length = if whole { text.len() } else { header.body - name.len() - 2 };
        let name = self.known_as(name)?;
        let judged = if types.is_empty() { judged } else { self.judge_types(text, types, judged) };
        let held = self.tables.statements.len() + self.owed.len().min(PREPARED_MAX);
        let Judged { number, decision, disturbs, mut refused } =
            self.judge_text(How::Parse, text, length, judged, now);
        let many = held >= PREPARED_MAX && self.tables.statements.len() >= PREPARED_MAX;
        let large = whole && self.tables.bytes as usize + text.len() + types.len() > PREPARED_BYTES_MAX;
        if !name.is_empty() && (many || (large && !self.scope.is_empty())) {
            let bound = if many { format!("{PREPARED_MAX}") } else { "64 MiB of".into() };
            refused = Some(Box::new(Block {
                rule: "limit".into(),
                place: String::new(),
                message: format!("more than {bound} prepared statements in one session"),
                sqlstate: "54000",
                schema: None,
                table: None,
                column: None,
                hint: "close statements that are no longer used".into(),
            }));
        }
        let since = now.mono_ns;
        if let (None, false, Some(decision)) = (&refused, name.is_empty(), &decision) {
            self.keep_probes(decision);
        }
        let owed = match refused {
            Some(block) => {
                let name = name.to_vec();
                stand_in_parse(flow.own(Side::Server), &name, &self.decision_id(number));
                self.drop_message(flow, header, seen.len());
                Owed::Refused { number, block, own_sync: false, answered: false, since }
            }
            None => {
                let keep = whole && (!name.is_empty() || !self.scope.is_empty()) && !large;
                let prepared = Prepared {
                    number,
                    decision,
                    disturbs,
                    text: keep.then(|| self.kept_text(text)),
                    types: (keep && !name.is_empty() && !types.is_empty())
                        .then(|| Box::new(Types(types.into()))),
                    stamp: self.stamp,
                };
                let pass = self.evidence(prepared.decision.as_deref())?;
                let name = self.tables.statements.name(name);
                self.pass(flow, header, seen.len(), Some(number), pass);
                Owed::Parse { name, prepared, ours: false }
            }
        };
        self.push_or_skip(owed, number, now.mono_ns, flow)
    }

    /// What was decided of a text, or its refusal for the `types` its parameters are declared to be of.
    fn judge_types(&self, text: &[u8], types: &[u8], judged: Option<Arc<Decision>>) -> Option<Arc<Decision>> {
        let Some(judge) = self.judge.as_ref().filter(|_| self.scope.masks()) else { return judged };
        let decision = judged.or_else(|| self.decide(text))?;
        let oids = types.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid));
        let refused = match decision.verdict {
            Verdict::Pass => judge.parameters(&decision, oids),
            Verdict::Block(_) => None,
        };
        Some(match refused {
            Some(block) => {
                Arc::new(Decision { verdict: Verdict::Block(block), ..Decision::clone(&decision) })
            }
            None => decision,
        })
    }

    fn bind(&mut self, flow: &mut Flow<'_>, header: Header, seen: &[u8]) -> Result<(), Fault> {
        let now = flow.now();
        let whole = seen.len() == header.body;
        let (portal, statement, rest) = message::bind(seen)?;
        let (portal, statement) = (self.known_as(portal)?, self.known_as(statement)?);
        let again =
            if self.tables.lost(statement).is_some() { self.prepare_again(flow, statement)? } else { None };
        // One that was prepared since the last Sync is known; of others all are looked at.
        let often =
            self.owed.prepared(statement).is_none() && self.owed.preparing_count(statement) > SEARCHED;
        let mut refused = if often {
            Some(Box::new(Block {
                rule: "limit".into(),
                place: String::new(),
                message: format!("more than {SEARCHED} statements of one name under way"),
                sqlstate: "54000",
                schema: None,
                table: None,
                column: None,
                hint: "wait for the answers before the name is bound".into(),
            }))
        } else {
            again.or_else(|| self.decide_again(statement))
        };
        let applied = self.tables.statements.get(statement);
        let latest = self.latest_statement(statement, applied);
        let (of, decision) = latest.map_or((0, None), |p| (p.number, p.decision.clone()));
        let (clean, disturbs) =
            if self.scope.is_empty() { (0, Disturbs::ALL) } else { self.binds(statement, applied) };
        let mut number = 0;
        if refused.is_none() && !self.scope.is_empty() {
            match &decision {
                Some(decision) => {
                    self.sends(decision);
                    refused = self.executed(decision, now);
                }
                None => self.sends_unknown(),
            }
        }
        if refused.is_none() && of == 0 && !self.scope.is_empty() {
            refused = self.unknown(statement);
        }
        let unasked = refused.is_some() || !self.scope.masks();
        let probed = if unasked { Vec::new() } else { self.probed(statement, decision.as_ref()) };
        let read = whole && (!probed.is_empty() || self.recording() || refused.is_some());
        let parameters = if read { message::parameters(rest)? } else { Values::default() };
        let values: Vec<_> = if probed.is_empty() { Vec::new() } else { parameters.iter().collect() };
        for decision in probed {
            refused = if whole {
                self.probe(&decision, Some(&values), now)
            } else {
                // A value that is not seen cannot be counted.
                let unseen = decision.probes.iter().find(|p| p.enforce).map(|p| Box::new(p.refusal()));
                unseen.or_else(|| self.probe(&decision, None, now))
            };
            if refused.is_some() {
                break;
            }
        }
        if self.recording() || refused.is_some() {
            self.number += 1;
            number = self.number;
            let mut room = Vec::new();
            let parameters = parameters.shortened(RECORDED_PARAMETER_BYTES, &mut room);
            let entry = Statement {
                number,
                how: How::Execute,
                of,
                text: &[],
                length: 0,
                parameters,
                verdict: Recorded::Allow,
                rules: "",
                policy: &self.directory.policy.revision,
            };
            if let Err(block) = self.record_statement(entry, decision.as_deref(), refused.as_deref(), now) {
                refused = Some(block);
            }
        }
        let since = now.mono_ns;
        let owed = match refused {
            Some(block) => {
                stand_in_parse(flow.own(Side::Server), NOBODY, &self.decision_id(number));
                self.drop_message(flow, header, seen.len());
                Owed::Refused { number, block, own_sync: false, answered: false, since }
            }
            None => {
                let statement = self.tables.statements.name(statement);
                let portal = self.tables.portals.name(portal);
                let owed = Owed::Bind { portal, statement, number, of, clean, disturbs };
                self.pass(flow, header, seen.len(), Some(number), Pass::housekeeping());
                owed
            }
        };
        self.push_or_skip(owed, 0, now.mono_ns, flow)
    }

    fn execute(&mut self, flow: &mut Flow<'_>, total: usize, body: &[u8]) -> Result<(), Fault> {
        let now = flow.now();
        let portal = self.known_as(message::execute(body)?)?;
        let bound = self.owed.bound(portal);
        let mut number = self.latest_portal(portal, bound);
        if number == 0 && self.recording() {
            // A portal no Bind of this session made: a cursor of SQL's.
            self.number += 1;
            number = self.number;
            let mut text = b"(portal) ".to_vec();
            text.extend_from_slice(portal);
            let entry = Statement {
                number,
                how: How::Execute,
                of: 0,
                length: text.len() as u64,
                text: &text,
                parameters: Values::default(),
                verdict: Recorded::Allow,
                rules: "",
                policy: &self.directory.policy.revision,
            };
            if self.record_statement(entry, None, None, now).is_err() {
                return Err(Fault::Unrecorded);
            }
        }
        if portal.is_empty() && bound.is_none() && !self.unnamed_portal_is_bound() {
            if number == 0 {
                self.number += 1;
                number = self.number;
            }
            let block = Block {
                rule: "protocol".into(),
                place: String::new(),
                message: "there is no unnamed portal: none was bound since the last simple query or the end of the transaction".into(),
                sqlstate: "34000",
                schema: None,
                table: None,
                column: None,
                hint: "bind it again".into(),
            };
            stand_in_parse(flow.own(Side::Server), NOBODY, &self.decision_id(number));
            flow.discard(total);
            let since = now.mono_ns;
            let owed =
                Owed::Refused { number, block: Box::new(block), own_sync: false, answered: false, since };
            return self.push_or_skip(owed, number, since, flow);
        }
        if self.scope.masks() && self.must_describe(portal, bound) {
            let portal = portal.to_vec();
            message::write(flow.own(Side::Server), b'D', |out| {
                out.push(b'P');
                message::put_string(out, &portal);
            });
            self.owed.push(Owed::OurDescribe)?;
        }
        let disturbs = self.disturbs(portal, bound).with(self.tables.lurking());
        let portal = self.tables.portals.name(portal);
        let owed = Owed::Execute { portal, number, disturbs, since: now.mono_ns };
        flow.forward(total, Pass::housekeeping());
        self.push_or_skip(owed, number, now.mono_ns, flow)
    }

    fn function_call(&mut self, flow: &mut Flow<'_>, header: Header, seen: &[u8]) -> Result<(), Fault> {
        let now = flow.now();
        let whole = seen.len() == header.body;
        let (function, parameters) = if whole {
            message::function_call(seen)?
        } else {
            let function = message::Reader::new(seen, Side::Client).u32("FunctionCall: function")?;
            (function, Values::default())
        };
        let mut room = Vec::new();
        let parameters = parameters.shortened(RECORDED_PARAMETER_BYTES, &mut room);
        self.number += 1;
        let number = self.number;
        let mut refused = match self.judge.as_ref().map(|j| j.function_call(function)) {
            Some(Verdict::Block(block)) => Some(Box::new(block)),
            Some(Verdict::Pass) | None => None,
        };
        let text = format!("(function call) oid {function}");
        let entry = Statement {
            number,
            how: How::FunctionCall,
            of: 0,
            text: text.as_bytes(),
            length: text.len() as u64,
            parameters,
            verdict: Recorded::Allow,
            rules: "",
            policy: &self.directory.policy.revision,
        };
        if let Err(block) = self.record_statement(entry, None, refused.as_deref(), now) {
            refused = Some(block);
        }
        let since = now.mono_ns;
        let owed = match refused {
            Some(block) => {
                stand_in_query(flow.own(Side::Server), &self.decision_id(number));
                self.drop_message(flow, header, seen.len());
                Owed::Refused { number, block, own_sync: true, answered: false, since }
            }
            None => {
                self.pass(flow, header, seen.len(), Some(number), Pass::housekeeping());
                Owed::Function { number, since }
            }
        };
        self.push_or_skip(owed, number, now.mono_ns, flow)
    }

    /// COPY FROM STDIN data. Outside a COPY the server ignores it; it is recorded all the same.
    fn copy_data(&mut self, flow: &mut Flow<'_>, header: Header, seen: &[u8]) -> Result<(), Fault> {
        if self.recording() {
            let what = What::Data { number: self.number, bytes: seen, total: seen.len() as u64 };
            self.shared.record(self.id, flow.now(), what)?;
        }
        self.pass(flow, header, seen.len(), Some(self.number), Pass::housekeeping());
        Ok(())
    }

    /// Evidence that a statement may go on: its decision said so, or no rule touches this identity.
    fn evidence(&self, decision: Option<&policy::Decision>) -> Result<Pass, Fault> {
        let pass = match decision {
            Some(decision) => decision.evidence(),
            None => self.scope.evidence(),
        };
        pass.ok_or(Fault::Bug("a statement on its way without a judgement"))
    }

    /// A name as the server knows it: of more than 63 bytes only the first (a string key of a hash table of NAMEDATALEN, `string_hash` in
    /// hashfn.c), and in the server's encoding, so that two spellings may be one name. Under rules there are no such.
    #[inline]
    fn known_as<'a>(&self, name: &'a [u8]) -> Result<&'a [u8], Fault> {
        if name.is_empty() {
            return Ok(name);
        }
        if !self.scope.is_empty() && !name.is_ascii() {
            return Err(fault("under rules, names of prepared statements and portals are ASCII"));
        }
        Ok(name.get(..NAME_BYTES_MAX).unwrap_or(name))
    }

    /// Queues what is owed; when the server ignores the message (it skips to Sync) the record says so at once.
    fn push_or_skip(&mut self, owed: Owed, number: u64, since: u64, flow: &Flow<'_>) -> Result<(), Fault> {
        if !self.owed.push(owed)? && number > 0 {
            let current = std::mem::take(&mut self.current);
            self.finish(number, since, flow.now(), "skipped")?;
            self.current = current;
        }
        Ok(())
    }

    /// The prepared statement a Bind names: the latest Parse still under way, else what the server has.
    fn latest_statement<'a>(&'a self, name: &[u8], applied: Option<&'a Prepared>) -> Option<&'a Prepared> {
        let pending = match (self.owed.prepared(name), self.owed.preparing(name)) {
            (Some(pending), _) => pending,
            (None, Preparing::Nothing) => None,
            (None, Preparing::One(prepared) | Preparing::Many(prepared)) => Some(prepared),
        };
        pending.or(applied)
    }

    /// The record number of what an Execute runs: the latest Bind still under way, else the portal the server has; 0: unknown.
    fn latest_portal(&self, name: &[u8], bound: Option<Option<Bound>>) -> u64 {
        let pending = match bound {
            Some(bound) => bound.map(|b| b.number),
            None => self.owed.iter().rev().take(SEARCHED).find_map(|o| match o {
                Owed::Bind { portal, number, .. } if **portal == *name => Some(*number),
                _ => None,
            }),
        };
        pending.or_else(|| self.tables.portals.get(name).map(|p| p.number)).unwrap_or(0)
    }

    /// Code of users may have given the name of a statement to another, and nothing would be known of what a Bind binds: the client's own
    /// is prepared again under it. `Some`: refused now.
    ///
    /// Not where something on its way may give the name away once more, or to the client's next statement.
    #[cold]
    fn prepare_again(&mut self, flow: &mut Flow<'_>, name: &[u8]) -> Result<Option<Box<Block>>, Fault> {
        let Some(lost) = self.tables.lost(name) else { return Ok(None) };
        if self.owed.skipping
            || !self.owed.disturbs_nothing()
            || self.owed.prepared(name).is_some()
            || !matches!(self.owed.preparing(name), Preparing::Nothing)
        {
            return Ok(None);
        }
        let mut prepared = lost.clone();
        let Some(text) = prepared.text.clone() else { return Ok(None) };
        if prepared.stamp != self.stamp {
            prepared.decision = self.decide(&text);
            prepared.stamp = self.stamp;
            if let Some(Verdict::Block(block)) = prepared.decision.as_ref().map(|d| &d.verdict) {
                return Ok(Some(Box::new(block.clone())));
            }
        }
        // What nobody judged is not sent, whoever writes it.
        let _judged = self.evidence(prepared.decision.as_deref())?;
        let out = flow.own(Side::Server);
        message::write(out, b'C', |out| {
            out.push(b'S');
            message::put_string(out, name);
        });
        message::write(out, b'P', |out| {
            message::put_string(out, name);
            message::put_string(out, &text);
            let types = prepared.types.as_ref().map(|t| &*t.0).unwrap_or_default();
            // As many as came in one Parse.
            out.extend_from_slice(&u16::try_from(types.len() / 4).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(types);
        });
        let name = Name::new(name);
        self.owed.push(Owed::Close { kind: b'S', name: name.clone(), ours: true })?;
        self.owed.push(Owed::Parse { name, prepared, ours: true })?;
        Ok(None)
    }

    /// Judges a prepared statement again when policy or catalogue changed since. `Some`: refused now.
    fn decide_again(&mut self, name: &[u8]) -> Option<Box<Block>> {
        if self.scope.is_empty() {
            return None;
        }
        let stamp = self.stamp;
        let stale = |p: &Prepared| p.stamp != stamp;
        self.mixed &= !self.owed.prepares_nothing();
        if self.mixed && matches!(self.owed.prepared(name), Some(Some(prepared)) if !stale(prepared)) {
            return None;
        }
        let searched = if self.mixed { self.owed.len() } else { 0 };
        if searched == 0 && !self.tables.statements.get(name).is_some_and(stale) {
            return None;
        }
        let pending = self.owed.iter().take(searched).filter_map(|o| match o {
            Owed::Parse { name: n, prepared, .. } if **n == *name && stale(prepared) => {
                Some(prepared.text.clone())
            }
            _ => None,
        });
        let applied = self.tables.statements.get(name).filter(|p| stale(p)).map(|p| p.text.clone());
        let texts: Vec<_> = pending.chain(applied).collect();
        if texts.is_empty() {
            return None;
        }
        let mut refused = None;
        for text in texts {
            let decision = text.as_deref().and_then(|t| self.decide(t));
            match decision.as_ref().map(|d| &d.verdict) {
                Some(Verdict::Pass) => {}
                Some(Verdict::Block(block)) => refused = Some(Box::new(block.clone())),
                None => {
                    refused = Some(Box::new(Block {
                        rule: "not-understood".into(),
                        place: String::new(),
                        message: "this statement was prepared before a rule came into force, and its text is not known any more".into(),
                        sqlstate: "42501",
                        schema: None,
                        table: None,
                        column: None,
                        hint: "prepare it again".into(),
                    }));
                }
            }
            let update = |p: &mut Prepared| {
                p.stamp = stamp;
                p.decision = decision.clone();
            };
            if refused.is_none() {
                self.owed.iter_mut().for_each(|o| match o {
                    Owed::Parse { name: n, prepared, .. } if **n == *name && prepared.text == text => {
                        update(prepared)
                    }
                    _ => {}
                });
                if let Some(p) = self.tables.statements.get_mut(name).filter(|p| p.text == text) {
                    update(p);
                }
            }
        }
        refused
    }

    /// True unless every statement this Execute can possibly run is proved clean: then its rows need no description. Should that ever
    /// be wrong, rows that nobody described are a fault and not a leak ([`Ready::rows`]).
    fn must_describe(&self, portal: &[u8], bound: Option<Option<Bound>>) -> bool {
        let applied =
            || self.tables.portals.get(portal).map(|p| p.decision.as_ref().is_some_and(|d| d.clean));
        let clean = match bound {
            Some(Some(bound)) => bound.clean == self.stamp,
            Some(None) => applied().unwrap_or(false),
            None if self.owed.len() > SEARCHED => false,
            None => {
                let pending = self.owed.iter().filter_map(|o| match o {
                    Owed::Bind { portal: p, clean, .. } if **p == *portal => Some(*clean == self.stamp),
                    _ => None,
                });
                // They may fail, and then the one before is meant.
                let before = applied().or(self.tables.portal_unknown(portal).then_some(false));
                pending.chain(before).reduce(|a, b| a && b).unwrap_or(false)
            }
        };
        !clean || !self.owed.disturbs_nothing()
    }

    /// PostgreSQL 15 goes down with all its sessions when the unnamed portal is executed that a failed simple query left behind.
    fn unnamed_portal_is_bound(&self) -> bool {
        // What follows a refusal up to the next Sync is skipped.
        let mut since_sync = self.owed.iter().rev().take_while(|o| !matches!(o, Owed::Sync)).take(SEARCHED);
        let skips = |o: &Owed| matches!(o, Owed::Refused { own_sync: false, .. });
        // Only a simple query that failed leaves such a portal, in a transaction that has failed too. A Bind in front of a Sync may fail,
        // and what is behind that runs all the same.
        self.owed.skipping
            || since_sync.any(skips)
            || (self.owed.queries_nothing()
                && (self.transaction != b'E' || self.tables.portals.get(b"").is_some()))
    }

    /// What a Bind of this name may ask about masked columns, or meet in them: every statement the name can mean counts, because a Parse that is
    /// still under way may fail, and then the one before is meant.
    fn probed(&self, name: &[u8], latest: Option<&Arc<Decision>>) -> Vec<Arc<Decision>> {
        let mut all: Vec<Arc<Decision>> = Vec::new();
        let mut note = |decision: Option<&Arc<Decision>>| {
            if let Some(decision) = decision.filter(|d| !d.probes.is_empty() || !d.conflicts.is_empty())
                && !all.iter().any(|known| Arc::ptr_eq(known, decision))
            {
                all.push(decision.clone());
            }
        };
        note(latest);
        if latest.is_none() {
            note(self.tables.prepared_by_sql(name));
            note(self.tables.lost(name).and_then(|p| p.decision.as_ref()));
        }
        match (self.owed.prepared(name), self.owed.preparing(name)) {
            (Some(Some(prepared)), _) => note(prepared.decision.as_ref()),
            (Some(None), _) | (None, Preparing::Nothing) => {}
            (None, pending) => {
                note(self.tables.statements.get(name).and_then(|p| p.decision.as_ref()));
                if let Preparing::One(prepared) = pending {
                    note(prepared.decision.as_ref());
                    return all;
                }
                for owed in self.owed.iter() {
                    if let Owed::Parse { name: pending, prepared, .. } = owed
                        && **pending == *name
                    {
                        note(prepared.decision.as_ref());
                    }
                }
            }
        }
        all
    }

    /// Refuses a Bind of what nobody here knows: it was judged, if it was, by rules that were others.
    fn unknown(&self, name: &[u8]) -> Option<Box<Block>> {
        if self.tables.prepared_by_sql(name).is_some() || self.tables.lost(name).is_some() {
            return None;
        }
        Some(Box::new(Block {
            rule: "not-understood".into(),
            place: String::new(),
            message: format!(
                "no prepared statement is known here by the name \"{}\"",
                String::from_utf8_lossy(name)
            ),
            sqlstate: "26000",
            schema: None,
            table: None,
            column: None,
            hint: "prepare it again".into(),
        }))
    }

    /// What a Bind of this statement binds for sure: the stamp under which all it can be was proved clean (0: not proved), and which
    /// names it may give to something else.
    fn binds(&self, statement: &[u8], applied: Option<&Prepared>) -> (u64, Disturbs) {
        if !self.owed.disturbs_nothing() {
            // Something on its way may give the name to another statement.
            return (0, Disturbs::ALL);
        }
        let unproved = (false, Disturbs::ALL);
        let of = |p: &Prepared| {
            let clean = p.stamp == self.stamp && p.decision.as_ref().is_some_and(|d| d.clean);
            (clean, p.disturbs)
        };
        let applied = applied.map(of).or(self.tables.statement_unknown(statement).then_some(unproved));
        let all = match self.owed.prepared(statement) {
            Some(Some(prepared)) => Some(of(prepared)),
            Some(None) => applied,
            None => match self.owed.preparing(statement) {
                Preparing::Nothing => applied,
                // It may fail, and then the one before is meant.
                Preparing::One(prepared) => {
                    let (clean, disturbs) = of(prepared);
                    Some(applied.map_or((clean, disturbs), |(a, d)| (a && clean, d.or(disturbs))))
                }
                Preparing::Many(_) => None,
            },
        };
        let (clean, disturbs) = all.unwrap_or(unproved);
        (if clean { self.stamp } else { 0 }, disturbs)
    }

    /// Which names an Execute may give to something else: those of every statement it can possibly run.
    fn disturbs(&self, portal: &[u8], bound: Option<Option<Bound>>) -> Disturbs {
        // Something on its way may give the name to another portal.
        if self.scope.is_empty() || !self.owed.disturbs_nothing() {
            return Disturbs::ALL;
        }
        let applied = || self.tables.portals.get(portal).map(|p| p.disturbs);
        let before = || applied().or(self.tables.portal_unknown(portal).then_some(Disturbs::ALL));
        let all = match bound {
            Some(Some(bound)) => Some(bound.disturbs),
            Some(None) => applied(),
            None if self.owed.len() > SEARCHED => None,
            None => {
                let pending = self.owed.iter().filter_map(|o| match o {
                    Owed::Bind { portal: p, disturbs, .. } if **p == *portal => Some(*disturbs),
                    _ => None,
                });
                pending.chain(before()).reduce(Disturbs::or)
            }
        };
        all.unwrap_or(Disturbs::ALL)
    }

    /// The client's login deadline or another end from outside passed.
    pub(crate) fn expired(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        self.record_end(flow.now(), "idle too long")?;
        if self.quiet() {
            fatal(flow.own(Side::Client), "57P05", "terminating connection due to idle timeout", "reconnect");
        }
        Ok(self.leave(flow))
    }
}
