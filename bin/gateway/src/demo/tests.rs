//! The demo database, asked by a driver that checks what it is told (tokio-postgres), and by raw bytes where
//! a driver would hide what matters: the order of replies and the state at ReadyForQuery.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::database::{Database, ROLE};

async fn connect(db: &Database) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(db.address().port()).user(ROLE).password(db.password()).dbname("shop");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn state(error: &tokio_postgres::Error) -> &SqlState {
    error.code().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_binary_with_their_origin() {
    let db = Database::start().unwrap();
    let client = connect(&db).await;
    let statement = client
        .prepare("select id, email, card_number, paid_at, upper(email), count(*) over () from payments where id = $1")
        .await
        .unwrap();
    let origins: Vec<_> = statement.columns().iter().map(|c| (c.table_oid(), c.column_id())).collect();
    let payments = Some(16_405);
    assert_eq!(
        origins[..4],
        [(payments, Some(1)), (payments, Some(3)), (payments, Some(4)), (payments, Some(6))]
    );
    assert_eq!(origins[4..], [(None, None), (None, None)]);
    let types: Vec<_> = statement.columns().iter().map(|c| c.type_().name().to_owned()).collect();
    assert_eq!(types[..5], ["int8", "text", "text", "timestamptz", "text"]);
    assert_eq!(statement.params()[0].name(), "int8");

    let row = client.query_one(&statement, &[&80_001i64]).await.unwrap();
    let email: String = row.get(1);
    assert_eq!(row.get::<_, i64>(0), 80_001);
    assert_eq!(row.get::<_, String>(4), email.to_uppercase());
    let when: std::time::SystemTime = row.get(3);
    assert!(when > std::time::UNIX_EPOCH);

    let row = client.query_one("select count(*), sum(quantity)::int8, bool_or from (select max(vip) bool_or from customers), orders", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), super::data::ORDERS);
    let vip: Vec<bool> = client
        .query("select vip from customers where id <= $1 and name like $2", &[&50i64, &"%"])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert_eq!(vip.len(), 50);
}

