//! The tour: plays ana, bo and an agent through the gateway, shows what was sent and what came back, and then
//! reads the record.
//!
//! It is the smoke test as well: every step checks what it claims, against what bo sees unmasked, and the
//! tour fails when one claim does not hold. It has no way around the gateway and reads the record by the
//! command that people use.

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio_postgres::error::SqlState;

use super::{AGENT, Facts};
use crate::sql::{Client, Target, Trust, explained};

/// As the record names this client.
const APPLICATION: &str = "lockgate tour";

/// Plays every step.
///
/// # Errors
/// When the tour itself cannot go on; a claim that does not hold is counted, shown, and makes the exit code
/// 1.
pub(super) async fn play(facts: &Facts) -> anyhow::Result<ExitCode> {
    let mut tour = Tour { facts, steps: 0, held: 0, broken: Vec::new() };
    tour.run().await?;
    println!("{}", "─".repeat(78));
    if tour.broken.is_empty() {
        println!("{} steps, {} claims, all of them hold.", tour.steps, tour.held);
        println!("The record stays in {}.", super::short(&facts.record));
        Ok(ExitCode::SUCCESS)
    } else {
        println!("{} steps; {} claims hold, {} do not:", tour.steps, tour.held, tour.broken.len());
        for claim in &tour.broken {
            println!("  ✗ {claim}");
        }
        Ok(ExitCode::FAILURE)
    }
}

struct Tour<'a> {
    facts: &'a Facts,
    steps: usize,
    held: usize,
    broken: Vec<String>,
}

