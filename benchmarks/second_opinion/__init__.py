"""Second opinions: their cost to the relay, what they tell of wrong answers, and whether they show a change."""
