"""Django's ORM over psycopg 3: migrations of its own applications, models, relations, introspection, server-side cursors.

Prints what it saw. Through the gateway three columns of `customers` are masked: the output must be the same as direct but for them,
and nothing may be refused. Values of masked columns begin with `secret-`, and are compared by equality only.
"""

import io
import os
import sys
import types

import django
from django.conf import settings

# The models below belong to an application; this file is all there is of it.
shop = types.ModuleType("shop")
shop.__path__ = [os.path.dirname(os.path.abspath(__file__))]
sys.modules["shop"] = shop

settings.configure(
    SECRET_KEY="x",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "shop"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ["PGUSER"],
            "PASSWORD": os.environ["PGPASSWORD"],
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
        }
    },
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, models, transaction  # noqa: E402
from django.db.models import Avg, Count, Exists, F, OuterRef, Prefetch, Q, Subquery, Sum, Window  # noqa: E402
from django.db.models.functions import Coalesce, RowNumber, Upper  # noqa: E402


def show(what, value):
    print(f"{what}: {value!r}", flush=True)


class Customer(models.Model):
    name = models.CharField(max_length=80)
    email = models.CharField(max_length=120, unique=True)
    ssn = models.CharField(max_length=20, null=True)
    card = models.CharField(max_length=20, null=True)
    city = models.CharField(max_length=40, null=True, db_index=True)

    class Meta:
        app_label = "shop"
        db_table = "customers"


class Order(models.Model):
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="orders")
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    note = models.JSONField(default=dict)
    paid = models.BooleanField(default=False)

    class Meta:
        app_label = "shop"
        db_table = "orders"
        constraints = [models.CheckConstraint(condition=Q(amount__gte=0), name="amount_is_positive")]


def migrations():
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        editor.create_model(Customer)
        editor.create_model(Order)
    with connection.schema_editor() as editor:
        field = models.IntegerField(default=0)
        field.set_attributes_from_name("points")
        editor.add_field(Order, field)
        editor.remove_field(Order, field)
    show("tables", sorted(connection.introspection.table_names()))
    with connection.cursor() as cursor:
        for table in ("customers", "orders"):
            show("description", [(d.name, d.type_code, d.null_ok) for d in connection.introspection.get_table_description(cursor, table)])
            show("relations", connection.introspection.get_relations(cursor, table))
            constraints = connection.introspection.get_constraints(cursor, table)
            show("constraints", sorted((v["columns"] or [], v["primary_key"], v["unique"], v["check"]) for v in constraints.values()))
            show("sequences", connection.introspection.get_sequences(cursor, table))
    out = io.StringIO()
    call_command("inspectdb", "customers", "orders", stdout=out)
    show("inspectdb", [line.strip() for line in out.getvalue().splitlines() if " = models." in line])


def writes():
    customers = Customer.objects.bulk_create(
        Customer(name=f"name {n}", email=f"secret-{n}@example.org", ssn=f"secret-{n}", card=f"secret-4111-{n}", city="ABC"[n % 3])
        for n in range(1, 21)
    )
    show("ids", [c.pk for c in customers][:3])
    Order.objects.bulk_create(Order(customer_id=n, amount=n * i, note={"n": i}) for n in range(1, 21) for i in range(n % 4))
    show("get_or_create", Customer.objects.get_or_create(email="secret-5@example.org", defaults={"name": "x"})[1])
    show("get_or_create", Customer.objects.get_or_create(email="secret-77@example.org", defaults={"name": "y"})[1])
    show("update_or_create", Customer.objects.update_or_create(email="secret-5@example.org", defaults={"city": "Z"})[1])
    one = Customer.objects.get(pk=6)
    one.city = "Q"
    one.save(update_fields=["city"])
    show("update", Order.objects.filter(amount__gt=20).update(paid=True))
    show("F", Order.objects.filter(pk=1).update(amount=F("amount") + 1))
    show("bulk_update", Order.objects.bulk_update([Order(pk=2, paid=True), Order(pk=3, paid=True)], ["paid"]))
    show("delete", Order.objects.filter(pk=4).delete()[0])
    show("upsert", len(Customer.objects.bulk_create(
        [Customer(name="again", email="secret-5@example.org")],
        update_conflicts=True, unique_fields=["email"], update_fields=["name"],
    )))


def reads():
    one = Customer.objects.get(pk=3)
    show("get", (one.name, one.email, one.ssn, one.card))
    show("by e-mail", Customer.objects.filter(email="secret-7@example.org").values_list("id", "email").get())
    show("exists", Customer.objects.filter(city="A").exists())
    show("count", Customer.objects.count())
    show("page", [(c.id, c.email) for c in Customer.objects.order_by("name")[4:8]])
    show("select_related", [(o.id, o.customer.email) for o in Order.objects.select_related("customer").order_by("id")[:3]])
    found = Customer.objects.filter(city="A").order_by("id").prefetch_related(Prefetch("orders", Order.objects.order_by("id")))
    show("prefetch", [(c.email, [str(o.amount) for o in c.orders.all()]) for c in found])
    show("annotate", list(Customer.objects.annotate(n=Count("orders"), total=Coalesce(Sum("orders__amount"), 0, output_field=models.DecimalField())).order_by("-total", "id").values_list("id", "n", "total")[:5]))
    show("aggregate", Order.objects.aggregate(Avg("amount"), Count("customer", distinct=True)))
    paid = Order.objects.filter(customer=OuterRef("pk"), paid=True)
    show("subquery", list(Customer.objects.annotate(has=Exists(paid), top=Subquery(paid.order_by("-amount").values("amount")[:1])).filter(has=True).order_by("id").values_list("id", "top")))
    show("window", list(Order.objects.annotate(rank=Window(RowNumber(), partition_by=F("customer"), order_by=F("id").asc())).order_by("id").values_list("id", "rank")[:5]))
    show("upper", list(Customer.objects.annotate(up=Upper("name")).order_by("id").values_list("up", flat=True)[:2]))
    show("or", Customer.objects.filter(Q(city="B") | Q(name__startswith="name 1")).exclude(pk=1).count())
    show("json", Order.objects.filter(note__n=2).count())
    show("distinct", sorted(Customer.objects.exclude(city=None).values_list("city", flat=True).distinct()))
    show("union", sorted(Customer.objects.filter(pk=1).values_list("name").union(Customer.objects.filter(pk=2).values_list("name"))))
    show("iterator", [c.email for c in Customer.objects.order_by("pk").iterator(chunk_size=5)][-2:])
    show("earliest", Order.objects.earliest("id").pk)
    with transaction.atomic():
        show("for update", Customer.objects.select_for_update().get(pk=2).name)
    show("raw", [c.email for c in Customer.objects.raw("select * from customers where id = %s", [4])])


def transactions():
    try:
        with transaction.atomic():
            Customer.objects.create(name="twice", email="secret-1@example.org")
    except IntegrityError as error:
        show("integrity", type(error.__cause__).__name__)
    with transaction.atomic():
        Customer.objects.create(name="kept", email="secret-100@example.org")
        try:
            with transaction.atomic():
                Customer.objects.create(name="lost", email="secret-101@example.org")
                raise ValueError
        except ValueError:
            pass
    show("savepoint", sorted(Customer.objects.filter(name__in=["kept", "lost"]).values_list("name", flat=True)))
    user = User.objects.create_user("ana", password="not a secret")
    user.groups.add(Group.objects.create(name="support"))
    show("auth", (user.has_perm("auth.add_user"), list(user.groups.values_list("name", flat=True))))


migrations()
writes()
reads()
transactions()
