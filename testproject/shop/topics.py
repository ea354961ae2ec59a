"""Who may read what. Django finds this file as it finds admin.py."""

from flosse_bus import topic

from .models import Customer


@topic("customers.{customer_id}")
def can_read_customer(request, customer_id):
    if request.user.is_staff:
        return True
    if not customer_id.isdecimal() or not request.user.is_authenticated:
        return False
    return Customer.objects.filter(pk=customer_id, user=request.user).exists()
