"""The trees that registrars write, by the names under which people speak of them."""

from mqadmin_sdk.zk import paths

#: Name: root, and how many names below it a node of ours stands.
ROOTS = {
    "clusters": (paths.CLUSTERS, 1),
    "topics": (paths.TOPICS, 1),
    "consumer-groups": (paths.GROUPS, 1),
    "shadow-groups": (paths.SHADOW, 3),
}


def root_of(path: str) -> str:
    """The name of the tree that a node stands in; empty for one beside them all."""
    return next((name for name, (root, _depth) in ROOTS.items() if path.startswith(f"{root}/")), "")


def is_place_of_ours(path: str) -> bool:
    """Whether a node at this path would be one of ours, by where it stands."""
    name = root_of(path)
    return bool(name) and path.removeprefix(f"{ROOTS[name][0]}/").count("/") == ROOTS[name][1] - 1