/// SQLite would name the first arm's column as the origin of a UNION.
#[tokio::test(flavor = "multi_thread")]
async fn no_origin_where_it_would_be_a_lie() {
    let db = Database::start().unwrap();
    let client = connect(&db).await;
    for sql in [
        "select name from customers union all select email from customers",
        "select x from (select name as x from customers union select email from customers) s",
        "select coalesce(email, name) from customers",
        "select email || '' from customers",
    ] {
        let statement = client.prepare(sql).await.unwrap();
        assert_eq!(statement.columns()[0].table_oid(), None, "{sql}");
    }
    // Through a view and a subquery SQLite still knows.
    client.batch_execute("create view v as select email as e from customers").await.unwrap();
    let statement = client.prepare("select e from (select e from v) s").await.unwrap();
    assert_eq!(
        (statement.columns()[0].table_oid(), statement.columns()[0].column_id()),
        (Some(16_385), Some(3))
    );
    let error = client
        .batch_execute("create view w as select name from customers union select email from customers")
        .await
        .unwrap_err();
    assert_eq!(*state(&error), SqlState::FEATURE_NOT_SUPPORTED);
    // A renamed column keeps no number that a mask could take for another.
    client.batch_execute("alter table customers rename column city to town").await.unwrap();
    let statement = client.prepare("select town, email, vip from customers").await.unwrap();
    let numbers: Vec<_> = statement.columns().iter().map(|c| c.column_id()).collect();
    assert_eq!(numbers, [Some(101), Some(3), Some(6)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_end_as_they_should() {
    let db = Database::start().unwrap();
    let mut client = connect(&db).await;
    let other = connect(&db).await;
    let tx = client.transaction().await.unwrap();
    tx.execute("update customers set city = $1 where id = $2", &[&"Rome", &1i64]).await.unwrap();
    let error = tx.execute("select nope", &[]).await.unwrap_err();
    assert_eq!(*state(&error), SqlState::UNDEFINED_COLUMN);
    let error = tx.simple_query("select 1").await.unwrap_err();
    assert_eq!(*state(&error), SqlState::IN_FAILED_SQL_TRANSACTION);
    // PostgreSQL's parser speaks before its transaction does.
    let error = tx.simple_query("lockgate refused this").await.unwrap_err();
    assert_eq!(*state(&error), SqlState::SYNTAX_ERROR);
    tx.rollback().await.unwrap();
    let city: String = other.query_one("select city from customers where id = 1", &[]).await.unwrap().get(0);
    assert_ne!(city, "Rome");

    // Several statements of one Query are one transaction.
    let error = client.batch_execute("delete from payments; select nope").await.unwrap_err();
    assert_eq!(*state(&error), SqlState::UNDEFINED_COLUMN);
    let left: i64 = other.query_one("select count(*) from payments", &[]).await.unwrap().get(0);
    assert!(left > 4_000);

    let mut tx = client.transaction().await.unwrap();
    let save = tx.savepoint("a").await.unwrap();
    save.simple_query("select nope").await.unwrap_err();
    save.rollback().await.unwrap();
    assert_eq!(tx.execute("delete from payments where id = 80001", &[]).await.unwrap(), 1);
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_states() {
    let db = Database::start().unwrap();
    let client = connect(&db).await;
    for (sql, expected) in [
        ("lockgate refused 01JD9Z-17", "42601"),
        ("drop tabel payments", "42601"),
        ("select from where", "42601"),
        ("select 'open", "42601"),
        ("select * from nope", "42P01"),
        ("select nope from payments", "42703"),
        ("select nope(1)", "42883"),
        ("insert into customers select * from customers", "23505"),
        ("insert into orders values (1, 1, null, 1, 1, '', now())", "23502"),
        ("create table payments (id int)", "42P07"),
        ("listen x", "0A000"),
        ("select array[1]", "0A000"),
        ("attach '/tmp/x' as y", "42601"),
        ("pragma user_version", "42601"),
        ("commit; rollback to x", "25P01"),
        ("show nope", "42704"),
    ] {
        let error = client.simple_query(sql).await.unwrap_err();
        assert_eq!(state(&error).code(), expected, "{sql}: {error:?}");
        client.simple_query("select 1").await.unwrap();
    }
    let error = client.prepare("lockgate refused 01JD9Z-17").await.unwrap_err();
    assert_eq!(state(&error).code(), "42601");
    let error = client.simple_query("listen x").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("SQLite"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_stops_a_statement() {
    let db = Database::start().unwrap();
    let client = connect(&db).await;
    for sql in ["select count(*) from payments a, payments b, payments c", "select pg_sleep(60)"] {
        let cancel = client.cancel_token();
        let stopper = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cancel.cancel_query(NoTls).await.unwrap();
        });
        let ended = tokio::time::timeout(Duration::from_secs(10), client.simple_query(sql)).await.unwrap();
        assert_eq!(*state(&ended.unwrap_err()), SqlState::QUERY_CANCELED, "{sql}");
        stopper.await.unwrap();
        client.simple_query("select 1").await.unwrap();
    }
}

/// SQLite has one writer; others wait for it, and can be cancelled while they do.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_writer_can_be_cancelled() {
    let db = Database::start().unwrap();
    let (writer, reader) = (connect(&db).await, connect(&db).await);
    writer.batch_execute("begin; update orders set status = 'x' where id = 1").await.unwrap();
    let waiting = reader.simple_query("select status from orders where id = 1");
    let cancel = reader.cancel_token();
    let stopper = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.cancel_query(NoTls).await.unwrap();
    };
    let start = std::time::Instant::now();
    let (ended, ()) = tokio::join!(waiting, stopper);
    assert_eq!(*state(&ended.unwrap_err()), SqlState::QUERY_CANCELED);
    assert!(start.elapsed() < Duration::from_secs(3));
    let waiting = reader.simple_query("select status from orders where id = 1");
    let done = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        writer.batch_execute("commit").await.unwrap();
    };
    let (ended, ()) = tokio::join!(waiting, done);
    assert!(ended.unwrap().iter().any(|m| matches!(m, SimpleQueryMessage::Row(r) if r.get(0) == Some("x"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_out_and_in() {
    use futures_util::{SinkExt as _, TryStreamExt as _};
    let db = Database::start().unwrap();
    let client = connect(&db).await;
    let out: Vec<bytes::Bytes> = client
        .copy_out("copy (select id, phone, vip from customers where id < 20 order by id) to stdout with (format csv, header)")
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(out.len(), 20, "one message a row, and the header");
    assert_eq!(out[0], "id,phone,vip\n");

    client.batch_execute("create table t (id int primary key, name text, at timestamptz)").await.unwrap();
    let sink = client.copy_in("copy t (id, name) from stdin").await.unwrap();
    tokio::pin!(sink);
    sink.send(bytes::Bytes::from_static(b"1\tone\\ttab\n2\t\\N\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 2);
    let rows = client.query("select name from t order by id", &[]).await.unwrap();
    assert_eq!(
        rows.iter().map(|r| r.get(0)).collect::<Vec<Option<String>>>(),
        [Some("one\ttab".to_owned()), None]
    );
    let sink = client.copy_in("copy t (id, name) from stdin").await.unwrap();
    tokio::pin!(sink);
    sink.send(bytes::Bytes::from_static(b"x\ty\n")).await.unwrap();
    assert_eq!(state(&sink.finish().await.unwrap_err()).code(), "22P02");
    client.simple_query("select 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_keep_what_a_limit_leaves() {
    let db = Database::start().unwrap();
    let mut client = connect(&db).await;
    let tx = client.transaction().await.unwrap();
    let portal = tx.bind("select id from customers order by id", &[]).await.unwrap();
    let first = tx.query_portal(&portal, 3).await.unwrap();
    let second = tx.query_portal(&portal, 2).await.unwrap();
    let rest = tx.query_portal(&portal, 0).await.unwrap();
    let id = |r: &tokio_postgres::Row| r.get::<_, i64>(0);
    assert_eq!(first.iter().map(id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(second.iter().map(id).collect::<Vec<_>>(), [4, 5]);
    assert_eq!((rest.len(), id(&rest[0])), (1_995, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_or_database_gets_nowhere() {
    let db = Database::start().unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(db.address().port()).user(ROLE).password("wrong").dbname("shop");
    assert_eq!(*state(&config.connect(NoTls).await.err().unwrap()), SqlState::INVALID_PASSWORD);
    config.password(db.password()).dbname("other");
    assert_eq!(*state(&config.connect(NoTls).await.err().unwrap()), SqlState::INVALID_CATALOG_NAME);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_it_ends_every_session() {
    let db = Database::start().unwrap();
    let client = connect(&db).await;
    let address = db.address();
    drop(db);
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        while client.simple_query("select 1").await.is_ok() {}
    });
    ended.await.unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(5), async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    gone.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_can_look_around() {
    let db = Database::start().unwrap();
    let client = connect(&db).await;
    // As psql 15 sends them for \d payments.
    let oid = "select c.oid, n.nspname, c.relname from pg_catalog.pg_class c \
         left join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
         where c.relname operator(pg_catalog.~) '^(payments)$' collate pg_catalog.default \
         and pg_catalog.pg_table_is_visible(c.oid) order by 2, 3;";
    let columns = "select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull \
         from pg_catalog.pg_attribute a where a.attrelid = '16405' and a.attnum > 0 and not a.attisdropped order by a.attnum;";
    let text = |messages: Vec<SimpleQueryMessage>| -> Vec<String> {
        messages
            .iter()
            .filter_map(|m| match m {
                SimpleQueryMessage::Row(r) => {
                    Some((0..r.len()).map(|i| r.get(i).unwrap_or("-")).collect::<Vec<_>>().join("|"))
                }
                _ => None,
            })
            .collect()
    };
    assert_eq!(text(client.simple_query(oid).await.unwrap()), ["16405|public|payments"]);
    let columns = text(client.simple_query(columns).await.unwrap());
    assert_eq!(columns[3..5], ["card_number|text|t", "amount|numeric(10,2)|t"]);
    assert!(text(client.simple_query("select 'payments'::regclass::oid").await.unwrap()) == ["16405"]);
    assert!(
        text(
            client
                .simple_query("select * from pg_catalog.pg_policy where x = any(array(select 1))")
                .await
                .unwrap()
        )
        .is_empty()
    );
}

/// After an error nothing is answered until Sync, and what the pipeline did before it is undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_one_transaction() {
    let db = Database::start().unwrap();
    let client = connect(&db).await;
    let before: i64 = client.query_one("select count(*) from payments", &[]).await.unwrap().get(0);
    // tokio-postgres sends one Sync per call, so the messages are written out here, after a login by the
    // driver's own codec.
    let mut raw = Raw::login(&db).await;
    let mut bytes = Vec::new();
    for sql in ["delete from payments", "select nope", "delete from orders"] {
        frame(&mut bytes, b'P', format!("\0{sql}\0\0\0").as_bytes());
        frame(&mut bytes, b'B', b"\0\0\0\0\0\0\0\0");
        frame(&mut bytes, b'E', b"\0\0\0\0\0");
    }
    frame(&mut bytes, b'S', b"");
    frame(&mut bytes, b'Q', b"select 1\0");
    raw.socket.write_all(&bytes).await.unwrap();
    let (tags, states) = raw.until_ready(2).await;
    assert_eq!(tags, "12CEZTDCZ");
    assert_eq!(states, [b'I', b'I']);
    let after: i64 = client.query_one("select count(*) from payments", &[]).await.unwrap().get(0);
    assert_eq!(before, after);
}

fn frame(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

struct Raw {
    socket: tokio::net::TcpStream,
}

impl Raw {
    async fn login(db: &Database) -> Raw {
        use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
        let mut socket = tokio::net::TcpStream::connect(db.address()).await.unwrap();
        let body = format!("\0\x03\0\0user\0{ROLE}\0database\0shop\0\0");
        let mut start = (body.len() as u32 + 4).to_be_bytes().to_vec();
        start.extend_from_slice(body.as_bytes());
        socket.write_all(&start).await.unwrap();
        let mut raw = Raw { socket };
        let mut scram = ScramSha256::new(db.password().as_bytes(), ChannelBinding::unsupported());
        assert_eq!(raw.message().await.0, b'R');
        let mut first = b"SCRAM-SHA-256\0".to_vec();
        first.extend_from_slice(&(scram.message().len() as u32).to_be_bytes());
        first.extend_from_slice(scram.message());
        let mut bytes = Vec::new();
        frame(&mut bytes, b'p', &first);
        raw.socket.write_all(&bytes).await.unwrap();
        scram.update(&raw.message().await.1[4..]).unwrap();
        let mut bytes = Vec::new();
        frame(&mut bytes, b'p', scram.message());
        raw.socket.write_all(&bytes).await.unwrap();
        scram.finish(&raw.message().await.1[4..]).unwrap();
        raw.until_ready(1).await;
        raw
    }

    async fn message(&mut self) -> (u8, Vec<u8>) {
        let tag = self.socket.read_u8().await.unwrap();
        let length = self.socket.read_u32().await.unwrap() as usize;
        let mut body = vec![0; length - 4];
        self.socket.read_exact(&mut body).await.unwrap();
        (tag, body)
    }

    async fn until_ready(&mut self, times: usize) -> (String, Vec<u8>) {
        let (mut tags, mut states) = (String::new(), Vec::new());
        while states.len() < times {
            let (tag, body) = self.message().await;
            tags.push(char::from(tag));
            if tag == b'Z' {
                states.push(body[0]);
            }
        }
        (tags, states)
    }
}
