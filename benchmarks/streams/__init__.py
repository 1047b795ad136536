"""Token streams of a real language model: what scores tell of wrong answers, what promises hold, and what it costs."""
