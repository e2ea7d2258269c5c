"""Clients of the world outside: lakehouse, feature store, registry, serving. No decisions here."""
