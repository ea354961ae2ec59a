"""The log: its tables and the functions that read and write them."""

from django.db import migrations

from flosse_bus.contrib.postgres.operations import RunScripts


class Migration(migrations.Migration):
    initial = True
    operations = [
        RunScripts(
            forwards=[
                "0001_tables.sql",
                "0001_positions.sql",
                "0001_reading.sql",
                "0001_publishing.sql",
            ],
            backwards=["0001_drop.sql"],
        )
    ]
