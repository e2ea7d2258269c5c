"""What starts work. The decisions are made in `flywheel.triggers`."""
