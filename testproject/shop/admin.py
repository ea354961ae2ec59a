from django.contrib import admin

from .models import Customer, Label, Order

admin.site.register([Customer, Label])


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["id", "customer", "item", "quantity", "status", "total"]
    list_editable = ["status", "quantity"]
    list_filter = ["status"]
