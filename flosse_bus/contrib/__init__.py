"""Django apps that some backends need."""
