"""Second opinions: what a judge model thinks of a sample of answers, asked off the response's path."""
