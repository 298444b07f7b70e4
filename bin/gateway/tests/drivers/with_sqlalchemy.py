"""SQLAlchemy 2 over psycopg 3, as an application uses it: reflection, sessions, relationships, upserts, streaming, savepoints.

Prints what it saw. Through the gateway three columns of `customers` are masked: the output must be the same as direct but for them,
and nothing may be refused. Values of masked columns begin with `secret-`, and are compared by equality only.
"""

import os

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import insert as pg_insert

URL = sa.URL.create(
    "postgresql+psycopg",
    os.environ["PGUSER"],
    os.environ["PGPASSWORD"],
    os.environ["PGHOST"],
    int(os.environ["PGPORT"]),
    os.environ["PGDATABASE"],
)


def show(what, value):
    print(f"{what}: {value!r}", flush=True)


class Base(orm.DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(80), index=True)
    email: orm.Mapped[str] = orm.mapped_column(sa.String(120), unique=True)
    ssn: orm.Mapped[str | None]
    card: orm.Mapped[str | None]
    city: orm.Mapped[str | None] = orm.mapped_column(comment="where they live")
    created: orm.Mapped[str] = orm.mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    orders: orm.Mapped[list["Order"]] = orm.relationship(back_populates="customer", order_by="Order.id")


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (sa.CheckConstraint("amount >= 0", name="amount_is_positive"),)
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    customer_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("customers.id", ondelete="CASCADE"))
    amount: orm.Mapped[int]
    state: orm.Mapped[str] = orm.mapped_column(sa.Enum("open", "paid", "sent", name="order_state"))
    note: orm.Mapped[dict | None] = orm.mapped_column(sa.JSON)
    customer: orm.Mapped[Customer] = orm.relationship(back_populates="orders")


def reflection(engine):
    inspector = sa.inspect(engine)
    show("tables", inspector.get_table_names())
    for table in ("customers", "orders"):
        show("columns", [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)])
        show("primary key", inspector.get_pk_constraint(table))
        show("foreign keys", inspector.get_foreign_keys(table))
        show("indexes", inspector.get_indexes(table))
        show("unique", inspector.get_unique_constraints(table))
        show("checks", inspector.get_check_constraints(table))
        show("comment", inspector.get_table_comment(table))
    show("enums", inspector.get_enums())
    show("views", inspector.get_view_names())
    metadata = sa.MetaData()
    metadata.reflect(engine)
    show("reflected", sorted(metadata.tables))


def writes(session):
    states = ["open", "paid", "sent"]
    for n in range(1, 21):
        customer = Customer(
            name=f"name {n}", email=f"secret-{n}@example.org", ssn=f"secret-ssn-{n}", card=f"secret-4111-{n}", city="ABC"[n % 3]
        )
        customer.orders = [Order(amount=n * i, state=states[i % 3], note={"n": i}) for i in range(n % 4)]
        session.add(customer)
    session.commit()
    session.execute(sa.insert(Order), [{"customer_id": n, "amount": n, "state": "open"} for n in range(1, 21)])
    upsert = pg_insert(Customer).values(id=1, name="name 1", email="secret-1@example.org", city="Z")
    upsert = upsert.on_conflict_do_update(index_elements=[Customer.email], set_={"city": upsert.excluded.city})
    show("upsert", session.execute(upsert.returning(Customer.id, Customer.city)).all())
    show("update", session.execute(sa.update(Order).where(Order.amount == 0).values(state="sent")).rowcount)
    show("delete", session.execute(sa.delete(Order).where(Order.id == 1)).rowcount)
    session.commit()


def reads(session):
    one = session.get(Customer, 3)
    show("get", (one.id, one.name, one.email, one.ssn, one.city))
    by_email = session.scalars(sa.select(Customer).where(Customer.email == "secret-7@example.org")).one()
    show("by e-mail", (by_email.id, by_email.email, [o.amount for o in by_email.orders]))
    show("in", session.scalars(sa.select(Customer.id).where(Customer.id.in_([1, 5, 9])).order_by(Customer.id)).all())
    for load in (orm.joinedload, orm.selectinload, orm.subqueryload):
        query = sa.select(Customer).options(load(Customer.orders)).where(Customer.city == "A").order_by(Customer.id)
        found = session.scalars(query).unique().all()
        show(load.__name__, [(c.id, c.email, len(c.orders)) for c in found])
        session.expire_all()
    total = sa.func.sum(Order.amount).label("total")
    query = sa.select(Customer.name, total).join(Order).group_by(Customer.id, Customer.name).order_by(total.desc(), Customer.name).limit(5)
    show("totals", session.execute(query).all())
    show("count", session.scalar(sa.select(sa.func.count()).select_from(Customer)))
    show("exists", session.scalar(sa.select(sa.exists().where(Order.amount > 50))))
    page = sa.select(Customer.id, Customer.name, Customer.email).order_by(Customer.name).limit(4).offset(4)
    show("page", session.execute(page).all())
    cte = sa.select(Order.customer_id, sa.func.count().label("n")).group_by(Order.customer_id).cte("busy")
    show("cte", session.execute(sa.select(Customer.name, cte.c.n).join(cte, cte.c.customer_id == Customer.id).order_by(Customer.id)).all())
    rank = sa.func.row_number().over(partition_by=Order.customer_id, order_by=Order.amount.desc()).label("rank")
    ranked = sa.select(Order.customer_id, Order.amount, rank).subquery()
    show("window", session.execute(sa.select(ranked).where(ranked.c.rank == 1).order_by(ranked.c.customer_id)).all()[:5])
    alias = orm.aliased(Customer)
    pairs = sa.select(Customer.id, alias.id).join(alias, Customer.city == alias.city).where(Customer.id < alias.id).order_by(Customer.id, alias.id)
    show("self join", session.execute(pairs).all()[:5])
    union = sa.union_all(sa.select(Customer.name.label("n")).where(Customer.id < 3), sa.select(sa.cast(Order.state, sa.Text)).where(Order.id < 4))
    show("union", sorted(session.scalars(union).all()))
    show("for update", session.scalars(sa.select(Customer).where(Customer.id == 2).with_for_update()).one().name)
    session.rollback()


def streaming(engine):
    with engine.connect() as connection:
        rows = connection.execution_options(yield_per=5).execute(sa.select(Customer.__table__.c.id, Customer.email).order_by(Customer.id))
        show("stream", [tuple(r) for part in rows.partitions() for r in part][-2:])


def transactions(session):
    try:
        with session.begin_nested():
            session.add(Customer(name="twice", email="secret-1@example.org"))
            session.flush()
    except sa.exc.IntegrityError as error:
        show("integrity", (type(error.orig).__name__, error.orig.sqlstate, error.orig.diag.constraint_name))
    session.add(Customer(name="after the savepoint", email="secret-99@example.org"))
    session.commit()
    show("after", session.scalar(sa.select(sa.func.max(Customer.id))) > 20)


engine = sa.create_engine(URL)
Base.metadata.create_all(engine)
Base.metadata.create_all(engine)  # the second time it looks, and finds everything
reflection(engine)
with orm.Session(engine) as session:
    writes(session)
    reads(session)
    transactions(session)
streaming(engine)
Base.metadata.drop_all(engine)
show("gone", sa.inspect(engine).get_table_names())
