from django.core.management.base import BaseCommand, CommandError

from flosse_bus import bus
from testproject.shop import traffic
from testproject.shop.models import Customer


class Command(BaseCommand):
    help = "Keep changing orders, at a given rate, until interrupted."

    def add_arguments(self, parser):
        parser.add_argument("--rate", type=float, default=2.0, help="changes a second (2)")
        parser.add_argument("--count", type=int, help="stop after so many changes")
        parser.add_argument("--seed", type=int, help="make the same changes again")

    def handle(self, *, rate, count, seed, **options):
        if rate <= 0:
            raise CommandError("--rate: expected a number above 0.")
        if not Customer.objects.exists():
            raise CommandError("There are no customers to order anything. Run 'manage.py seed'.")
        if not bus.backend.crosses_processes:
            self.stderr.write(
                "The memory backend does not leave this process: a server that runs beside it "
                "will not stream these changes. ('make demo' makes its traffic in the server.)"
            )
        try:
            done = traffic.run(rate=rate, count=count, seed=seed)
        except KeyboardInterrupt:
            return
        self.stdout.write(f"{done} changes made.")
