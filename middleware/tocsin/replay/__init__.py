"""What would have happened on recorded traffic, and why an alarm was raised."""
