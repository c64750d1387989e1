"""What `./pi VERB` does, one module per verb: HELP (a line), add_arguments(parser), run(args) -> exit status.

A module with PASSES_ON = True gets every argument it did not declare in `args.rest`. Modules are imported only when
their verb is used; raise CommandError to end with one clear line.
"""


class CommandError(Exception):
    """Something the person at the shell can mend: the message says what is wrong and what would be right."""
