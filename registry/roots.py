"""The trees that registrars write, by the names under which people speak of them."""

from mqadmin_sdk.zk import paths

#: Name: root, and how many names below it a node of ours stands. In the order in which one depends on the other.
ROOTS = {
    "clusters": (paths.CLUSTERS, 1),
    "topics": (paths.TOPICS, 1),
    "consumer-groups": (paths.GROUPS, 1),
    "shadow-groups": (paths.SHADOW, 3),
}
#: Where each root stands, without its name.
PATHS = tuple(root for root, _depth in ROOTS.values())
_PREFIXES = tuple((f"{root}/", root, name) for name, (root, _depth) in ROOTS.items())


def root_of(path: str) -> str:
    """The name of the tree that a node stands in; empty for one beside them all."""
    for prefix, _root, name in _PREFIXES:
        if path.startswith(prefix):
            return name
    return ""


def root_path_of(path: str) -> str | None:
    """Where the root of that tree stands; None for a node beside them all."""
    for prefix, root, _name in _PREFIXES:
        if path.startswith(prefix):
            return root
    return None


def is_place_of_ours(path: str) -> bool:
    """Whether a node at this path would be one of ours, by where it stands."""
    name = root_of(path)
    return bool(name) and path.removeprefix(f"{ROOTS[name][0]}/").count("/") == ROOTS[name][1] - 1
