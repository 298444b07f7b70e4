//! Every bound, with its unit and its reason.

/// First size of a read buffer. An interactive statement and its answer fit.
pub const READ_BYTES_MIN: usize = 16 << 10;
/// Read buffers grow to this while reads come back full: fewer wake-ups per megabyte on bulk results.
pub const READ_BYTES_MAX: usize = 256 << 10;
/// Longest frame a session may ask to see whole ([`crate::Step::Read`]'s `need`). Statements that must be analysed and rows that
/// must be rewritten in one piece fit; longer ones are streamed, or refused where they cannot be.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Of a row longer than a frame, what may come in front of its last masked cell: it is held, because a row's length comes first and
/// would tell how long its masked cells are. More than this ends the session.
pub const MASKED_ROW_BYTES_MAX: usize = 16 << 20;
/// Longest statement text that is analysed on a worker. Parsing 1 MiB stays in the low tens of milliseconds.
pub const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// PostgreSQL refuses start-up packets over 10,000 bytes (`MAX_STARTUP_PACKET_LENGTH`, postmaster.h).
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// Password messages: a JSON web token may be long; PgBouncer allows 65,535.
pub const PASSWORD_BYTES_MAX: usize = 65_535;
/// Parameter bytes kept per parameter.
pub const RECORDED_PARAMETER_BYTES: usize = 64 << 10;
/// Named prepared statements or portals one session may hold at once; beyond: refused with an error.
pub const PREPARED_MAX: usize = 16_384;
/// Of the texts of those, together with the types of their parameters: what is decided of a text may be as large as it is.
pub const PREPARED_BYTES_MAX: usize = 64 << 20;
/// Replies a client may leave owed by pipelining before we stop reading from it. PostgreSQL sends what it has once 8 KiB of
/// replies are there (`PQ_SEND_BUFFER_SIZE`): this many, of five bytes at least, are more, so nobody waits for the other.
pub const OWED_MAX: usize = 16_384;
const _: () = assert!(OWED_MAX * 5 > 8192 * 2);
/// Identities times rules whose use within the hour is remembered before what is idle is swept out.
pub const BUDGETS_MAX: usize = 65_536;
/// Rows a session takes from an hour's budget in advance; what it does not use it returns. One lock for so many rows.
pub const ROWS_GRANTED_MAX: u64 = 256;
/// A result this small may take from the last hundredth of an hour's budget.
pub const SMALL_ROWS: u64 = 10;
/// How long the server may take to end a result that was cut at a row limit before it is told to. Most are over by then, and a cancel
/// request is a connection and a process for the server.
pub const CUT_PATIENCE_MS: u64 = 10;
/// Connections of one worker that carry cancel requests for cut results, at once; others wait. A limit must not be a way to flood the
/// target with connections.
pub const COURIERS_MAX: usize = 32;
/// Default time to reach a target, in milliseconds.
pub const DIAL_MS_MAX: u64 = 10_000;

const _: () = assert!(STATEMENT_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(READ_BYTES_MIN <= READ_BYTES_MAX);
