// Sequelize, Knex and Drizzle over node-postgres, as applications use them.
//
// One thing is left out: Sequelize makes ENUM types in a DO block, and code is refused while columns are masked. Such migrations
// are for an identity that no mask touches.
//
// Prints what it saw. Through the gateway three columns of `customers` are masked: the output must be the same as direct but for
// them, and nothing may be refused. Values of masked columns begin with `secret-`, and are compared by equality only.

const { Sequelize, DataTypes, Op } = require("sequelize");
const knexFor = require("knex");
const { drizzle } = require("drizzle-orm/node-postgres");
const { pgTable, serial, text, integer } = require("drizzle-orm/pg-core");
const { eq, desc, sql, and, gt, count } = require("drizzle-orm");
const { Pool } = require("pg");

const show = (what, value) => console.log(`${what}: ${JSON.stringify(value)}`);
const tls = process.env.PGSSLMODE !== "disable";
const ssl = tls ? { ca: require("fs").readFileSync(process.env.PGSSLROOTCERT) } : false;
const { PGHOST: host, PGUSER: user, PGPASSWORD: password, PGDATABASE: database } = process.env;
const port = Number(process.env.PGPORT);

async function sequelize() {
  const db = new Sequelize(database, user, password, { host, port, dialect: "postgres", logging: false, dialectOptions: { ssl } });
  const plain = { timestamps: false, underscored: true };
  const Customer = db.define("customer", {
    name: DataTypes.TEXT, email: { type: DataTypes.STRING, unique: true }, ssn: DataTypes.STRING, card: DataTypes.STRING, city: DataTypes.STRING,
  }, { ...plain, tableName: "customers" });
  const Order = db.define("order", { amount: DataTypes.INTEGER, state: DataTypes.STRING }, { ...plain, tableName: "orders" });
  Customer.hasMany(Order);
  Order.belongsTo(Customer);
  await db.sync();
  await Customer.bulkCreate([...Array(12).keys()].map((n) => ({
    name: `name ${n}`, email: `secret-${n}@example.org`, ssn: `secret-${n}`, card: `secret-4111-${n}`, city: "ABC"[n % 3],
  })));
  await Order.bulkCreate([...Array(24).keys()].map((n) => ({ amount: n, state: n % 2 ? "open" : "paid", customerId: (n % 12) + 1 })));
  show("findByPk", await Customer.findByPk(3));
  show("findOne", await Customer.findOne({ where: { email: "secret-5@example.org" } }));
  show("findOrCreate", (await Customer.findOrCreate({ where: { email: "secret-5@example.org" }, defaults: { name: "x" } }))[1]);
  show("include", (await Customer.findAll({ where: { city: "A" }, include: Order, order: [["id", "ASC"], [Order, "id", "ASC"]] })).map((c) => [c.email, c.orders.map((o) => o.amount)]));
  show("page", await Customer.findAndCountAll({ order: [["name", "DESC"]], limit: 3, offset: 3 }));
  show("totals", await Order.findAll({ attributes: ["customerId", [db.fn("sum", db.col("amount")), "total"]], group: ["customerId"], order: [["customerId", "ASC"]], raw: true }));
  show("or", await Customer.count({ where: { [Op.or]: [{ city: "B" }, { id: { [Op.gt]: 10 } }] } }));
  await db.transaction(async (transaction) => {
    show("update", await Customer.update({ city: "Z" }, { where: { id: 2 }, returning: true, transaction }));
  });
  show("upsert", (await Customer.upsert({ id: 2, name: "again", email: "secret-1@example.org" }))[0].email);
  show("describe", Object.keys(await db.getQueryInterface().describeTable("customers")));
  show("indexes", (await db.getQueryInterface().showIndex("customers")).map((i) => i.name));
  await db.close();
}

async function knex() {
  const db = knexFor({ client: "pg", connection: { host, port, user, password, database, ssl } });
  show("hasTable", await db.schema.hasTable("customers"));
  show("columnInfo", Object.keys(await db("customers").columnInfo()));
  show("first", await db("customers").where({ id: 4 }).first());
  show("join", await db("orders as o").join("customers as c", "c.id", "o.customer_id").select("c.email", "o.amount").orderBy("o.id").limit(3));
  show("having", await db("orders").select("customer_id").sum("amount as total").groupBy("customer_id").havingRaw("sum(amount) > ?", [20]).orderBy("customer_id"));
  show("insert", await db("customers").insert({ name: "k", email: "secret-k@example.org" }).returning(["name", "email"]));
  show("with", await db.with("big", db("orders").where("amount", ">", 20)).select("amount").from("big").orderBy("amount"));
  await db.transaction(async (trx) => {
    await trx("orders").where({ amount: 3 }).update({ state: "paid" });
    show("locked", (await trx("orders").where({ amount: 3 }).forUpdate().first()).state);
  });
  const names = [];
  for await (const row of db("customers").select("name", "email").orderBy("id").stream()) names.push(row);
  show("stream", names.slice(-2));
  await db.destroy();
}

async function drizzled() {
  const pool = new Pool({ host, port, user, password, database, ssl });
  const db = drizzle({ client: pool });
  const customers = pgTable("customers", { id: serial().primaryKey(), name: text(), email: text(), ssn: text(), card: text(), city: text() });
  const orders = pgTable("orders", { id: serial().primaryKey(), amount: integer(), customerId: integer("customer_id") });
  show("select", await db.select().from(customers).where(eq(customers.id, 6)));
  show("by e-mail", await db.select({ id: customers.id }).from(customers).where(eq(customers.email, "secret-7@example.org")));
  show("left join", await db.select({ name: customers.name, email: customers.email, amount: orders.amount }).from(customers)
    .leftJoin(orders, eq(orders.customerId, customers.id)).where(and(eq(customers.city, "B"), gt(orders.amount, 10))).orderBy(desc(orders.amount)));
  show("count", await db.select({ n: count() }).from(orders));
  show("group", await db.select({ city: customers.city, n: sql`count(*)::int` }).from(customers).groupBy(customers.city).orderBy(customers.city));
  show("insert", await db.insert(customers).values({ name: "d", email: "secret-d@example.org" }).onConflictDoNothing().returning());
  await db.transaction(async (tx) => {
    show("update", await tx.update(customers).set({ city: "D" }).where(eq(customers.name, "d")).returning({ city: customers.city, email: customers.email }));
  });
  const prepared = db.select({ name: customers.name, ssn: customers.ssn }).from(customers).where(eq(customers.id, sql.placeholder("id"))).prepare("one");
  show("prepared", [await prepared.execute({ id: 1 }), await prepared.execute({ id: 2 })]);
  show("delete", await db.delete(orders).where(gt(orders.amount, 20)).returning({ id: orders.id }));
  await pool.end();
}

(async () => {
  await sequelize();
  await knex();
  await drizzled();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
