"""Where verdicts go. A new sink is a file here, of the shape of `judgement.sink.Sink`, handed to the guard."""
