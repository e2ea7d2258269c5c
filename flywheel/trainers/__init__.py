"""The trainers that come with Flywheel; a domain may bring its own."""
