from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from flosse_bus import bus

from .forms import OrderForm
from .models import Customer, Order

SHOWN = 40


def board(request):
    return render(request, "shop/board.html", {"live": _live(), "form": OrderForm()})


def board_data(request):
    """What the page needs to start over after a stream-reset."""
    return JsonResponse(_live())


@require_POST
def place_order(request):
    form = OrderForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=400)
    form.save()
    if request.headers.get("Accept") == "application/json":
        return HttpResponse(status=204)
    return redirect("board")


@login_required
def customer(request, customer_id):
    customer = _own(request, customer_id)
    context = {"customer": customer, "live": _live(customer)}
    return render(request, "shop/customer.html", context)


@login_required
def customer_data(request, customer_id):
    return JsonResponse(_live(_own(request, customer_id)))


def _own(request, customer_id):
    customer = get_object_or_404(Customer, pk=customer_id)
    if not (request.user.is_staff or customer.user_id == request.user.pk):
        raise PermissionDenied
    return customer


def _live(customer=None):
    topic = "orders" if customer is None else f"customers.{customer.pk}"
    # The cursor comes first: a change between the two is then shown *and* delivered, never lost.
    cursor = bus.cursor(topic)
    orders = Order.objects.order_by("-pk")
    if customer is not None:
        orders = orders.filter(customer=customer)
    return {
        "cursor": cursor,
        "topic": topic,
        "customer": None if customer is None else customer.pk,
        "customers": {str(pk): name for pk, name in Customer.objects.values_list("pk", "name")},
        "orders": [
            {
                "pk": order.pk,
                "customer": order.customer_id,
                "item": order.item,
                "quantity": order.quantity,
                "status": order.status,
                "total": str(order.total),
            }
            for order in orders[:SHOWN]
        ],
    }
