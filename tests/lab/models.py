"""One model for each way in which a row can be unlike the others."""

import uuid

import django
from django.db import models


class Tag(models.Model):
    name = models.CharField(max_length=20)


class Place(models.Model):
    name = models.CharField(max_length=50)
    owner = models.IntegerField(null=True)
    tags = models.ManyToManyField(Tag, related_name="places")


class Restaurant(Place):
    stars = models.IntegerField(default=0)


class Stall(Place):
    code = models.CharField(max_length=10, primary_key=True)
    place = models.OneToOneField(Place, on_delete=models.CASCADE, parent_link=True)


class Tool(models.Model):
    serial = models.BigAutoField(primary_key=True)
    use = models.CharField(max_length=50)
    tool_tags = models.ManyToManyField(Tag, related_name="tools")


class FoodTruck(Place, Tool):
    pass


class Person(models.Model):
    friends = models.ManyToManyField("self")


class Kind(models.TextChoices):
    PLAIN = "plain"
    FANCY = "fancy"


class Document(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    slug = models.CharField(max_length=50, default="x")
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.PLAIN)
    count = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    day = models.DateField(null=True)
    at = models.DateTimeField(null=True)
    address = models.GenericIPAddressField(null=True)
    ratio = models.FloatField(default=0.0)
    flag = models.BooleanField(default=False)
    file = models.FileField(null=True)
    place = models.ForeignKey(Place, null=True, on_delete=models.SET_NULL)


class Blob(models.Model):
    content = models.BinaryField()


class Abstract(models.Model):
    class Meta:
        abstract = True


if django.VERSION >= (5, 0):

    class Square(models.Model):
        side = models.IntegerField()
        area = models.GeneratedField(
            expression=models.F("side") * models.F("side"),
            output_field=models.IntegerField(),
            db_persist=True,
        )
