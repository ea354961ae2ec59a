"""What holds while a view runs, kept for its generator, which runs after it and elsewhere."""

from __future__ import annotations

import contextvars

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext
from django.urls import get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from django.utils import timezone, translation

from ..interrupts import Interrupts, current


class Surroundings:
    """Taken in the view: its context variables, language, time zone and URLs."""

    def __init__(self) -> None:
        self.context = contextvars.copy_context()
        self.interrupts = Interrupts()
        # asgiref keeps these in the context too, but shows them to the view's thread only.
        self._language = translation.get_language()
        self._timezone = timezone.get_current_timezone()
        self._urlconf = get_urlconf()
        self._script_prefix = get_script_prefix()

    def enter(self) -> ThreadSensitiveContext:
        """Let them hold. Called in the context, where the generator is to run, before it does.

        Return what stands for the thread in which async code of the generator has sync code run.
        """
        current.set(self.interrupts)
        if self._language is None:
            translation.deactivate_all()
        else:
            translation.activate(self._language)
        timezone.activate(self._timezone)
        set_urlconf(self._urlconf)
        set_script_prefix(self._script_prefix)
        # Not the threads of the request, which is over.
        mine = ThreadSensitiveContext()
        SyncToAsync.thread_sensitive_context.set(mine)
        AsyncToSync.executors.current = None
        return mine
