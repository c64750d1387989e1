"""The words that tasks are given in, and what is kept out of training for good.

Of each family's templates the last ones, after the bar, are never trained on: `holdout_words` draws only those. Of
things and containers the combinations in HOLDOUT are never trained on: `holdout_pairs` draws only those. Both lists
are fixed; figures on them mean nothing once one of them has been trained on.
"""

from __future__ import annotations

import numpy as np

from pi_policy_node.sim.tasks.goals import IN, name_words

# (colour, shape, container): never in training that shape in that colour with that sort of container
HOLDOUT = frozenset({
    ("red", "block", "bowl"), ("red", "ball", "tray"), ("orange", "cylinder", "bin"), ("orange", "brick", "plate"),
    ("yellow", "prism", "bin"), ("yellow", "block", "plate"), ("green", "ball", "bin"), ("green", "brick", "tray"),
    ("blue", "cylinder", "plate"), ("blue", "block", "tray"), ("purple", "prism", "bowl"), ("purple", "ball", "plate"),
    ("white", "brick", "bin"), ("white", "cylinder", "tray"), ("black", "block", "bin"), ("black", "prism", "plate"),
})
# (colour, shape): never in training that shape in that colour to be stacked, moved or brought
HOLDOUT_THINGS = frozenset({
    ("green", "cylinder"), ("purple", "block"), ("orange", "prism"), ("yellow", "brick"), ("blue", "ball"),
})

WORDS = {  # family -> templates; after the bar: kept out of training
    "put": (
        "put the {thing} {in} the {container}", "place the {thing} {in} the {container}",
        "put the {thing} into the {container}", "pick up the {thing} and put it {in} the {container}",
        "move the {thing} to the {container}", "the {thing} goes {in} the {container}",
        "take the {thing} and place it {in} the {container}", "please put the {thing} {in} the {container}",
        "|", "drop the {thing} {in} the {container}", "grab the {thing} and put it {in} the {container}",
        "i want the {thing} {in} the {container}",
    ),
    "stack": (
        "stack the {thing} on the {other}", "put the {thing} on top of the {other}",
        "place the {thing} on the {other}", "put the {thing} on the {other}",
        "stack the {thing} on top of the {other}",
        "|", "set the {thing} on top of the {other}", "pick up the {thing} and stack it on the {other}",
    ),
    "move left": (
        "move the {thing} to the left of the {other}", "put the {thing} left of the {other}",
        "place the {thing} to the left of the {other}", "put the {thing} on the left side of the {other}",
        "|", "set the {thing} to the left of the {other}", "bring the {thing} to the left side of the {other}",
    ),
    "move right": (
        "move the {thing} to the right of the {other}", "put the {thing} right of the {other}",
        "place the {thing} to the right of the {other}", "put the {thing} on the right side of the {other}",
        "|", "set the {thing} to the right of the {other}", "bring the {thing} to the right side of the {other}",
    ),
    "move next": (
        "move the {thing} next to the {other}", "put the {thing} next to the {other}",
        "place the {thing} beside the {other}", "put the {thing} beside the {other}",
        "|", "set the {thing} next to the {other}", "bring the {thing} next to the {other}",
    ),
    "drawer open": (
        "open the drawer", "pull the drawer open", "please open the drawer", "pull out the drawer",
        "|", "slide the drawer open", "get the drawer open",
    ),
    "drawer close": (
        "close the drawer", "push the drawer closed", "please close the drawer", "shut the drawer",
        "|", "slide the drawer closed", "push the drawer in",
    ),
    "drive": (
        "drive to the {place}", "go to the {place}", "move to the {place}", "please go to the {place}",
        "|", "head to the {place}", "take yourself to the {place}",
    ),
    "bring": (
        "bring the {thing} from the {source} to the {place}", "take the {thing} from the {source} to the {place}",
        "bring the {thing} to the {place}", "carry the {thing} to the {place}",
        "move the {thing} from the {source} to the {place}",
        "|", "get the {thing} from the {source} and put it on the {place}", "take the {thing} over to the {place}",
    ),
    "clear": (
        "clear the table", "put everything in the {container}", "tidy up the table", "clean up the table",
        "put all the things in the {container}",
        "|", "tidy the table", "everything goes in the {container}",
    ),
    "sort": (
        "sort the things by colour", "sort by colour", "put everything with its own colour",
        "sort the table by colour",
        "|", "sort everything by its colour", "put each thing with its own colour",
    ),
    "gather": (
        "put everything {colour} in the {container}", "put all the {colour} things in the {container}",
        "everything {colour} goes in the {container}", "place all {colour} things in the {container}",
        "|", "drop everything {colour} in the {container}", "collect all the {colour} things in the {container}",
    ),
}


def templates(key: str, split: str) -> tuple[str, ...]:
    """The templates that a split draws from."""
    bar = WORDS[key].index("|")
    return WORDS[key][bar + 1:] if split == "holdout_words" else WORDS[key][:bar]


def say(rng: np.random.Generator, key: str, split: str, **names: str) -> str:
    """An instruction. Names of things are those of the scene ("red_block"); "place" and "colour" are words."""
    known = templates(key, split)
    template = known[int(rng.integers(len(known)))]
    words = {k: name_words(v) for k, v in names.items()}
    if "container" in words:
        words["in"] = IN[words["container"].split()[-1]]
        if words["in"] == "on":
            template = template.replace("into the {container}", "on the {container}").replace(
                " in the {container}", " on the {container}")
    return template.format(**words)


def vocabulary() -> set[str]:
    """Every word that instructions and subtasks are made of, the held-out ones as well."""
    from pi_policy_node.sim.world import COLOURS, KINDS, PLACES

    words = {w for known in WORDS.values() for t in known for w in t.split() if "{" not in w and w != "|"}
    return words | {*COLOURS, *KINDS, *PLACES, "in", "on", "pick", "up", "it", "done", "next", "left", "right", "of"}
