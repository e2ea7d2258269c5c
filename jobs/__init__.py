"""What can be launched: named jobs, their schedules, and the demo that turns the wheel once."""
