"""While traffic flows: watching promises, finding drift, following feedback, calibrating anew."""
