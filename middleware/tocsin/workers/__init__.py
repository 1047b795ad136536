"""Several processes behind one port: a supervisor starts them and shows their metrics as one."""
