"""Streams as views of Django REST framework: an app, for its page and its script."""
