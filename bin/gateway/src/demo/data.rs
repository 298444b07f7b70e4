//! The made-up shop: its tables, its rows, and the same tables as a catalogue snapshot.
//!
//! Nothing here belongs to anybody: the e-mail domains are reserved for documentation (RFC 2606), the
//! telephone numbers for fiction (555-01xx), and the card numbers start with the networks' published test
//! numbers and pass the Luhn check.
//!
//! Invariant: the same seed gives the same rows on every machine, and a table's OID and a column's number
//! depend on their *name* alone, so that a mask on `payments.card_number` stays on it whatever is dropped,
//! renamed or made again.

use policy::Catalog;
use policy::catalog::{Table, TableColumn, Writes};
use rusqlite::{Connection, params};

/// What the demo database calls itself.
pub(crate) const DATABASE: &str = "shop";
/// Reported as `server_version_num`. No newer than the oldest psql people run, so that none of them warns.
pub(crate) const SERVER_VERSION: u32 = 150_000;
pub(crate) const CUSTOMERS: i64 = 2_000;
pub(crate) const ORDERS: i64 = 5_000;
/// First OID of tables that users create; ours follow it in steps.
pub(crate) const OID_MIN: u32 = 16_384;
/// OIDs of tables that a visitor creates start here.
pub(crate) const OID_VISITOR: u32 = 20_000;

/// A table as the demo describes it. The type names are PostgreSQL's; SQLite keeps them as declared.
pub(crate) struct Made {
    pub(crate) name: &'static str,
    pub(crate) oid: u32,
    pub(crate) columns: &'static [MadeColumn],
    /// Constraints after the columns.
    constraints: &'static str,
}

pub(crate) struct MadeColumn {
    pub(crate) name: &'static str,
    pub(crate) declared: &'static str,
    pub(crate) not_null: bool,
    pub(crate) primary_key: bool,
}

const fn column(name: &'static str, declared: &'static str) -> MadeColumn {
    MadeColumn { name, declared, not_null: true, primary_key: false }
}

pub(crate) const TABLES: &[Made] = &[
    Made {
        name: "customers",
        oid: OID_MIN + 1,
        columns: &[
            MadeColumn { name: "id", declared: "bigint", not_null: true, primary_key: true },
            column("name", "text"),
            column("email", "text"),
            MadeColumn { name: "phone", declared: "text", not_null: false, primary_key: false },
            column("city", "text"),
            column("vip", "boolean"),
            column("created_at", "timestamptz"),
        ],
        constraints: "",
    },
    Made {
        name: "orders",
        oid: OID_MIN + 11,
        columns: &[
            MadeColumn { name: "id", declared: "bigint", not_null: true, primary_key: true },
            column("customer_id", "bigint"),
            column("item", "text"),
            column("quantity", "integer"),
            column("total", "numeric(10,2)"),
            column("status", "text"),
            column("created_at", "timestamptz"),
        ],
        constraints: ", foreign key (customer_id) references customers (id)",
    },
    Made {
        name: "payments",
        oid: OID_MIN + 21,
        columns: &[
            MadeColumn { name: "id", declared: "bigint", not_null: true, primary_key: true },
            column("order_id", "bigint"),
            column("email", "text"),
            column("card_number", "text"),
            column("amount", "numeric(10,2)"),
            column("paid_at", "timestamptz"),
        ],
        constraints: ", foreign key (order_id) references orders (id)",
    },
];

/// Creates and fills every table.
///
/// # Errors
/// When SQLite refuses, which for these statements means it is broken.
pub(crate) fn fill(db: &mut Connection) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    for table in TABLES {
        let columns: Vec<String> = table
            .columns
            .iter()
            .map(|c| {
                let key = if c.primary_key { " primary key" } else { "" };
                let null = if c.not_null { " not null" } else { "" };
                format!("{} {}{null}{key}", c.name, c.declared)
            })
            .collect();
        tx.execute(
            &format!("create table {} ({}{})", table.name, columns.join(", "), table.constraints),
            (),
        )?;
    }
    let mut dice = Dice(2026);
    let mut customers: Vec<(String, String)> = Vec::new();
    {
        let mut insert = tx.prepare("insert into customers values (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        for id in 1..=CUSTOMERS {
            let (first, last) = (dice.pick(FIRST), dice.pick(LAST));
            let email =
                format!("{}.{}{id}@{}", first.to_lowercase(), last.to_lowercase(), dice.pick(DOMAINS));
            let phone = (dice.below(10) > 0)
                .then(|| format!("+1 {} 555 01{:02}", 200 + dice.below(700), dice.below(100)));
            let vip = dice.below(20) == 0;
            insert.execute(params![
                id,
                format!("{first} {last}"),
                email,
                phone,
                dice.pick(CITIES),
                vip,
                dice.moment()
            ])?;
            customers.push((email, card(id)));
        }
        let mut order = tx.prepare("insert into orders values (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        let mut payment = tx.prepare("insert into payments values (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for id in 1..=ORDERS {
            let who = dice.below(CUSTOMERS as u64);
            let Some((email, card)) = usize::try_from(who).ok().and_then(|i| customers.get(i)) else {
                continue;
            };
            let (item, cents) = dice.pick(ITEMS);
            let quantity = 1 + dice.below(3);
            let total = (cents * quantity) as f64 / 100.0;
            let status = dice.pick(&["paid", "paid", "paid", "shipped", "shipped", "open", "returned"]);
            let at = dice.moment();
            order.execute(params![id, who as i64 + 1, item, quantity as i64, total, status, at])?;
            if status != "open" {
                payment.execute(params![80_000 + id, id, email, card, total, at])?;
            }
        }
    }
    tx.execute_batch("create index orders_customer on orders (customer_id); create index payments_order on payments (order_id)")?;
    tx.commit()
}

/// The same tables as the gateway's side path would have read them from a PostgreSQL.
pub(crate) fn catalog() -> Catalog {
    let tables = TABLES
        .iter()
        .map(|t| Table {
            oid: t.oid,
            schema: "public".to_owned(),
            name: t.name.to_owned(),
            kind: 'r',
            columns: (1i16..)
                .zip(t.columns)
                .map(|(number, c)| {
                    let kind = super::values::Kind::declared(c.declared);
                    TableColumn {
                        number,
                        name: c.name.to_owned(),
                        type_oid: kind.oid(),
                        type_name: kind.name().to_owned(),
                        not_null: c.not_null,
                        generated: None,
                    }
                })
                .collect(),
            parents: Vec::new(),
            definition: None,
        })
        .collect();
    Catalog {
        version: 1,
        database: DATABASE.to_owned(),
        server_version: SERVER_VERSION,
        search_path: vec!["public".to_owned()],
        tables,
        functions: Vec::new(),
        writes: Some(Writes::default()),
        ..Catalog::default()
    }
}

/// One of 4,000 card numbers: a published test number's first twelve digits, three that vary, and the check
/// digit.
fn card(customer: i64) -> String {
    const TEST: [&str; 4] = ["424242424242", "411111111111", "555555555555", "400000000000"];
    let n = customer.unsigned_abs();
    let prefix = TEST.get((n % 4) as usize).copied().unwrap_or("424242424242");
    let body = format!("{prefix}{:03}", (n / 4) % 1000);
    let check = luhn_digit(&body);
    format!("{body}{check}")
}

/// The digit that makes `body` followed by it pass the Luhn check.
fn luhn_digit(body: &str) -> u32 {
    let sum: u32 = body
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let d = u32::from(b.wrapping_sub(b'0')) * if i % 2 == 0 { 2 } else { 1 };
            d / 10 + d % 10
        })
        .sum();
    (10 - sum % 10) % 10
}

