"""Make tables, users, and so many sessions of them; print a Cookie header's value for each."""

import sys
from datetime import timedelta

import django

django.setup()

from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
)
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.utils import timezone
from django.utils.crypto import get_random_string

USERS = 100

call_command("migrate", verbosity=0)
model = get_user_model()
for number in range(USERS):
    model.objects.get_or_create(username=f"user{number}", defaults={"password": "!"})
users = list(model.objects.all())
store = SessionStore()
sessions = []
for number in range(int(sys.argv[1])):
    user = users[number % USERS]
    data = {
        SESSION_KEY: str(user.pk),
        BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend",
        HASH_SESSION_KEY: user.get_session_auth_hash(),
    }
    sessions.append(
        Session(
            session_key=get_random_string(32, "abcdefghijklmnopqrstuvwxyz0123456789"),
            session_data=store.encode(data),
            expire_date=timezone.now() + timedelta(days=7),
        )
    )
Session.objects.bulk_create(sessions, batch_size=1000)
for session in sessions:
    print(f"sessionid={session.session_key}")
