"""From a `ModelSpec` to the assets of its life. Adding a model changes nothing here."""
