//! What the server answers: every reply matched with what is owed, results masked by their plan, errors put into our words where
//! they are ours.
//!
//! Rows are the hot path: when nothing is masked, runs of whole and partial rows are forwarded from the read buffer without a look
//! inside; when something is, each row is rewritten once.

use std::rc::Rc;
use std::sync::Arc;

use flow::budget::Cut;
use flow::limits::FRAME_BYTES_MAX;
use flow::record::What;
use flow::{Fault, Flow, Side, Step};
use policy::{Column, Decision, Format, Kept, Mentions, Pass};

use crate::copy;
use crate::frame::{self, HEADER, Header};
use crate::message::{self, Reader, error_field};
use crate::owed::Owed;
use crate::prepared::{Disturbs, Portal};
use crate::ready::{Copying, Metering, Ready, ServerBody, Shape, Version};
use crate::refuse;
use crate::row;

fn fault(what: &'static str) -> Fault {
    Fault::Protocol { side: Side::Server, what }
}

/// Messages that are read whole are bounded by this, except rows and data.
const READ_MAX: usize = FRAME_BYTES_MAX;
/// How much of an error too long to be read is read.
const ERROR_HEAD: usize = 4096;

impl Ready {
    /// Takes what the server sent, as far as it can be passed on.
    pub(crate) fn server_received(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        let before = flow.queued(Side::Client);
        let step = self.server_messages(flow);
        self.tidy();
        self.to_client += flow.queued(Side::Client).saturating_sub(before) as u64;
        if self.cut.is_some() && matches!(step, Ok(Step::Read { need: 0 })) {
            return Ok(self.cancel_rest());
        }
        match step {
            // The client did nothing wrong, and is told before the connection ends.
            Err(Fault::Limit { side: Side::Server, what }) => {
                self.record_end(flow.now(), what)?;
                Ok(self.goodbye(flow, "54000", what, "ask for it in smaller parts"))
            }
            other => other,
        }
    }

