"""The command line: main.py is the process's edge, commands.py the table, then one file a command."""