impl Tour<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        let ana = self.log_in("ana").await?;
        let bo = self.log_in("bo").await?;
        let clear = Clear::read(&bo).await?;

        const SELECT: &str = "select id, email, card_number, amount from payments order by id limit 3";
        self.step("ana from support reads payments: e-mail and card number are masked on the way");
        let rows = self.rows("ana", &ana, SELECT).await?;
        self.claim(rows.len() == 3, "three rows came");
        self.claim(!clear.in_rows(&rows), "no e-mail and no card number came through");
        let last = |n: Option<&Option<String>>| {
            n.and_then(Option::as_deref).map(|c| c.chars().rev().take(4).collect::<String>())
        };
        let masked_cards: Vec<_> = rows.iter().map(|row| last(row.get(2))).collect();

        self.step("bo, a dba, sends the same: the rule does not touch him");
        let rows = self.rows("bo", &bo, SELECT).await?;
        self.claim(
            rows.len() == 3 && rows.iter().all(|row| clear.in_row(row)),
            "e-mail and card number are clear",
        );
        let cards: Vec<_> = rows.iter().map(|row| last(row.get(2))).collect();
        self.claim(masked_cards == cards, "ana saw the last four digits of the same cards");

        self.step("What is made of a masked column is masked too");
        for sql in [
            "select upper(email) from payments order by id limit 2",
            "select reverse(card_number) as backwards from payments order by id limit 2",
            "select name as who from customers union all select email from customers limit 2",
        ] {
            match self.ask("ana", &ana, sql).await {
                Ok(rows) => {
                    self.claim(!clear.in_rows(&rows), "nothing can be worked out from what came back")
                }
                Err(error) => {
                    self.claim(refused(&error), "it was refused, for it could not be proved harmless")
                }
            }
        }

        self.step("ana drops a table: blocked, with the rule and what to do, and her session goes on");
        self.blocked("ana", &ana, "drop table payments", "no-destructive-ddl").await;
        let rows = self.rows("ana", &ana, "select count(*) from payments").await?;
        self.claim(
            rows.first().and_then(|r| r.first()).and_then(Option::as_deref)
                == Some(&clear.payments.to_string()),
            "the table is still there, and so is her session",
        );

        self.step("An UPDATE without a WHERE is blocked; one with a WHERE is not");
        self.blocked("ana", &ana, "update orders set status = 'void'", "no-unbounded-writes").await;
        let changed = self.ask("ana", &ana, "update orders set status = 'shipped' where id = 1").await;
        self.claim(changed.is_ok(), "the other one ran");

        self.step(
            "Inside a transaction a refusal is an ordinary error: the transaction is aborted, and rolls back",
        );
        for sql in ["begin", "update orders set status = 'lost' where id = 1"] {
            let ran = self.ask("ana", &ana, sql).await;
            self.claim(ran.is_ok(), "it ran");
        }
        self.blocked("ana", &ana, "truncate orders", "no-destructive-ddl").await;
        let after = self.ask("ana", &ana, "select 1").await;
        self.claim(
            after.is_err_and(|e| e.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION)),
            "the transaction takes nothing but its end",
        );
        let ended = self.ask("ana", &ana, "rollback").await;
        self.claim(ended.is_ok(), "it rolled back");
        let rows = self.rows("bo", &bo, "select status from orders where id = 1").await?;
        self.claim(rows == [[Some("shipped".to_owned())]], "and nothing of it stayed");

        self.step("COPY carries whole tables: masked row by row");
        const COPY: &str = "copy payments (id, email, card_number) to stdout";
        println!("  ana=> {COPY};");
        match ana.run(COPY).await {
            Ok(answer) => {
                let copied = answer.copied.unwrap_or_default();
                for line in copied.lines().take(3) {
                    println!("  {line}");
                }
                let count = copied.lines().count();
                println!("  … {count} rows");
                let rows: Vec<Vec<Option<String>>> =
                    copied.lines().map(|l| l.split('\t').map(|c| Some(c.to_owned())).collect()).collect();
                self.claim(count == clear.payments, "every row came");
                self.claim(!clear.in_rows(&rows), "and none with an e-mail or a card number");
            }
            Err(error) => {
                self.show(&error);
                self.claim(false, "COPY is masked, not refused");
            }
        }

        self.step("An agent logs in with a token: it reads masked, and writes nothing");
        let agent = self.log_in(AGENT).await?;
        let rows = self.rows(AGENT, &agent, "select email from customers order by id limit 2").await?;
        self.claim(rows.len() == 2 && !clear.in_rows(&rows), "what it reads is masked");
        self.blocked(AGENT, &agent, "delete from orders where id = 1", "agents-only-read").await;

        self.step("Somebody who does not know the password");
        let target = self.target("ana");
        println!("  lockgate sql shop --as ana      (with a wrong password)");
        match Client::connect(&target, "not the password").await {
            Ok(_) => self.claim(false, "gets nowhere"),
            Err(error) => {
                println!("  {error:#}");
                self.claim(format!("{error:#}").contains("authentication failed"), "gets nowhere");
            }
        }

        drop((ana, bo, agent));
        self.record(&clear).await
    }

    /// What the record says of all this.
    async fn record(&mut self, clear: &Clear) -> anyhow::Result<()> {
        self.step("What the record says");
        // Closing a session is written a moment after the client has gone.
        let mut sessions = Vec::new();
        for _ in 0..50 {
            sessions = self.sessions().await?;
            if sessions.iter().all(|s| !s["closed"].is_null()) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        println!("  $ lockgate sessions");
        for s in &sessions {
            println!(
                "  {}  {}  {} statements, {} blocked, {} masked",
                text(&s["session"]),
                text(&s["identity"]),
                s["statements"],
                s["blocked"],
                s["masked"]
            );
        }
        self.claim(sessions.iter().all(|s| !s["closed"].is_null()), "every session of this tour has ended");
        let who: HashSet<&str> = sessions.iter().filter_map(|s| s["identity"].as_str()).collect();
        self.claim(who == HashSet::from(["ana", "bo", AGENT]), "ana, bo and the agent are in it");
        let ana =
            sessions.iter().find(|s| s["identity"] == "ana").context("ana's session is in the record")?;
        self.claim(ana["blocked"] == 3, "three statements of ana's were blocked");
        let id = text(&ana["session"]);
        println!("\n  $ lockgate replay {id}");
        let replay = self.lockgate(&["replay", &id]).await?;
        for line in replay.lines() {
            println!("  {line}");
        }
        self.claim(
            replay.contains("drop table payments") && replay.contains("no-destructive-ddl"),
            "the blocked statement and its rule can be read there",
        );
        let everything = self.lockgate(&["record", "export"]).await?;
        self.claim(!clear.in_text(&everything), "no e-mail and no card number is in the record");
        let secret = self.facts.secret(AGENT).unwrap_or_default();
        self.claim(!secret.is_empty() && !everything.contains(secret.as_str()), "and no token");
        let verified = self.lockgate(&["record", "verify"]).await;
        self.claim(verified.is_ok(), "nothing in it was changed");
        Ok(())
    }

    /// The sessions of this very tour: the record may hold those of earlier ones.
    async fn sessions(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let listed = self.lockgate(&["sessions", "-o", "json"]).await?;
        let all: Vec<serde_json::Value> =
            serde_json::from_str(&listed).context("read what lockgate sessions prints")?;
        let application = self.application();
        Ok(all.into_iter().filter(|s| s["application"].as_str() == Some(application)).collect())
    }

    fn application(&self) -> &'static str {
        use std::sync::OnceLock;
        static NAME: OnceLock<String> = OnceLock::new();
        NAME.get_or_init(|| format!("{APPLICATION} {}", self.facts.pid))
    }

    /// Runs this very program, as somebody at a terminal would.
    async fn lockgate(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = std::process::Command::new(std::env::current_exe().context("find this program")?);
        command.args(args).arg("-c").arg(&self.facts.config).env_remove("LOCKGATE_CONFIG");
        let output = tokio::task::spawn_blocking(move || command.output()).await?.context("run lockgate")?;
        if !output.status.success() {
            anyhow::bail!(
                "lockgate {} failed: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn target(&self, user: &str) -> Target {
        Target {
            host: self.facts.host.clone(),
            port: self.facts.port,
            user: user.to_owned(),
            database: self.facts.connection.clone(),
            tls: Trust::Authority(self.facts.ca.clone()),
            application: self.application(),
        }
    }

    async fn log_in(&self, user: &str) -> anyhow::Result<Client> {
        let secret = self.facts.secret(user).with_context(|| format!("find what {user} logs in with"))?;
        Client::connect(&self.target(user), &secret).await.with_context(|| format!("log in as {user}"))
    }

    fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("{}\n{}  {title}\n", "─".repeat(78), self.steps);
    }

    fn claim(&mut self, holds: bool, claim: &str) {
        println!("  {} {claim}", if holds { "✓" } else { "✗" });
        if holds {
            self.held += 1;
        } else {
            self.broken.push(format!("step {}: {claim}", self.steps));
        }
    }

    fn show(&self, error: &tokio_postgres::Error) {
        for line in explained(error).lines() {
            println!("  {line}");
        }
    }

    /// Sends a statement and shows what comes back.
    async fn ask(
        &self,
        who: &str,
        client: &Client,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        println!("  {who}=> {sql};");
        let answer = client.run(sql).await.inspect_err(|error| self.show(error))?;
        for line in answer.shown().lines().filter(|l| !l.is_empty()) {
            println!("  {line}");
        }
        Ok(answer.tables.into_iter().next().map(|t| t.rows).unwrap_or_default())
    }

    /// The rows of a statement that must run.
    async fn rows(
        &mut self,
        who: &str,
        client: &Client,
        sql: &str,
    ) -> anyhow::Result<Vec<Vec<Option<String>>>> {
        match self.ask(who, client, sql).await {
            Ok(rows) => Ok(rows),
            Err(error) if client.is_closed() => Err(error.into()),
            Err(_) => {
                self.claim(false, "the statement runs");
                Ok(Vec::new())
            }
        }
    }

    /// A statement that must be refused, by this rule, with everything a person or program may need.
    async fn blocked(&mut self, who: &str, client: &Client, sql: &str, rule: &str) {
        match self.ask(who, client, sql).await {
            Ok(_) => self.claim(false, &format!("blocked by {rule}")),
            Err(error) => {
                let whole = error.as_db_error().is_some_and(|e| {
                    e.code() == &SqlState::INSUFFICIENT_PRIVILEGE
                        && e.constraint() == Some(rule)
                        && e.detail().is_some_and(|d| d.contains("did not reach the database"))
                        && e.hint().is_some()
                });
                self.claim(
                    whole,
                    &format!(
                        "blocked by {rule}: SQLSTATE 42501, DETAIL and HINT, and the rule as constraint name"
                    ),
                );
            }
        }
    }
}

