"""Second opinions: their cost to the relay, what they tell of wrong answers, and how soon of a change."""
