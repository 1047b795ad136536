"""Several processes on one port: a supervisor that starts them, and shows their metrics as one."""