/// splitmix64: small, good enough for names, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        let at = self.below(from.len() as u64) as usize;
        from.get(at).copied().unwrap_or_default()
    }

    /// A moment in the first ten months of 2026.
    fn moment(&mut self) -> String {
        let (month, day, second) = (1 + self.below(10), 1 + self.below(28), self.below(86_400));
        format!("2026-{month:02}-{day:02} {:02}:{:02}:{:02}+00", second / 3600, second / 60 % 60, second % 60)
    }
}

const FIRST: &[&str] = &[
    "Ada", "Bela", "Carmen", "Dilek", "Emil", "Farah", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Lena",
    "Mateo", "Nadia", "Oskar", "Priya", "Quinn", "Rosa", "Sofia", "Tomas", "Uma", "Viktor", "Wanda", "Xenia",
    "Yusuf", "Zoe",
];
const LAST: &[&str] = &[
    "Adler", "Baker", "Costa", "Diaz", "Eriksen", "Fischer", "Garcia", "Haas", "Ito", "Jansen", "Kovacs",
    "Lopez", "Moreau", "Novak", "Okafor", "Petrov", "Rossi", "Silva", "Tanaka", "Urban", "Vogel", "Weber",
    "Yilmaz", "Zhang",
];
const CITIES: &[&str] =
    &["Berlin", "Lisbon", "Lagos", "Osaka", "Prague", "Quito", "Porto", "Tallinn", "Toronto", "Vienna"];
const DOMAINS: &[&str] = &["example.com", "example.org", "example.net"];
/// Name and price in cents.
const ITEMS: &[(&str, u64)] = &[
    ("Desk lamp", 4_999),
    ("Notebook, dotted", 1_250),
    ("Rain jacket", 12_900),
    ("Espresso cups (4)", 3_400),
    ("Bicycle bell", 1_799),
    ("Wool blanket", 8_950),
    ("Travel adapter", 2_495),
    ("Tea sampler", 1_995),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn luhn(number: &str) -> bool {
        let sum: u32 = number
            .bytes()
            .rev()
            .enumerate()
            .map(|(i, b)| {
                let d = u32::from(b - b'0') * if i % 2 == 1 { 2 } else { 1 };
                d / 10 + d % 10
            })
            .sum();
        sum.is_multiple_of(10)
    }

    #[test]
    fn cards_pass_luhn_and_differ() {
        let cards: std::collections::HashSet<String> = (1..=CUSTOMERS).map(card).collect();
        assert_eq!(cards.len() as i64, CUSTOMERS);
        assert!(cards.iter().all(|c| c.len() == 16 && luhn(c)));
        assert!(luhn("4242424242424242") && !luhn("4242424242424241"));
    }

    #[test]
    fn the_same_rows_every_time() {
        let sums: Vec<(i64, String)> = (0..2)
            .map(|_| {
                let mut db = Connection::open_in_memory().unwrap();
                fill(&mut db).unwrap();
                db.query_row(
                    "select count(*), group_concat(email) from (select email from customers order by id)",
                    (),
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .unwrap()
            })
            .collect();
        assert_eq!(sums[0], sums[1]);
        assert_eq!(sums[0].0, CUSTOMERS);
    }

    #[test]
    fn the_catalogue_is_the_tables() {
        let catalog = catalog();
        let payments = catalog.tables.iter().find(|t| t.name == "payments").unwrap();
        let card = payments.columns.iter().find(|c| c.name == "card_number").unwrap();
        assert_eq!((payments.oid, card.number, card.type_oid), (16405, 4, 25));
        assert!(catalog.tables.iter().all(|t| t.oid >= OID_MIN && t.oid < OID_VISITOR));
    }
}
