from django.conf import settings
from django.db import models

from flosse_bus import publish_changes


@publish_changes(topics=["customers"], fields=["name"])
class Customer(models.Model):
    name = models.CharField(max_length=100)
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL
    )

    def __str__(self) -> str:
        return self.name


class Label(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


@publish_changes(
    topics=["orders", "orders.{pk}", "customers.{customer_id}"],
    fields=["customer", "item", "quantity", "status", "total"],
)
class Order(models.Model):
    class Status(models.TextChoices):
        NEW = "new"
        PAID = "paid"
        PACKED = "packed"
        SENT = "sent"

    customer = models.ForeignKey(Customer, null=True, blank=True, on_delete=models.PROTECT)
    item = models.CharField(max_length=100)
    quantity = models.PositiveIntegerField(default=1)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.NEW)
    total = models.DecimalField(max_digits=9, decimal_places=2)
    labels = models.ManyToManyField(Label, blank=True)
    placed_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.quantity} x {self.item}"


class UrgentOrder(Order):
    class Meta:
        proxy = True
