from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction

from flosse_bus import suppress_changes
from testproject.shop.forms import PRICES
from testproject.shop.models import Customer, Order

NAMES = ["Café Ada", "Bistro Grace", "Corner Linus", "Hotel Margaret", "Studio Radia"]


class Command(BaseCommand):
    help = "Make the demo's user, customers and first orders, where they are missing."

    @transaction.atomic
    def handle(self, **options):
        user, _ = get_user_model().objects.get_or_create(
            username="demo", defaults={"is_staff": True, "is_superuser": True}
        )
        user.set_password("demo")
        user.save()
        with suppress_changes():
            for name in NAMES:
                Customer.objects.get_or_create(name=name)
            Customer.objects.filter(name=NAMES[0]).update(user=user)
            if not Order.objects.exists():
                customers = list(Customer.objects.order_by("pk"))
                for index, (item, price) in enumerate(PRICES.items()):
                    customer = customers[index % len(customers)]
                    Order.objects.create(customer=customer, item=item, total=price)
        self.stdout.write("Seeded.")