    fn server_messages(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        loop {
            if !self.server_body(flow)? {
                return Ok(Step::READ);
            }
            let input = flow.input();
            let Some(header) = frame::header(input, Side::Server)? else { return Ok(Step::READ) };
            let step = match header.tag {
                b'D' | b'd' if self.cut.is_some() => {
                    self.skip(flow, header);
                    None
                }
                b'D' => self.rows(flow, header)?,
                b'd' => self.copy_rows(flow, header)?,
                b'V' if self.scope.is_empty() => {
                    // A function's result may be a gigabyte; no rule touches this identity.
                    self.current.ended = true;
                    self.pass_on(flow, header);
                    None
                }
                _ if header.total() > READ_MAX => self.oversized(flow, header)?,
                _ => match frame::body(input, header) {
                    Some(body) => self.server_message(flow, header, body)?,
                    None => Some(Step::Read { need: header.total() }),
                },
            };
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    /// Goes on with a message whose beginning was decided before. False: it is not over.
    fn server_body(&mut self, flow: &mut Flow<'_>) -> Result<bool, Fault> {
        let input = flow.input();
        match &mut self.server_body {
            ServerBody::None => return Ok(true),
            ServerBody::Forward(left) => {
                let left = *left;
                return Ok(self.forward_rest(flow, left));
            }
            ServerBody::Discard(left) => {
                let part = (*left).min(input.len());
                *left -= part;
                let over = *left == 0;
                flow.discard(part);
                if !over {
                    return Ok(false);
                }
            }
            ServerBody::Hold(_) => return self.hold_on(flow),
        }
        self.server_body = ServerBody::None;
        Ok(true)
    }

    /// Forwards of a message what is here of the bytes that are `left`. False: it is not over.
    fn forward_rest(&mut self, flow: &mut Flow<'_>, left: usize) -> bool {
        let part = left.min(flow.input().len());
        self.current.bytes += part as u64;
        flow.forward(part, Pass::housekeeping());
        let over = part == left;
        self.server_body = if over { ServerBody::None } else { ServerBody::Forward(left - part) };
        over
    }

    /// Goes on with a row too long for a buffer.
    #[cold]
    fn hold_on(&mut self, flow: &mut Flow<'_>) -> Result<bool, Fault> {
        let ServerBody::Hold(mut held) = std::mem::replace(&mut self.server_body, ServerBody::None) else {
            return Ok(true);
        };
        flow.discard(held.take(flow.input())?);
        if !held.passed() {
            self.server_body = ServerBody::Hold(held);
            return Ok(false);
        }
        let out = flow.own(Side::Client);
        let before = out.len();
        let (left, masked) = held.write(out);
        self.current.masked += masked;
        self.current.bytes += (out.len() - before) as u64;
        Ok(self.forward_rest(flow, left))
    }

    /// Forwards a message, whole or as far as it is here.
    fn pass_on(&mut self, flow: &mut Flow<'_>, header: Header) {
        let here = header.total().min(flow.input().len());
        self.current.bytes += here as u64;
        flow.forward(here, Pass::housekeeping());
        if here < header.total() {
            self.server_body = ServerBody::Forward(header.total() - here);
        }
    }

    /// Drops a message, whole or as far as it is here.
    fn skip(&mut self, flow: &mut Flow<'_>, header: Header) {
        let here = header.total().min(flow.input().len());
        flow.discard(here);
        if here < header.total() {
            self.server_body = ServerBody::Discard(header.total() - here);
        }
    }

    /// A message that must be read and is longer than we hold. Only texts can be: they are replaced.
    fn oversized(&mut self, flow: &mut Flow<'_>, header: Header) -> Result<Option<Step>, Fault> {
        match header.tag {
            b'N' if !self.scope.masks() => self.pass_on(flow, header),
            b'N' => {
                let here = header.total().min(flow.input().len());
                flow.discard(here);
                self.server_body = ServerBody::Discard(header.total() - here);
            }
            b'A' if !self.scope.masks() => self.pass_on(flow, header),
            b'E' => {
                let here = flow.input();
                if here.len() < ERROR_HEAD {
                    return Ok(Some(Step::Read { need: ERROR_HEAD }));
                }
                // Severity and SQLSTATE come first, then the text that is too long: it ends here for whoever reads it.
                let mut head = here.get(HEADER..ERROR_HEAD).unwrap_or_default().to_vec();
                head.extend_from_slice(&[0, 0]);
                return self.error(flow, header, &head);
            }
            _ => return Err(Fault::Limit { side: Side::Server, what: "message too long to be read" }),
        }
        Ok(None)
    }

    /// DataRow and the rows that follow it.
    fn rows(&mut self, flow: &mut Flow<'_>, first: Header) -> Result<Option<Step>, Fault> {
        let portal = match self.owed.front() {
            Some(Owed::Query { .. }) => None,
            Some(Owed::Execute { portal, .. }) => Some(portal),
            _ => return Err(fault("DataRow without a statement")),
        };
        let undescribed = || fault("DataRow without a description");
        let pass = match &self.current.shape {
            Shape::Masked(walker) => Err(Rc::clone(walker)),
            Shape::Passing(plan) => Ok(plan.pass()),
            Shape::Unknown => match (self.scope.unmasked(), portal) {
                (Some(pass), _) => Ok(pass),
                // An Execute of a statement proved clean needs no description; everything else does, or no row passes.
                (None, Some(portal)) => {
                    let made = self.tables.portals.get(portal);
                    let proved = made.and_then(|p| p.decision.as_ref()).filter(|d| d.clean);
                    Ok(proved.and_then(|d| d.evidence()).ok_or_else(undescribed)?)
                }
                (None, None) => return Err(undescribed()),
            },
        };
        match pass {
            Ok(pass) => {
                let (input, now) = (flow.input(), flow.now());
                let mut run = Run { input, next: Some(first), rows: 0, end: 0 };
                let cut = match self.metering(now) {
                    Metering::Counted(meter) => run.pass(|row| meter.row(row.body, now))?,
                    Metering::Free | Metering::Unasked => run.pass(|_| Ok(()))?,
                };
                let Run { rows, end, .. } = run;
                self.current.rows += rows;
                let here = end.min(input.len());
                self.current.bytes += here as u64;
                flow.forward(here, pass);
                if here < end {
                    self.server_body = ServerBody::Forward(end - here);
                }
                if let Some(cut) = cut {
                    self.cut(flow, &cut)?;
                }
                Ok(None)
            }
            Err(walker) => self.masked_rows(flow, first, walker),
        }
    }

    /// Rewrites every whole row that is here.
    fn masked_rows(
        &mut self,
        flow: &mut Flow<'_>,
        first: Header,
        walker: Rc<row::Walker>,
    ) -> Result<Option<Step>, Fault> {
        let now = flow.now();
        self.metering(now);
        if let (0, Some(Owed::Execute { portal, .. })) = (self.current.rows, self.owed.front()) {
            // The rest of a portal that was suspended is the same result.
            self.current.torn |= self.tables.portals.get(portal).is_some_and(|p| p.torn);
        }
        let input = flow.input();
        let out = flow.own(Side::Client);
        let before = out.len();
        let (mut taken, mut rest, mut header) = (0, input, first);
        let mut step = None;
        let mut cut = None;
        loop {
            let whole = header.total() > FRAME_BYTES_MAX || rest.len() >= header.total();
            if whole {
                cut = self.current.metering.row(header.body, now).err();
                if cut.is_some() {
                    break;
                }
            }
            if header.total() > FRAME_BYTES_MAX {
                taken += HEADER;
                self.current.rows += 1;
                self.current.torn = true;
                let held = row::Held::new(header.body, walker.plan.clone());
                self.server_body = ServerBody::Hold(Box::new(held));
                break;
            }
            let Some(body) = frame::body(rest, header) else {
                step = Some(Step::Read { need: header.total() });
                break;
            };
            self.current.masked += walker.mask(body, &mut self.current.torn, out)?;
            self.current.rows += 1;
            taken += header.total();
            rest = rest.get(header.total()..).unwrap_or_default();
            match frame::header(rest, Side::Server)? {
                Some(next) if next.tag == b'D' => header = next,
                _ => break,
            }
        }
        self.current.bytes += (out.len() - before) as u64;
        flow.discard(taken);
        if let Some(cut) = cut {
            self.cut(flow, &cut)?;
        }
        Ok(step)
    }

    /// CopyData from the server.
    fn copy_rows(&mut self, flow: &mut Flow<'_>, header: Header) -> Result<Option<Step>, Fault> {
        let now = flow.now();
        let Some(copying) = &mut self.current.copying else { return Err(fault("CopyData without a COPY")) };
        if std::mem::take(&mut copying.header) {
            self.current.rows += 1;
            self.pass_on(flow, header);
            return Ok(None);
        }
        let Some(mut walker) = copying.walker.take() else {
            if let Err(cut) = self.metering(now).row(header.body, now) {
                return self.cut(flow, &cut).map(|()| None);
            }
            self.current.rows += 1;
            self.pass_on(flow, header);
            return Ok(None);
        };
        let step = self.masked_copy_rows(flow, header, &mut walker);
        if let Some(copying) = &mut self.current.copying {
            copying.walker = Some(walker);
        }
        step
    }

    /// Rewrites every whole row of a COPY that is here.
    fn masked_copy_rows(
        &mut self,
        flow: &mut Flow<'_>,
        header: Header,
        walker: &mut copy::Walker,
    ) -> Result<Option<Step>, Fault> {
        let now = flow.now();
        self.metering(now);
        let input = flow.input();
        let out = flow.own(Side::Client);
        let before = out.len();
        let (mut taken, mut rest, mut header, mut step) = (0, input, header, None);
        let mut cut = None;
        loop {
            if header.total() > FRAME_BYTES_MAX {
                return Err(Fault::Limit { side: Side::Server, what: "a COPY row too long to be masked" });
            }
            let Some(body) = frame::body(rest, header) else {
                step = Some(Step::Read { need: header.total() });
                break;
            };
            cut = self.current.metering.row(header.body, now).err();
            if cut.is_some() {
                break;
            }
            let row = out.len();
            let mut masked = None;
            message::write(out, b'd', |out| masked = walker.mask(body, out));
            let Some(masked) = masked else {
                out.truncate(row);
                return Err(fault("a COPY row is not shaped as planned"));
            };
            self.current.masked += masked;
            self.current.rows += 1;
            taken += header.total();
            rest = rest.get(header.total()..).unwrap_or_default();
            match frame::header(rest, Side::Server)? {
                Some(next) if next.tag == b'd' => header = next,
                _ => break,
            }
        }
        self.current.bytes += (out.len() - before) as u64;
        flow.discard(taken);
        if let Some(cut) = cut {
            self.cut(flow, &cut)?;
        }
        Ok(step)
    }

    fn server_message(
        &mut self,
        flow: &mut Flow<'_>,
        header: Header,
        body: &[u8],
    ) -> Result<Option<Step>, Fault> {
        let total = header.total();
        let now = flow.now();
        if !matches!(header.tag, b'Z' | b'E' | b'N' | b'A' | b'S') {
            self.owed.answered();
        }
        match (header.tag, self.owed.front()) {
            (b'1', Some(Owed::Parse { .. })) => {
                if let Some(Owed::Parse { name, prepared, ours }) = self.owed.pop() {
                    self.tables.prepared(name, prepared);
                    if ours {
                        flow.discard(total);
                        return Ok(None);
                    }
                }
            }
            (b'2', Some(Owed::Bind { .. })) => {
                if let Some(Owed::Bind { portal, statement, number, of, .. }) = self.owed.pop() {
                    let made = match self.tables.statements.get(&statement) {
                        Some(p) => {
                            if number > 0 && of > 0 && p.number != of && self.recording() {
                                // A pipeline failed before it prepared the name anew, and the old statement stayed.
                                let detail =
                                    format!("statement {number} executes statement {}, not {of}", p.number);
                                let what = What::Gateway { event: "execution", detail: &detail };
                                self.shared.record(self.id, now, what)?;
                            }
                            Portal {
                                decision: p.decision.clone(),
                                disturbs: p.disturbs,
                                number,
                                meter: None,
                                torn: false,
                            }
                        }
                        None => Portal {
                            decision: None,
                            disturbs: Disturbs::ALL,
                            number,
                            meter: None,
                            torn: false,
                        },
                    };
                    if self.tables.portals.len() >= flow::limits::PREPARED_MAX {
                        self.tables.void(Disturbs { portals: true, ..Disturbs::default() }, false);
                    }
                    if !portal.is_empty() {
                        // It may have a cursor's name.
                        self.tables.forget_cursors();
                    }
                    self.tables.portals.insert(portal, made);
                }
            }
            (b'3', Some(Owed::Close { .. })) => {
                if let Some(Owed::Close { kind, name, ours }) = self.owed.pop() {
                    if ours {
                        // The Parse behind it may fail: what the client prepared is still lost then.
                        flow.discard(total);
                        return Ok(None);
                    }
                    if kind == b'S' {
                        self.tables.closed(&name);
                    } else {
                        self.tables.portals.remove(&name);
                    }
                }
            }
            (b't', Some(Owed::Describe)) => {}
            (b'T' | b'n', Some(Owed::Describe)) => {
                self.owed.pop();
            }
            (b'n', Some(Owed::OurDescribe)) => {
                self.owed.pop();
                flow.discard(total);
                return Ok(None);
            }
            (b'T', Some(Owed::OurDescribe)) => {
                if let Some(step) = self.described(body, self.portal_after_describe())? {
                    return Ok(Some(step));
                }
                self.owed.pop();
                flow.discard(total);
                return Ok(None);
            }
            (b'T', Some(Owed::Query { decision, .. })) => {
                // Of several statements each has a plan of its own.
                let own = decision.as_ref().and_then(|d| d.each.get(self.current.answers as usize));
                let decision = own.or(decision.as_ref()).cloned();
                if let Some(step) = self.described(body, decision)? {
                    return Ok(Some(step));
                }
            }
            (b'C' | b'I', Some(Owed::Query { .. })) => {
                let (disturbs, decision) = match self.owed.front() {
                    Some(Owed::Query { disturbs, decision, .. }) => (*disturbs, decision.clone()),
                    _ => (Disturbs::ALL, None),
                };
                self.echoes |= self.scope.masks() && decision.as_ref().is_none_or(|d| d.withhold);
                self.completed(body, header.tag, disturbs, decision);
                self.current.answers += 1;
            }
            (b'C' | b'I' | b's', Some(Owed::Execute { .. })) => {
                if let Some(Owed::Execute { portal, number, since, .. }) = self.owed.pop() {
                    let known = self.tables.portals.get(&portal).map(|p| (p.disturbs, p.decision.clone()));
                    let (disturbs, decision) = known.unwrap_or((Disturbs::ALL, None));
                    let disturbs = disturbs.with(self.tables.lurking());
                    self.echoes |= self.scope.masks() && decision.as_ref().is_none_or(|d| d.withhold);
                    if header.tag != b's' {
                        self.completed(body, header.tag, disturbs, decision);
                    } else if let Some(portal) = self.tables.portals.get_mut(&portal) {
                        portal.torn |= self.current.torn;
                        if let Metering::Counted(meter) = std::mem::take(&mut self.current.metering) {
                            portal.meter = Some(meter);
                        }
                    }
                    self.current.bytes += total as u64;
                    self.finish(number, since, now, "")?;
                }
            }
            (b'V', Some(Owed::Function { .. })) => {
                self.current.ended = true;
                if self.scope.masks() {
                    return Err(fault("a function's result that nobody judged"));
                }
            }
            (b'G', Some(Owed::Query { .. } | Owed::Execute { .. })) => {
                self.owed.copy_in_begins()?;
                if self.cut.is_some() {
                    // The client has its error and sends no data: the server is told so.
                    message::write(flow.own(Side::Server), b'f', |out| {
                        message::put_string(out, b"a result before this COPY was cut at a row limit");
                    });
                }
            }
            (b'H', Some(Owed::Query { .. } | Owed::Execute { .. })) => self.copy_out_begins(body)?,
            (b'c', Some(Owed::Query { .. } | Owed::Execute { .. })) => self.current.copying = None,
            (b'Z', _) => return self.ready_for_query(flow, total, body),
            (b'E', _) => return self.error(flow, header, body),
            (b'N', _) => {
                if self.cut.is_some() {
                    flow.discard(total);
                    return Ok(None);
                }
                if self.withholding() || self.echoes {
                    flow.discard(total);
                    let strangers = self.echoes || self.code().names;
                    refuse::withhold(flow.own(Side::Client), b'N', body, strangers);
                    return Ok(None);
                }
            }
            (b'A', _) => {
                if self.scope.masks() {
                    flow.discard(total);
                    return self.notification(flow, body).map(|()| None);
                }
            }
            (b'S', _) => {
                self.settings.note(body);
                if self.scope.masks() && self.estranged && is_free_text(body) {
                    // Code nobody analysed may have put a value there. The server reports at ReadyForQuery what that left behind (before
                    // 14 at once), and again when a transaction takes it back; and it does not report what it reported last, so that
                    // even the client's own value would be an answer.
                    flow.discard(total);
                    return Ok(None);
                }
            }
            _ => return Err(fault("a reply nobody is owed")),
        }
        if self.cut.is_some() && !matches!(header.tag, b'A' | b'S') {
            flow.discard(total);
            return Ok(None);
        }
        self.current.bytes += total as u64;
        flow.forward(total, Pass::housekeeping());
        Ok(None)
    }

    /// The decision for the Execute our Describe stands in front of.
    fn portal_after_describe(&self) -> Option<Arc<Decision>> {
        let portal = self.owed.iter().find_map(|o| match o {
            Owed::Execute { portal, .. } => Some(portal),
            _ => None,
        })?;
        self.tables.portals.get(portal)?.decision.clone()
    }

    /// Works out what happens to the rows that RowDescription `body` announces.
    fn described(&mut self, body: &[u8], decision: Option<Arc<Decision>>) -> Result<Option<Step>, Fault> {
        if !self.scope.masks() {
            return Ok(None);
        }
        let Some(judge) = self.judge.clone() else { return Err(Fault::Bug("masks without a judge")) };
        let decision = self.tables.kept(decision.as_ref()).cloned().or(decision);
        let known = decision.as_ref().and_then(|d| self.shared.plans.borrow().get(&judge, d, body));
        if let Some(shape) = known {
            self.current.shape = shape;
            return Ok(None);
        }
        let columns = columns(body)?;
        let own = decision.as_ref().is_some_and(|d| d.clean && d.own);
        let unknown = !own
            && columns
                .iter()
                .any(|c| judge.unknown_table(std::slice::from_ref(c)) && !self.strangers.contains(&c.table));
        let version = judge.catalog().version;
        if unknown && !self.changed_catalogue && self.asked_newer_than != Some(Version::new(version)) {
            // A table newer than the catalogue: look again before deciding. The message stays where it is.
            self.asked_newer_than = Some(Version::new(version));
            return Ok(Some(Step::Ask(self.catalogue_ask(version))));
        }
        if unknown {
            let mut strangers = std::mem::take(&mut self.strangers).into_vec();
            strangers.truncate(64);
            strangers.extend(columns.iter().map(|c| c.table).filter(|t| *t != 0));
            self.strangers = strangers.into();
        }
        self.asked_newer_than = None;
        let mut plan = match &decision {
            Some(decision) => judge.plan_for(decision, &columns),
            None => judge.plan(&columns),
        };
        if decision.as_ref().is_some_and(|d| d.clean) {
            // First witness: nothing masked can be in here. The second is heard where it can know better: a plain column of a
            // table it names. An expression has no origin, and a view was resolved through its definition.
            let view =
                |oid| judge.catalog().tables.iter().any(|t| t.oid == oid && matches!(t.kind, 'v' | 'm'));
            for (cell, column) in plan.columns.iter_mut().zip(&columns) {
                let made = || own && judge.unknown_table(std::slice::from_ref(column));
                if column.table == 0 || (cell.is_some() && (made() || view(column.table))) {
                    *cell = None;
                }
            }
        }
        self.current.shape = Shape::of(Rc::new(plan));
        if let (Some(decision), false) = (&decision, unknown) {
            self.shared.plans.borrow_mut().put(&judge, decision, body, &self.current.shape);
        }
        Ok(None)
    }

    /// The side path answered while a description waits: judge by what it found.
    pub(crate) fn server_answered(&mut self) {
        if let Some(catalog) = self.connection.catalogues.get(&self.database)
            && self.judge.as_ref().is_some_and(|j| j.catalog().version != catalog.version)
        {
            self.catalogue_after = 0;
            // `asked_newer_than` keeps the old version: the new one has not been asked to renew itself for this result.
            let asked = self.asked_newer_than;
            // Access withdrawn meanwhile: the client hears of it at its next statement.
            drop(self.refresh());
            self.asked_newer_than = asked.map(|_| Version::new(catalog.version));
        }
    }

    /// A statement ended well: `body` is its CommandComplete.
    fn completed(&mut self, body: &[u8], tag: u8, disturbs: Disturbs, decision: Option<Arc<Decision>>) {
        if !self.scope.is_empty() {
            if disturbs.any() {
                self.tables.void(disturbs, takes_away(decision.as_deref(), body));
                if let Some(Kept::Prepared { name, .. }) = decision.as_ref().and_then(|d| d.kept.as_ref()) {
                    // It is SQL's now, whatever the client had under it before.
                    self.tables.renamed(name.as_bytes());
                }
            }
            self.tables.completed(decision.as_ref().filter(|_| !self.outlived), body);
        }
        self.makes(body.strip_suffix(b"\0").unwrap_or(body), decision.as_deref());
        self.owed.copy_in_ended();
        self.current.ended = true;
        self.current.shape = Shape::Unknown;
        self.current.torn = false;
        self.current.copying = None;
        self.current.metering = Metering::Unasked;
        if tag != b'C' {
            return;
        }
        let command = body.strip_suffix(b"\0").unwrap_or(body);
        if [&b"CREATE"[..], b"ALTER", b"DROP", b"SELECT INTO", b"IMPORT"]
            .iter()
            .any(|c| command.starts_with(c))
        {
            self.changed_catalogue = true;
        }
        // INSERT, UPDATE, COPY … report rows that were not sent to the client.
        if self.current.rows == 0
            && self.cut.is_none()
            && let Some(count) =
                command.rsplit(|b| *b == b' ').next().and_then(|n| str::from_utf8(n).ok()?.parse().ok())
        {
            self.current.rows = count;
        }
    }

    /// A statement ended well: keeps the tables this session has made in its open transaction.
    fn makes(&mut self, command: &[u8], decision: Option<&Decision>) {
        const MADE_MAX: usize = 64;
        if let Some(new) = decision.and_then(|d| d.makes.as_ref()).filter(|_| self.scope.masks()) {
            self.changed_catalogue = true;
            let known = self.made.iter().flat_map(|made| made.iter());
            let known = known.filter(|m| *m != new).take(MADE_MAX - 1).chain([new]);
            self.made = Some(Box::new(known.cloned().collect()));
            return;
        }
        if self.made.is_none() {
            return;
        }
        let leaves =
            decision.is_some_and(|d| !d.strangers && !d.moves_names) && !command.starts_with(b"ROLLBACK");
        if !leaves {
            self.forget_made();
        }
    }

    /// A statement failed: what code of users prepared or deallocated before that stays so.
    ///
    /// Portals go with their transaction. What names may have changed is what was thought when the statement was sent, because what was
    /// sent behind it is described, or not, by that.
    fn failed(&mut self) {
        if self.code().statements {
            self.tables.forget_prepared();
        }
        let disturbs = match self.owed.front() {
            Some(Owed::Query { disturbs, .. } | Owed::Execute { disturbs, .. }) => *disturbs,
            _ => return,
        };
        if !self.scope.is_empty() && disturbs.any() {
            self.tables.void(disturbs, false);
        }
    }

    fn copy_out_begins(&mut self, body: &[u8]) -> Result<(), Fault> {
        if !self.scope.masks() {
            self.current.copying = Some(Box::new(Copying { walker: None, header: false }));
            return Ok(());
        }
        let decision = match self.owed.front() {
            Some(Owed::Query { decision, .. }) => decision.clone(),
            Some(Owed::Execute { portal, .. }) => {
                self.tables.portals.get(portal).and_then(|p| p.decision.clone())
            }
            _ => None,
        };
        let at = self.current.copies as usize;
        self.current.copies += 1;
        let plan = decision.as_ref().and_then(|d| d.copies.get(at));
        let walker = copy::Walker::new(plan.ok_or_else(|| fault("a COPY that nobody planned"))?);
        if walker.as_ref().is_some_and(|w| !w.fits(body)) {
            return Err(fault("a COPY is not of the format or number of columns that were planned"));
        }
        let header = walker.as_ref().is_some_and(copy::Walker::header);
        self.current.copying = Some(Box::new(Copying { walker, header }));
        Ok(())
    }

    /// True while what the server says in words may carry a masked value.
    fn withholding(&mut self) -> bool {
        if !self.scope.masks() {
            return false;
        }
        let decision = match self.owed.front() {
            Some(Owed::Query { decision, .. }) => decision.clone(),
            Some(Owed::Parse { prepared, .. }) => prepared.decision.clone(),
            Some(Owed::Bind { statement, .. }) => {
                self.tables.statements.get(statement).and_then(|s| s.decision.clone())
            }
            Some(Owed::Execute { portal, .. }) => {
                self.tables.portals.get(portal).and_then(|p| p.decision.clone())
            }
            // A portal's description can execute nothing; a stand-in neither; Sync may run deferred constraints.
            Some(Owed::Refused { .. }) => return false,
            // Nothing is running: a time-out or a shutdown speaks of no row.
            None => return false,
            Some(_) => return true,
        };
        decision.is_none_or(|d| d.withhold)
    }

    /// What was decided of the statement that the server runs.
    pub(crate) fn running(&mut self) -> Option<&Arc<Decision>> {
        match self.owed.front()? {
            Owed::Query { decision, .. } => decision.as_ref(),
            Owed::Execute { portal, .. } => self.tables.portals.get(portal)?.decision.as_ref(),
            _ => None,
        }
    }

    /// What code of users may do while the server runs what it runs.
    fn code(&mut self) -> Mentions {
        if !matches!(self.owed.front(), Some(Owed::Query { .. } | Owed::Execute { .. })) {
            return Mentions::default();
        }
        let lurking = self.tables.lurking();
        match self.running() {
            Some(d) if d.mentions.resumes => d.code().or(lurking),
            Some(d) => d.code(),
            None => Mentions::ALL,
        }
    }

    /// NotificationResponse: the payload is somebody's text and may be a masked value sent to oneself.
    fn notification(&mut self, flow: &mut Flow<'_>, body: &[u8]) -> Result<(), Fault> {
        let mut r = Reader::new(body, Side::Server);
        let pid = r.array::<4>("NotificationResponse: process")?;
        let channel = r.string("NotificationResponse: channel")?;
        message::write(flow.own(Side::Client), b'A', |out| {
            out.extend_from_slice(&pid);
            message::put_string(out, channel);
            message::put_string(out, b"");
        });
        Ok(())
    }

    fn error(&mut self, flow: &mut Flow<'_>, header: Header, body: &[u8]) -> Result<Option<Step>, Fault> {
        let now = flow.now();
        let mut state = *b"XX000";
        if let Some(code) = error_field(body, b'C')
            && code.len() == 5
        {
            state.copy_from_slice(code);
        }
        let severity = error_field(body, b'V').or_else(|| error_field(body, b'S'));
        let fatal = severity.is_some_and(|s| s == b"FATAL" || s == b"PANIC");
        self.target_fatal |= fatal;
        // unique_violation, exclusion_violation, foreign_key_violation.
        if matches!(&state, b"23505" | b"23P01" | b"23503") {
            if header.total() > READ_MAX {
                // What it is about stands behind its text.
                self.met_unknown(now);
            } else {
                self.met(body, now);
            }
        } else if (matches!(&state[..2], b"21" | b"22" | b"23" | b"53" | b"54")
            // It waited for a row that another session holds: deadlock_detected, lock_not_available.
            || matches!(&state, b"40P01" | b"55P03")
            // Cancelled, or ended by somebody.
            || &state[..2] == b"57")
            && self.cut.is_none()
            && let Some(decision) = self.running().map(Arc::clone)
        {
            self.told(&decision, now);
        }
        self.failed();
        self.owed.failed();
        let withhold = self.withholding();
        let refusal = match self.owed.front() {
            // A FATAL is never the answer to a stand-in: the target is going away.
            Some(Owed::Refused { number, block, .. }) if !fatal => Some((*number, block.clone())),
            _ => None,
        };
        match refusal {
            // The client has the error of the limit; a FATAL ends the connection and is heard.
            _ if self.cut.is_some() && !fatal => self.skip(flow, header),
            Some((number, block)) => {
                self.skip(flow, header);
                let id = self.decision_id(number);
                refuse::blocked(flow.own(Side::Client), &block, &id, self.deny_detail());
                state.copy_from_slice(block.sqlstate.as_bytes().get(..5).unwrap_or(b"42501"));
            }
            None if withhold => {
                self.skip(flow, header);
                let strangers = self.code().names;
                refuse::withhold(flow.own(Side::Client), b'E', body, strangers);
            }
            None => self.pass_on(flow, header),
        }
        if let Some(cut) = &mut self.cut {
            cut.sqlstate = cut.sqlstate.or(Some(state));
        }
        if self.cut.is_none() || self.current.sqlstate.is_none() {
            self.current.sqlstate = Some(state);
        }
        self.current.copying = None;
        self.current.shape = Shape::Unknown;
        match self.owed.front() {
            None => {}
            // These bring their own ReadyForQuery; so does the Sync whose transaction could not commit.
            Some(Owed::Query { .. } | Owed::Function { .. } | Owed::Sync) => self.current.ended = true,
            Some(Owed::Refused { own_sync: true, answered, .. }) => *answered = true,
            Some(_) => {
                let mut first = true;
                for owed in self.owed.skip_to_sync()? {
                    let (number, since) = match owed {
                        Owed::Execute { number, since, .. } | Owed::Query { number, since, .. } => {
                            (number, since)
                        }
                        Owed::Function { number, since } | Owed::Refused { number, since, .. } => {
                            (number, since)
                        }
                        // What failed is the Bind that they were for.
                        Owed::Parse { ours: true, .. } | Owed::Close { ours: true, .. } => continue,
                        Owed::Parse { prepared, .. } if first => (prepared.number, now.mono_ns),
                        Owed::Bind { number, .. } if first => (number, now.mono_ns),
                        _ => (0, 0),
                    };
                    self.finish(number, since, now, if first { "" } else { "skipped" })?;
                    first = false;
                }
                self.current = Default::default();
            }
        }
        Ok(None)
    }

    fn ready_for_query(
        &mut self,
        flow: &mut Flow<'_>,
        total: usize,
        body: &[u8],
    ) -> Result<Option<Step>, Fault> {
        let now = flow.now();
        match self.owed.front() {
            Some(Owed::Sync) => {
                self.owed.pop();
                self.current = Default::default();
            }
            Some(Owed::Query { number, since, .. } | Owed::Function { number, since })
                if self.current.ended =>
            {
                let (number, since) = (*number, *since);
                self.owed.pop();
                // A simple query runs in a portal without a name, and leaves none.
                self.tables.portals.remove(b"");
                self.current.bytes += total as u64;
                self.finish(number, since, now, "")?;
            }
            Some(Owed::Refused { number, own_sync: true, answered: true, since, .. }) => {
                let (number, since) = (*number, *since);
                self.owed.pop();
                self.finish(number, since, now, "")?;
            }
            _ => {
                if !self.owed.stray_sync() {
                    return Err(fault("ReadyForQuery nobody is owed"));
                }
            }
        }
        self.transaction = *body.first().ok_or_else(|| fault("ReadyForQuery: status"))?;
        if self.transaction != b'T' {
            self.forget_made();
        }
        if self.transaction == b'I' {
            // Portals end with their transaction.
            self.echoes = false;
            self.tables.portals.clear();
            self.tables.forget_cursors_not_held();
            // What changed the catalogue can be seen from outside now. Before, asking for it would have found nothing.
            if std::mem::take(&mut self.changed_catalogue) {
                self.connection.catalogues.mark_stale(&self.database);
                self.catalogue_after = self.judge.as_ref().map_or(0, |j| j.catalog().version);
            }
        }
        if self.owed.is_empty() {
            self.quoting_at_risk = false;
            if self.transaction == b'I' {
                self.tables.forget_lurking();
            }
            self.outlived &= self.tables.portals.len() > 0;
        }
        self.cut_is_over(now)?;
        flow.forward(total, Pass::housekeeping());
        if self.draining && self.quiet() && self.transaction == b'I' {
            self.record_end(now, "gateway shut down")?;
            return Ok(Some(self.goodbye(flow, "57P01", "the gateway is shutting down", "reconnect")));
        }
        Ok(None)
    }

    /// The target is gone.
    pub(crate) fn server_closed(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        if self.leaving {
            return Ok(Step::CLOSE);
        }
        let running = !self.owed.is_empty();
        self.record_end(
            flow.now(),
            if running { "target closed, outcome unknown" } else { "target closed" },
        )?;
        if matches!(self.server_body, ServerBody::None) && !self.target_fatal {
            let hint = if running {
                "the statement that was running may or may not have taken effect: reconnect and look"
            } else {
                "reconnect"
            };
            refuse::fatal(flow.own(Side::Client), "08006", "the target closed the connection", hint);
        }
        Ok(Step::CLOSE)
    }
}

/// Rows that pass without a look inside.
struct Run<'a> {
    input: &'a [u8],
    next: Option<Header>,
    rows: u64,
    /// Where the last of them ends; behind the input when it is not all here.
    end: usize,
}

impl Run<'_> {
    /// Counts rows until something else comes, or `count` says that one must not pass.
    #[inline]
    fn pass(&mut self, mut count: impl FnMut(Header) -> Result<(), Cut>) -> Result<Option<Cut>, Fault> {
        while let Some(row) = self.next.filter(|h| h.tag == b'D') {
            if let Err(cut) = count(row) {
                return Ok(Some(cut));
            }
            self.rows += 1;
            self.end += row.total();
            self.next = match self.input.get(self.end..) {
                Some(rest) => frame::header(rest, Side::Server)?,
                None => None,
            };
        }
        Ok(None)
    }
}

