"""Second opinions: what they cost the relay, and what they tell of wrong answers."""
