from decimal import Decimal

from django import forms

from .models import Order

PRICES = {
    "Espresso machine": Decimal("349.00"),
    "Grinder": Decimal("129.50"),
    "Kettle": Decimal("58.90"),
    "Filter papers": Decimal("6.40"),
    "House blend, 1 kg": Decimal("24.80"),
    "Cup and saucer": Decimal("14.00"),
}


class OrderForm(forms.ModelForm):
    item = forms.ChoiceField(choices=[(item, item) for item in PRICES])

    class Meta:
        model = Order
        fields = ["customer", "item", "quantity"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["customer"].required = True
        self.fields["quantity"].min_value = 1

    def save(self, commit=True):
        self.instance.total = PRICES[self.instance.item] * self.instance.quantity
        return super().save(commit)