fn refused(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE || *code == SqlState::FEATURE_NOT_SUPPORTED)
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Every value that must not come through, in any spelling that is tried here.
struct Clear {
    values: HashSet<String>,
    payments: usize,
}

impl Clear {
    async fn read(bo: &Client) -> anyhow::Result<Clear> {
        let mut values = HashSet::new();
        let mut payments = 0;
        for sql in ["select email, card_number from payments", "select email from customers"] {
            let answer = bo.run(sql).await.context("read the clear values as bo")?;
            for row in answer.tables.into_iter().flat_map(|t| t.rows) {
                payments += usize::from(row.len() == 2);
                for value in row.into_iter().flatten() {
                    values.insert(value.to_uppercase());
                    values.insert(value.chars().rev().collect());
                    values.insert(value);
                }
            }
        }
        // An empty set would find no leak anywhere.
        anyhow::ensure!(
            values.len() > 4_000 && payments > 4_000,
            "bo reads e-mails and card numbers in the clear"
        );
        Ok(Clear { values, payments })
    }

    fn in_row(&self, row: &[Option<String>]) -> bool {
        row.iter().flatten().any(|cell| self.values.contains(cell))
    }

    fn in_rows(&self, rows: &[Vec<Option<String>>]) -> bool {
        rows.iter().any(|row| self.in_row(row))
    }

    /// Whether any value stands in a text between characters that cannot be part of one.
    fn in_text(&self, text: &str) -> bool {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '-' | '_')))
            .any(|word| self.values.contains(word))
    }
}