/// A statement that ended well, with this CommandComplete, took all prepared statements away, or gave one of them a name among others.
fn takes_away(decision: Option<&Decision>, command: &[u8]) -> bool {
    let named = || decision.is_some_and(|d| matches!(d.kept, Some(Kept::Prepared { .. })));
    command.starts_with(b"DISCARD ALL")
        || command.starts_with(b"DEALLOCATE ALL")
        || (command.starts_with(b"PREPARE") && !named())
}

/// True when a ParameterStatus is of a setting that can hold any text, and this may be one.
fn is_free_text(body: &[u8]) -> bool {
    let mut fields = body.split(|b| *b == 0);
    let name = fields.next().unwrap_or_default();
    if name.eq_ignore_ascii_case(b"TimeZone") {
        return !is_time_zone(fields.next().unwrap_or_default());
    }
    [&b"application_name"[..], b"search_path"].iter().any(|n| name.eq_ignore_ascii_case(n))
}

/// A name of the server's list, or a whole number of hours: drivers read times by it. What else POSIX allows (`AB123CD4`) is any text.
fn is_time_zone(value: &[u8]) -> bool {
    let hours = |text: &[u8]| matches!(text, [b'+' | b'-', digits @ ..] if matches!(digits.len(), 1 | 2) && digits.iter().all(u8::is_ascii_digit));
    if let Some(rest) = value.strip_prefix(b"Etc/GMT") {
        return rest.is_empty() || hours(rest);
    }
    if let Some(rest) = value.strip_prefix(b"<") {
        let mut parts = rest.splitn(2, |b| *b == b'>');
        return parts.by_ref().take(2).filter(|part| hours(part)).count() == 2;
    }
    value.iter().all(|b| b.is_ascii_alphabetic() || matches!(b, b'/' | b'_' | b'-' | b'+'))
}

/// RowDescription's columns.
fn columns(body: &[u8]) -> Result<Vec<Column<'_>>, Fault> {
    let mut r = Reader::new(body, Side::Server);
    let count = usize::from(r.u16("RowDescription: column count")?);
    let mut columns = Vec::with_capacity(count.min(r.rest().len() / 19 + 1));
    for _ in 0..count {
        let name = r.string("RowDescription: name")?;
        let table = r.u32("RowDescription: table")?;
        let attribute = r.i16("RowDescription: attribute")?;
        let type_oid = r.u32("RowDescription: type")?;
        r.take(6, "RowDescription: size and modifier")?;
        let format = match r.i16("RowDescription: format")? {
            0 => Format::Text,
            1 => Format::Binary,
            _ => return Err(fault("RowDescription: format")),
        };
        columns.push(Column { name, table, attribute, type_oid, format });
    }
    r.end("RowDescription: trailing bytes")?;
    Ok(columns)
}
